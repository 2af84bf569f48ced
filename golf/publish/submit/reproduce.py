"""`golf reproduce`: score or run a published seed again and say whether the outcome is what was published."""

from __future__ import annotations

import hashlib
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

from golf import host as hosts
from golf import recipe as recipes
from golf.contracts import DataError, RunResult, Sink
from golf.publish.board import published
from golf.publish.files import ARTIFACT, SCRIPT, TOKENIZER, Verdict, read_result
from golf.publish.submit import runs, seeds
from golf.publish.submit.seeds import Seeds
from golf.publish.use.convert import text_of
from golf.publish.use.scoring import score_source

SAME = 1e-5  # bits per byte: what another batch size or kernel may change about a stored artifact's score
COVERAGE = 0.99  # of further seeds that fall into the interval their spread gives
THREADS = re.compile(r"(\d+) CPU threads")
RECIPE = "recipe.py"
STEP = re.compile(r"^step:(\d+) train_loss:([\d.]+)", re.M)


@dataclass(frozen=True)
class Claim:
    """A published seed and what of it is at hand: the script or record to run, its weights, its losses by step, and
    what its log told about code and clock."""

    path: Path
    seeds: Seeds
    result: RunResult
    script: Path | None
    artifact: Path | None
    losses: dict[int, str]
    logged: dict[str, str]

    @property
    def clock(self) -> str | None:
        """The seconds that decided its schedule; None where steps did, and for runs that did not note them."""
        return self.logged.get("clock")


def claim(path: Path, seed: int | None) -> Claim:
    """The seed (the first, unless told) of a record with results, a submission, or run folders.

    Raises DataError when there is none, or not that seed.
    """
    found = seeds.read(path)
    known = {result.seed: result for result in found.results}
    chosen = found.results[0].seed if seed is None else seed
    if chosen not in known:
        raise DataError(f"{path} has no seed {chosen}; it has {', '.join(map(str, known))}")
    folder, artifact, losses = path, path / "artifacts" / f"seed{chosen}.golf", dict[int, str]()
    if not (path / published.METADATA).is_file():
        folder = next((each for each in (path, path / str(chosen)) if (each / runs.RESULT).is_file()), path)
        artifact = folder / ARTIFACT
    log = path / f"train_seed{chosen}.log"
    if log.is_file():
        losses = {int(step): loss for step, loss in STEP.findall(log.read_text(encoding="utf-8"))}
    elif (folder / runs.EVENTS).is_file():
        losses = _losses(folder)
    script = folder / SCRIPT
    return Claim(path, found, known[chosen], script if script.is_file() else None,
                 artifact if artifact.is_file() else None, losses, found.logged.get(chosen, {}))  # fmt: skip


def _losses(run: Path) -> dict[int, str]:
    """Training losses by step, in the digits a log shows."""
    steps = (event for event in runs.events(run / runs.EVENTS) if event["event"] == "step")
    return {event["step"]: f"{event['loss']:.4f}" for event in steps}


def score_again(told: Claim, data: Path | None, sink: Sink) -> list[Verdict]:
    """Score the stored artifact. Raises DataError when it was not kept, or its text is not on this machine."""
    if told.artifact is None:
        raise DataError(f"{told.path} keeps no artifact of seed {told.result.seed}; run it again without --score-only")
    digest = hashlib.sha256(told.artifact.read_bytes()).hexdigest()
    text = data or text_of(told.result, told.path)
    # One that the run did not train is no part of a submission; it lies beside the text.
    places = (told.path / TOKENIZER, told.artifact.parent / TOKENIZER, *([] if data else [text / TOKENIZER]))
    tokenizer = next((file for file in places if file.is_file()), None)
    scored = score_source(told.artifact, text, tokenizer, None, (), sink)
    gap = scored.score.bpb - told.result.val_bpb
    counts = (scored.score.tokens, scored.score.bytes), (told.result.tokens_scored, told.result.bytes_scored)
    return [
        *_versions(told.result, hosts.versions()),
        Verdict("artifact as scored", digest == told.result.artifact_sha256, f"{digest[:16]}"),
        Verdict("tokens and bytes", counts[0] == counts[1], f"{counts[0]} / {counts[1]}"),
        Verdict("bits per byte", abs(gap) <= SAME, _both(scored.score.bpb, told.result.val_bpb)),
    ]


def run_again(told: Claim, out: Path | None) -> list[Verdict]:
    """Run the seed again, in a process of its own whose output is shown, and compare everything.

    out: where its files go; nowhere to stay, unless told. Raises DataError when there is nothing to run or it fails.
    """
    with tempfile.TemporaryDirectory(prefix="golf-reproduce-") as temporary:
        folder = (out or Path(temporary)).resolve()
        words = ["--seed", str(told.result.seed), "--out", str(folder)]
        if told.script is not None:
            program = [str(told.script.resolve())]
        elif (told.path / RECIPE).is_file():
            program = ["-m", "golf", "run", str(told.path.resolve())]
            if told.clock is not None:
                noted = Path(temporary) / "clock.txt"
                noted.write_text(told.clock)
                words += ["--clock", str(noted)]
        else:
            raise DataError(f"{told.path} holds neither {SCRIPT} nor a {RECIPE}, so there is nothing to run")
        threads = THREADS.search(told.result.hardware)
        environment = hosts.with_threads(int(threads[1])) if threads else None
        status = subprocess.run([sys.executable, *program, *words], stdout=2, env=environment).returncode
        if status:
            raise DataError(f"running {' '.join([*program, *words])} ended with status {status}")
        again = folder / str(told.result.seed)
        return list(_compare(told, read_result(again), runs.logged(again), _losses(again)))


def _compare(told: Claim, new: RunResult, logged: dict[str, str], losses: dict[int, str]) -> Iterator[Verdict]:
    old = told.result
    yield from _versions(old, new.versions)
    yield from _code(told, logged)
    yield from _clock(told, new)
    if old.hardware != new.hardware:
        yield Verdict("hardware", None, f"{new.hardware} / {old.hardware}")
    for what, field in (("corpus", "corpus_sha256"), ("tokenizer", "tokenizer_sha256"), ("recipe", "recipe_digest")):
        here, there = getattr(new, field), getattr(old, field)
        yield Verdict(what, here == there, f"{here[:16]} / {there[:16]}")
    if (told.path / RECIPE).is_file():
        digest = recipes.load(told.path).digest
        yield Verdict("recipe as published", digest == old.recipe_digest, f"{digest[:16]} / {old.recipe_digest[:16]}")
    if old.weights_sha256:
        same = new.weights_sha256 == old.weights_sha256
        yield Verdict("weights", same or None, "bit for bit" if same else f"others, {new.weights_sha256[:16]}")
    if new.artifact_sha256 == old.artifact_sha256:
        yield Verdict("artifact", True, f"bit for bit, {new.artifact_sha256[:16]}")
    else:
        difference = first_difference(old, new, told.losses, losses)
        yield Verdict("artifact", None, f"another one; first difference, here / published: {difference}")
    yield within(told.seeds, old, new)


def _versions(old: RunResult, here: dict[str, str]) -> Iterator[Verdict]:
    other = [f"{name} {here.get(name)} / {there}" for name, there in old.versions.items() if here.get(name) != there]
    yield Verdict("versions", None if other else True, ", ".join(other) or "the same")


def _code(told: Claim, logged: dict[str, str]) -> Iterator[Verdict]:
    here, there = logged.get("code_sha256"), told.logged.get("code_sha256")
    if here and there:
        yield Verdict("code", True if here == there else None, f"{here[:16]} / {there[:16]}")


def _clock(told: Claim, new: RunResult) -> Iterator[Verdict]:
    """What decided how many steps there are, where time did."""
    if told.script is None and told.clock is not None:
        yield Verdict("clock", True, f"the published run's, replayed: {new.steps:,} steps whatever they take here")
    elif told.result.stopped == "seconds":
        yield Verdict("clock", None, f"this machine's: {new.steps:,} steps fit into the time / {told.result.steps:,}")


def within(claimed: Seeds, old: RunResult, new: RunResult) -> Verdict:
    """Whether a new score is one the published seeds let expect: equal to its own, or inside the interval that
    COVERAGE of further seeds fall into. With one seed there is no spread, and only its own score will do."""
    seen = _both(new.val_bpb, old.val_bpb)
    if abs(new.val_bpb - old.val_bpb) <= SAME:
        return Verdict("bits per byte", True, seen)
    count = len(claimed.results)
    if claimed.std is None:
        return Verdict("bits per byte", False, f"{seen}; one published seed tells no spread")
    reach = float(stats.t.ppf((1 + COVERAGE) / 2, count - 1)) * claimed.std * math.sqrt(1 + 1 / count)
    low, high = claimed.mean - reach, claimed.mean + reach
    good = low <= new.val_bpb <= high
    where = f"{'inside' if good else 'outside'} {low:.5f} to {high:.5f}, where {COVERAGE:.0%} of further seeds fall"
    return Verdict("bits per byte", good, f"{seen}; {where}")


def first_difference(old: RunResult, new: RunResult, before: dict[int, str], now: dict[int, str]) -> str:
    """Where two runs part, in the order in which things happen; here comes first, then as published."""
    if old.versions != new.versions:
        return next(_versions(old, new.versions)).why
    for field in ("hardware", "corpus_sha256", "tokenizer_sha256", "recipe_digest", "parameters"):
        if getattr(old, field) != getattr(new, field):
            return f"{field}: {getattr(new, field)} / {getattr(old, field)}"
    for step in sorted(before.keys() & now.keys()):
        if float(before[step]) != float(now[step]):
            return f"the training loss at step {step}: {now[step]} / {before[step]}"
    for field in ("steps", "train_tokens", "bytes_code", "scale_multiplier", "bytes_model"):
        if getattr(old, field) != getattr(new, field):
            return f"{field}: {getattr(new, field)} / {getattr(old, field)}"
    return "the weights, in digits that no log shows"


def _both(here: float, there: float) -> str:
    return f"{here:.8f} / {there:.8f}" + (", to the bit" if here == there else "")
