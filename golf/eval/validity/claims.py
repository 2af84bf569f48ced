"""T and S: what a submission states of its seeds, against limits, logs and the record it wants to beat."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from golf.eval.validity.verdict import Verdict, beside_the_point, failed, passed, unchecked

SEEDS = 3
# A record has to win by this, at this chance of being luck.
MARGIN_NATS, MARGIN_P = 0.005, 0.01
EXACT = 1e-6
RESCORED = 1e-5  # another processor adds up in another order
# Training losses of two seeds, at so many steps or more, that are equal or apart by one number, are one seed's.
COPIED_STEPS = 5
FINE_CLOCK = 6  # characters of a reading: 59.123, 118812
# How far a step's average time and the clock may be apart: warm-up steps are sometimes left out of one of them.
AVERAGE_OFF = 0.05
CLOCK_DIGIT = 0.1  # seconds: one line of a log rounds the clock to a tenth, the next says it in milliseconds
# Quantizing does not help, and nothing legal adapts by as much: what is better than this is looked at.
QUANTIZED_BETTER = 0.001

FINAL = re.compile(r"^(?:final_\S+|quantized_ttt_phased)\b.*?val_bpb:\s*([-\d.naif]+)", re.M)
FINAL_LOSS = re.compile(r"^(?:final_\S+|quantized_ttt_phased)\b.*?val_loss:\s*([-\d.naif]+)", re.M)
SIZE = re.compile(r"^Total submission size[^:]*:\s*([\d,_]+) bytes", re.M)
STEP = re.compile(r"^step:\s*(\d+)(?:/\d+)?\b.*?train_time:\s*([\d.]+)(ms|s)", re.M)
STOP = re.compile(r"^(?:stopping\w*):.*?train_time:\s*([\d.]+)(ms|s)", re.M)
LOSS = re.compile(r"^step:\s*(\d+)\b.*?train_loss:\s*([\d.]+)", re.M)
AVERAGE = re.compile(r"^step:\s*(\d+)\b.*?train_time:\s*([\d.]+)(ms|s)\b.*?step_avg:\s*([\d.]+)(ms|s)", re.M)
SOURCE = re.compile(r"source_sha256:\s*([0-9a-f]{64})")


@dataclass(frozen=True)
class Seed:
    """What is stated of one seed; None where nothing is. Seconds, nats per token, bits per byte."""

    seed: int
    val_loss: float | None = None
    val_bpb: float | None = None
    tokens: int | None = None
    bytes: int | None = None
    bytes_total: int | None = None
    train_seconds: float | None = None
    eval_seconds: float | None = None
    unquantized: float | None = None


def clock(check: str, what: str, spent: Mapping[int, float], limit: float | None) -> Verdict:
    """T1 or T2: the longest over seeds, of what is stated and of what logs and our own clock say."""
    if not spent:
        return unchecked(check, f"neither results nor logs say how long {what} took")
    none = next((seed for seed, value in spent.items() if not value > 0), None)
    if none is not None:
        return failed(check, f"{what} of seed {none} is said to have taken {spent[none]} s", seed=none,
                      numbers=[spent[none], 0.0])  # fmt: skip
    seed = max(spent, key=spent.__getitem__)
    if limit is None:
        return beside_the_point(check, f"the track sets no limit; {what} took {spent[seed]:.1f} s")
    if spent[seed] > limit:
        why = f"{what} of seed {seed} took {spent[seed]:.2f} s, {spent[seed] - limit:.2f} over the {limit:.0f} s"
        return failed(check, why, seed=seed, numbers=[spent[seed], limit])
    return passed(check, f"{what} took {spent[seed]:.1f} of {limit:.0f} s (the slowest of {len(spent)} readings)")


def train_seconds(log: str) -> list[float]:
    """Every reading of the training clock in a log, in seconds, in the order of its lines."""
    found = [(match.start(), match[match.lastindex - 1], match[match.lastindex]) for match in STEP.finditer(log)]
    found += [(match.start(), match[1], match[2]) for match in STOP.finditer(log)]
    return [float(value) / (1000 if unit == "ms" else 1) for _, value, unit in sorted(found)]


def seeds(stated: Sequence[int], scored: Sequence[int], logged: Sequence[int], records: bool) -> Verdict:
    """S1: seeds that are listed, have results and have logs are the same ones, at least three of them."""
    groups = {"listed": set(stated), "in the results": set(scored), "in logs": set(logged)}
    everyone = set().union(*groups.values())
    for seed in sorted(everyone):
        missing = [name for name, group in groups.items() if group and seed not in group]
        if missing:
            where = next(name for name, group in groups.items() if seed in group)
            why = f"seed {seed} is {where} and not {' nor '.join(missing)}: every seed that ran is reported"
            return failed("S1", why, seed=seed, numbers=[len(everyone), len(everyone) - 1])
    if len(scored) != len(set(scored)):
        return failed("S1", f"a seed is reported twice: {sorted(scored)}", numbers=[len(scored), len(set(scored))])
    if not records:
        return beside_the_point("S1", f"a run of seed {', '.join(map(str, sorted(everyone)))}, no claim over seeds")
    if len(everyone) < SEEDS:
        why = f"{len(everyone)} seeds are reported, a record needs {SEEDS}"
        return failed("S1", why, numbers=[len(everyone), SEEDS])
    return passed("S1", f"seeds {', '.join(map(str, sorted(everyone)))}: listed, scored and logged alike")


def significance(
    old: Sequence[float], new: Sequence[float], tokens: int | None, spelled: int | None, record: bool
) -> Verdict:
    """S2: one-sided Welch tests, for any gain and for the margin of a record.  Scores in bits per byte."""
    if not old:
        return beside_the_point("S2", "no earlier record to be compared with is named")
    if min(len(old), len(new)) < 2:
        return unchecked("S2", f"{len(new)} against {len(old)} seeds: one seed says nothing about the spread")
    if not tokens or not spelled:
        return unchecked("S2", "tokens and bytes are not stated, so the margin in bits per byte is not known")
    margin = MARGIN_NATS / math.log(2) * tokens / spelled
    gain, p_any = welch(old, new, 0.0)
    _, p_margin = welch(old, new, margin)
    why = (
        f"{gain:+.6f} bits per byte, p = {p_any:.4g} for any gain, p = {p_margin:.4g} for the margin of {margin:.5f} "
        f"({len(new)} against {len(old)} seeds)"
    )
    if record and not p_margin < MARGIN_P:
        return failed("S2", f"{why}; a record needs p < {MARGIN_P} for the margin", numbers=[p_margin, MARGIN_P])
    return passed("S2", why, gain=gain, p=p_any, p_margin=p_margin)


def welch(old: Sequence[float], new: Sequence[float], margin: float) -> tuple[float, float]:
    """(mean old - mean new, chance of a gain this far above `margin` if the true one were the margin)."""
    gain = statistics.fmean(old) - statistics.fmean(new)
    shifted = [score - margin for score in old]
    if len({*old}) == 1 and len({*new}) == 1:
        return gain, 0.0 if gain > margin else 1.0
    return gain, float(stats.ttest_ind(shifted, new, equal_var=False, alternative="greater").pvalue)


def logs(seeds: Sequence[Seed], texts: Mapping[int, str], source_sha256: str | None) -> list[Verdict]:
    """S3: the last score, the size and the source in each log are those of the results; its clock runs forward and
    its own numbers agree with each other."""
    if not texts:
        return [unchecked("S3", "no logs lie beside the results")]
    for seed in seeds:
        if seed.seed not in texts:
            return [failed("S3", f"seed {seed.seed} has no log", seed=seed.seed)]
        text = texts[seed.seed]
        wrong = _disagreement(seed, text, source_sha256)
        if wrong is not None:
            why, numbers = wrong
            return [failed("S3", f"seed {seed.seed}: {why}", seed=seed.seed, numbers=numbers)]
    copied = _copied(texts)
    if copied is not None:
        return [copied]
    named = "" if source_sha256 is None or not all(map(SOURCE.search, texts.values())) else ", name the source's hash"
    return [passed("S3", f"{len(texts)} logs end in the stated scores, run forward{named}")]


def _copied(texts: Mapping[int, str]) -> Verdict | None:
    """S3: no log is another one, as it is or with every figure moved by as much."""
    finals = {seed: tuple(FINAL_LOSS.findall(text)) for seed, text in texts.items()}
    losses = {seed: {int(step): float(loss) for step, loss in LOSS.findall(text)} for seed, text in texts.items()}
    # The machine's clock is not the same twice, where it is told finely enough.
    clocks = {
        seed: {(int(step), f"{value}{unit}") for step, value, unit in STEP.findall(text) if len(value) >= FINE_CLOCK}
        for seed, text in texts.items()
    }
    for first, second in itertools.combinations(sorted(texts), 2):
        pair = f"seeds {first} and {second}"
        # Two runs do not agree in so many digits.
        if finals[first] == finals[second] and any(len(loss.partition(".")[2]) >= 6 for loss in finals[first]):
            why = f"{pair} end in the same losses to the last digit ({', '.join(finals[first])})"
            return failed("S3", why, seed=second, numbers=[float(finals[first][-1]), float(finals[second][-1])])
        same = clocks[first] & clocks[second]
        if len(same) >= COPIED_STEPS:
            step, reading = min(same)
            why = f"{pair} were as far by the clock at {len(same)} steps, to the last digit: {reading} at step {step}"
            return failed("S3", why, seed=second, numbers=[reading, reading])
        common = sorted(losses[first].keys() & losses[second].keys())
        apart = [losses[second][step] - losses[first][step] for step in common]
        # A number that was moved is rounded again.
        if len(common) >= COPIED_STEPS and max(apart) - min(apart) <= 1.01e-4:
            step = common[0]
            why = f"{pair} have the same training losses at {len(common)} steps, {apart[0]:+.4f} apart: a copy"
            return failed("S3", why, seed=second, numbers=[losses[first][step], losses[second][step]])
    return None


def _disagreement(seed: Seed, text: str, source_sha256: str | None) -> tuple[str, list[float | str]] | None:
    """The first thing a log says that the results do not, as a reason and the two numbers."""
    for what, stated, pattern in (("val_bpb", seed.val_bpb, FINAL), ("val_loss", seed.val_loss, FINAL_LOSS)):
        found = [_number(value) for value in pattern.findall(text)]
        if stated is not None and not found:
            return f"the log holds no final {what}", [stated]
        if stated is not None and not any(abs(value - stated) <= EXACT for value in found):
            return f"{what} is {stated:.8f} in the results, {found[-1]:.8f} in the log", [stated, found[-1]]
    for bpb, loss in zip(map(_number, FINAL.findall(text)), map(_number, FINAL_LOSS.findall(text))):
        if not (math.isfinite(bpb) and math.isfinite(loss)):
            return f"a final line says val_loss {loss}, val_bpb {bpb}", [loss, bpb]
        again = bpb * math.log(2) * seed.bytes / seed.tokens if seed.tokens and seed.bytes else loss
        if abs(again - loss) > 2 * EXACT * max(1, loss):
            return f"a final line's val_bpb of {bpb:.8f} makes a loss of {again:.8f}, it says {loss:.8f}", [again, loss]
    for size in SIZE.findall(text)[-1:]:
        number = int(re.sub(r"\D", "", size))
        if seed.bytes_total is not None and number != seed.bytes_total:
            return f"{seed.bytes_total:,} bytes in the results, {number:,} in the log", [seed.bytes_total, number]
    for step, clock, unit, each, per in AVERAGE.findall(text):
        spent, again = (float(value) / (1000 if scale == "ms" else 1) for value, scale in ((clock, unit), (each, per)))
        again *= int(step)
        if int(step) >= 100 and abs(again - spent) > AVERAGE_OFF * max(spent, again):
            return f"{step} steps of {each}{per} take {again:.1f} s, its clock says {spent:.1f} s", [again, spent]
    steps = [int(match[1]) for match in STEP.finditer(text)]
    readings = train_seconds(text)
    for what, values, rounded in (("steps", steps, 0), ("the training clock", readings, CLOCK_DIGIT)):
        back = next((p for p in range(1, len(values)) if values[p] < values[p - 1] - rounded), None)
        if back is not None:
            return f"{what} run backwards from {values[back - 1]:g} to {values[back]:g}", values[back - 1 : back + 1]
    if seed.train_seconds is not None and readings and readings[-1] > seed.train_seconds + 0.1:
        return (
            f"training took {seed.train_seconds:.1f} s in the results, {readings[-1]:.1f} s in the log",
            [seed.train_seconds, readings[-1]],
        )
    named = SOURCE.search(text)
    if named and source_sha256 is not None and named[1] != source_sha256:
        return f"the log is of source {named[1][:16]}, beside it lies {source_sha256[:16]}", [named[1], source_sha256]
    return None


def mean(stated: float | None, seeds: Sequence[Seed]) -> Verdict:
    """S3: the score of the submission is the mean of its seeds."""
    scores = [seed.val_bpb for seed in seeds if seed.val_bpb is not None]
    if stated is None or not scores:
        return unchecked("S3", "no score over seeds is stated")
    average = statistics.fmean(scores)
    if not abs(average - stated) <= EXACT:
        return failed("S3", f"val_bpb {stated:.8f} is stated, its seeds have {average:.8f}", numbers=[stated, average])
    return passed("S3", f"val_bpb {stated:.8f} is the mean of {len(scores)} seeds")


def rescored(claimed: float, found: float, tokens: int, what: str) -> Verdict:
    """S4: the loss of the whole split comes out again."""
    if not abs(claimed - found) <= RESCORED * max(1.0, abs(claimed)):
        return failed("S4", f"{what}: {found:.8f} nats a token, claimed are {claimed:.8f}", numbers=[found, claimed])
    return passed("S4", f"{what}: {found:.8f} nats a token over {tokens:,} targets, claimed are {claimed:.8f}")


def sampled(claimed: float, nats: Sequence[float], groups: int, reason: str) -> Verdict:
    """S4 from a sample: far beside the claim is a fail, anything else is not proof.

    nats: mean loss of each of the sampled excerpts, `groups` of them, which scatter as documents do.
    """
    if len(nats) < 3:
        return unchecked("S4", reason)
    average, error = statistics.fmean(nats), statistics.stdev(nats) / math.sqrt(groups)
    words = f"{average:.4f} +- {error:.4f} nats a token on {groups} excerpts, claimed are {claimed:.4f}"
    # An excerpt's first tokens have little before them, and cost more than those of the whole text.
    if abs(average - claimed) > 8 * error + 0.15 * abs(claimed):
        return failed("S4", words, numbers=[average, claimed])
    return unchecked("S4", f"{reason}; a sample says {words}", numbers=[average, claimed])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
