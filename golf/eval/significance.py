"""Is the new score better than the old one, and by the margin the track asks for? Seeds are the sample.

Scores are bits per byte, lower is better; every test is one-sided. Sources: the t-test with unequal variances and its
degrees of freedom are B. L. Welch's (Biometrika 34, 1947); power comes from the noncentral t distribution.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import scipy  # whose parts load when they are first named

from golf.contracts import SpecError

RECORD_NATS = 0.005  # per token: the margin a record of the challenge has to win by
RECORD_P = 0.01
POWER = 0.8
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Sample:
    """Scores of one recipe over its seeds: mean, sample standard deviation (n - 1 below), number of seeds."""

    mean: float
    std: float
    seeds: int

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise SpecError(
                f"{self.seeds} seed says nothing about the spread between seeds; run at least 2, better 3 or 5"
            )

    @property
    def error(self) -> float:
        """Variance of the mean."""
        return self.std**2 / self.seeds


@dataclass(frozen=True)
class Verdict:
    """One test. delta = old mean - new mean, so positive is better; p is the chance of a delta this far above
    `margin` when the true one is the margin."""

    kind: Literal["Welch", "paired"]
    delta: float
    margin: float
    t: float
    df: float
    p: float


def sample(scores: Sequence[float]) -> Sample:
    """Mean and sample standard deviation. Raises SpecError for fewer than two scores or one that is not finite."""
    if not all(map(math.isfinite, scores)):
        raise SpecError(f"scores {list(scores)} hold one that is not a finite number; leave that seed out or rerun it")
    return Sample(
        statistics.fmean(scores) if scores else math.nan,
        statistics.stdev(scores) if len(scores) > 1 else math.nan,
        len(scores),
    )


def welch(old: Sample, new: Sample, margin: float = 0.0) -> Verdict:
    """t = (old - new - margin) / sqrt(v_old / n_old + v_new / n_new) with Welch's degrees of freedom."""
    error = old.error + new.error
    parts = old.error**2 / (old.seeds - 1) + new.error**2 / (new.seeds - 1)
    df = error**2 / parts if parts else float(old.seeds + new.seeds - 2)
    return _verdict("Welch", old.mean - new.mean, margin, error, df)


def paired(old: Mapping[int, float], new: Mapping[int, float], margin: float = 0.0) -> Verdict:
    """The t-test of differences seed by seed: only where both ran the same seeds and all else was equal too.

    Raises SpecError when the seeds differ: what is left of a pair is not dropped.
    """
    if set(old) != set(new):
        raise SpecError(f"a paired test needs the same seeds, got {sorted(old)} and {sorted(new)}; use Welch's")
    differences = sample([old[seed] - new[seed] for seed in sorted(old)])
    return _verdict("paired", differences.mean, margin, differences.error, float(differences.seeds - 1))


def _verdict(kind: Literal["Welch", "paired"], delta: float, margin: float, error: float, df: float) -> Verdict:
    gap = delta - margin
    # Without any spread (a deterministic rerun, scores rounded to the same digits) the sign alone decides.
    t = gap / math.sqrt(error) if error else math.copysign(math.inf, gap) if gap else 0.0
    return Verdict(kind, delta, margin, t, df, float(scipy.stats.t.sf(t, df)))


def power(
    delta: float, old_std: float, new_std: float, seeds: int, *, margin: float = 0.0, p: float = RECORD_P
) -> float:
    """The chance that `seeds` runs of each side pass at `p` when the new one is truly better by `delta`."""
    error = (old_std**2 + new_std**2) / seeds
    if not error:
        return float(delta > margin)
    df = (seeds - 1) * (old_std**2 + new_std**2) ** 2 / (old_std**4 + new_std**4)
    bar = scipy.stats.t.isf(p, df)
    return float(scipy.stats.nct.sf(bar, df, (delta - margin) / math.sqrt(error)))


def seeds_needed(
    delta: float, old_std: float, new_std: float, *, margin: float = 0.0, p: float = RECORD_P, chance: float = POWER
) -> int | None:
    """The fewest seeds a side (two at least) that pass with that chance; None when no number up to MOST_SEEDS does."""
    low, high = 2, MOST_SEEDS
    if delta <= margin or power(delta, old_std, new_std, high, margin=margin, p=p) < chance:
        return None
    while low < high:
        middle = (low + high) // 2
        if power(delta, old_std, new_std, middle, margin=margin, p=p) >= chance:
            high = middle
        else:
            low = middle + 1
    return low


def margin_bpb(tokens: int, bytes: int, nats: float = RECORD_NATS) -> float:
    """A margin in nats per token as bits per byte of the text that was scored."""
    return nats / math.log(2) * tokens / bytes


def words(verdicts: Sequence[Verdict], old: Sample, new: Sample, *, p: float = RECORD_P) -> str:
    """The verdicts (the same test at one or more margins) in sentences a person can act on."""
    delta = verdicts[0].delta
    begin = (
        f"The new mean {new.mean:.5f} ({new.seeds} seeds) is {abs(delta):.5f} bits per byte "
        f"{'below' if delta > 0 else 'above'} the old {old.mean:.5f} ({old.seeds} seeds)."
    )
    if delta <= 0:
        return f"{begin} It is not better."
    found = [begin]
    for verdict in verdicts:
        goal = f"better by the margin of {verdict.margin:.5f}" if verdict.margin else "better at all"
        seen = f"{verdict.kind} t({verdict.df:.2f}) = {verdict.t:.2f}, p = {verdict.p:.2g}"
        if verdict.p < p:
            found.append(f"It is {goal} ({seen}, below {p:g}).")
            continue
        found.append(f"That it is {goal} is not shown ({seen}, not below {p:g}); {_way_out(verdict, old, new, p)}.")
    return " ".join(found)


def _way_out(verdict: Verdict, old: Sample, new: Sample, p: float) -> str:
    if verdict.delta <= verdict.margin:
        return "the difference itself is too small, so more seeds of the same recipes will not do"
    count = seeds_needed(verdict.delta, old.std, new.std, margin=verdict.margin, p=p)
    if count is None:
        return f"with this spread not even {MOST_SEEDS} seeds a side would show it"
    return f"if this difference is the true one, {count} seeds a side show it with {POWER:.0%} chance"
