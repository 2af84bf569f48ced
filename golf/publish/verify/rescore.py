"""The score again, from the artifact alone, in processes that have seen nothing yet: S4, C4a, C4b, C2b, T2."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from golf.contracts import PredictorError
from golf.eval.validity import causality, claims, driver, evaluator, memory
from golf.eval.validity.causality import Excerpt
from golf.eval.validity.recording import Masses
from golf.eval.validity.verdict import Budget, Verdict, failed, passed, unchecked
from golf.publish.verify.predictor import FEW
from golf.publish.verify.process import Scoring
from golf.publish.verify.remote import Remote
from golf.publish.verify.script import SCRIPT
from golf.publish.verify.subject import Subject

SAMPLES = 8
# Log probabilities that are asked for at once: 1,024 rows of 65,536, 256 MB, and fewer of larger vocabularies.
MOST_LOGITS = 1 << 26
LOOP, DRIVER = "its own loop", "through the driver"


def checks(
    subject: Subject, process: Scoring, tier: Any, draw: np.random.Generator, facts: dict[str, Any]
) -> Iterator[Verdict]:
    """Score everything where the tier has time for it, else a sample: by the submission's own loop, where it has one,
    and through the driver."""
    if subject.tokens is None or not subject.entry:
        yield from (unchecked(check, subject.no_tokens) for check in ("S4", "C4a"))
        return
    yield from _counted(subject, len(subject.tokens) - 1)
    try:
        yield from _scored(subject, process, tier, draw, facts)
    except PredictorError as error:
        yield process.failure(error)


def _scored(
    subject: Subject, process: Scoring, tier: Any, draw: np.random.Generator, facts: dict[str, Any]
) -> Iterator[Verdict]:
    tokens = np.asarray(subject.tokens[:], np.int64)
    total = len(tokens) - 1
    samples = 3 if facts.get("least") == FEW else SAMPLES
    pieces = causality.excerpts(tokens, subject.bos, [facts.get("excerpt_targets", 256)] * samples, draw)
    if process.broken:
        yield unchecked("S4", process.broken)
        return
    has_loop = "seconds_per_loop" in facts
    seconds = facts.get("seconds_per_excerpt", tier.rescore)
    # What comes after a first window is scored a stride at a time, by a window each.
    most = int(tier.rescore / max(seconds, 1e-3)) + 1
    windows = sum(1 for _ in itertools.islice(subject.windows(), most)) if "excerpt_targets" in facts else 0
    whole = max(windows, total / facts.get("excerpt_targets", total))
    at_once = whole * seconds < tier.rescore / 20
    if at_once or facts.get("least") == FEW:  # a trial would tell nothing new, or be slow
        expected = {DRIVER: whole * seconds}
        expected |= {LOOP: whole * facts["seconds_per_loop"]} if has_loop else {}
    else:
        with process.opened(subject.entry, "trial") as remote:
            names = [LOOP, DRIVER] if has_loop else [DRIVER]
            expected = {name: _expected(remote, subject, tokens, name) for name in names}
    facts |= {f"seconds_expected_{name.replace(' ', '_')}": seconds for name, seconds in expected.items()}
    left, charged, recorded = tier.rescore, None, None
    if has_loop and expected[LOOP] < left:
        charged, seconds = _loop(subject, process, tokens)
        left -= seconds
        yield from _loop_verdicts(subject, charged, seconds, total, facts)
        yield evaluator.left_to_right(charged[0], tokens)
        if subject.script and seconds < left:
            begin = time.monotonic()
            yield from _by_script(subject, process, tokens, facts["val_loss"])
            left -= time.monotonic() - begin
        elif subject.script:  # the beginning, which is scored as if nothing followed
            first = pieces[0].tokens
            yield from _by_script(subject, process, first, float(_first(charged, len(first) - 1)[1].mean()))
    if expected[DRIVER] < left:
        with process.opened(subject.entry, "through the driver, everything") as remote:
            if remote is None:
                raise PredictorError(process.broken)
            masses, begin = Masses(), time.monotonic()
            recorded = _losses(remote, subject, tokens, masses)
            spent = time.monotonic() - begin
            yield masses.verdict()
            yield from _agree(subject, float(recorded.mean()), total, DRIVER)
            facts["val_loss"] = float(recorded.mean())
            if not has_loop:
                yield from _clock(subject, spent)
            yield from _along(subject, process, remote, tokens, recorded, spent, left - spent, tier.probe, draw)
    if charged is not None:
        # What one process charged for the whole text, against what another recorded of it, or of its beginning.
        if recorded is None:
            first = pieces[0]
            recorded = _drive(subject, process, first.tokens, Masses())
            if subject.kind == "foreign":
                found = evaluator.by_position(charged, total)[1:]
                yield _walked(subject, process, None, tokens, found, draw, tier.probe, left, "C2b")
        yield evaluator.read_off(*_first(charged, len(recorded)), recorded, tokens)
    elif recorded is None:
        reason = f"scoring all {total:,} targets would take {min(expected.values()):,.0f} s or more"
        yield from _sample(subject, process, pieces, reason, draw, tier.probe)


def _counted(subject: Subject, total: int) -> Iterator[Verdict]:
    """C4a of the numbers that are stated; the driver itself asks for each target once and in order."""
    claimed = subject.claim.tokens if subject.claim else None
    if claimed is not None and claimed != total:
        why = f"{claimed:,} scored targets are stated, the split has {total:,}: {abs(claimed - total):,} are "
        why += "left out" if claimed < total else "too many"
        yield failed("C4a", why, position=min(claimed, total) + 1, numbers=[claimed, total])
    else:
        words = f"{total:,}, as stated" if claimed is not None else f"{total:,}"
        yield passed("C4a", f"the driver asks for each target once, {words}, the last included")
    yield passed("C1d", "the driver asks in stream order, and a state has seen nothing else")


def _expected(remote: Remote, subject: Subject, tokens: np.ndarray, what: str) -> float:
    """Seconds that scoring everything will take, from a stretch at the beginning."""
    trial, seconds = 64, 0.0
    while seconds < 0.2 and trial < len(tokens) - 1:
        trial, begin = 4 * trial, time.monotonic()
        text = tokens[: trial + 1]
        _ = remote.evaluate(subject.artifact, text) if what == LOOP else _losses(remote, subject, text, Masses())
        seconds = time.monotonic() - begin
    return seconds * max(1.0, (len(tokens) - 1) / trial)


def _loop(subject: Subject, process: Scoring, tokens: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    with process.opened(subject.entry, "own loop, everything") as remote:
        if remote is None:
            raise PredictorError(process.broken)
        begin = time.monotonic()
        return remote.evaluate(subject.artifact, tokens), time.monotonic() - begin


def _loop_verdicts(
    subject: Subject, charged: tuple[np.ndarray, np.ndarray], seconds: float, total: int, facts: dict[str, Any]
) -> Iterator[Verdict]:
    yield evaluator.once(charged[0], total)
    facts["rescore_seconds"], facts["val_loss"] = seconds, float(np.sum(charged[1])) / max(len(charged[1]), 1)
    yield from _clock(subject, seconds)
    yield from _agree(subject, facts["val_loss"], total, LOOP)


def _clock(subject: Subject, seconds: float) -> Iterator[Verdict]:
    """T2 by our own clock. A machine unlike the track's proves nothing by being slow."""
    if subject.eval_limit is not None:
        words = f"{seconds:.1f} s here, with {subject.eval_limit:.0f} s on the track's hardware"
        yield passed("T2", words) if seconds <= subject.eval_limit else unchecked("T2", words)


def _drive(subject: Subject, process: Scoring, tokens: np.ndarray, masses: Masses) -> np.ndarray:
    with process.opened(subject.entry, "through the driver, everything") as remote:
        if remote is None:
            raise PredictorError(process.broken)
        return _losses(remote, subject, tokens, masses)


def _losses(remote: Remote, subject: Subject, tokens: np.ndarray, masses: Masses) -> np.ndarray:
    """Nats of targets 1 .. N through the driver."""
    stretch = min(driver.STRETCH, MOST_LOGITS // subject.vocab) if hasattr(remote, "logprobs") else None
    if stretch is not None and subject.context is not None:
        # A window is computed whole for every stretch that ends in it.
        stretch = max(stretch, min(subject.context, driver.STRETCH_LOGITS // subject.vocab))
    pieces = masses.watch(driver.drive(remote, subject.artifact, tokens, stretch=stretch))
    return np.concatenate([piece.nats_T for piece in pieces])


def _along(
    subject: Subject, process: Scoring, remote: Remote, tokens: np.ndarray, recorded: np.ndarray, spent: float,
    left: float, seconds: float, draw: np.random.Generator,
) -> Iterator[Verdict]:  # fmt: skip
    """C2c and D1 from one end of the stream to the other, as far as there is time.  spent: by scoring it once."""
    if hasattr(remote, "logprobs") and (not hasattr(remote, "horizon") or spent < left):
        yield _walked(subject, process, remote, tokens, recorded, draw, seconds, 4 * seconds + 2 * spent)
    if subject.kind != "foreign":
        return  # golf's own way of predicting, which looks nothing up
    if spent > left / 2:
        yield unchecked("D1", f"scoring everything once more takes {spent:.0f} s, and {left:.0f} s are left")
        return
    stream, origin = memory.moved(tokens, subject.bos, draw)
    yield from memory.recognized(recorded, _losses(remote, subject, stream, Masses()), origin)


def _walked(
    subject: Subject, process: Scoring, remote: Remote | None, tokens: np.ndarray, recorded: np.ndarray,
    draw: np.random.Generator, seconds: float, most: float = math.inf, check: str = "C2c",
) -> Verdict:  # fmt: skip
    """C2c, or C2b, along a stream; of somebody else's submission, by a process that has seen none of it."""
    if remote is not None and subject.kind != "foreign":
        return memory.walk(remote, subject.artifact, tokens, recorded, draw, seconds, most, check)
    with process.opened(subject.entry, "one by one") as alone:
        if alone is None:
            raise PredictorError(process.broken)
        return memory.walk(alone, subject.artifact, tokens, recorded, draw, seconds, most, check)


def _first(charged: tuple[np.ndarray, np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Charges of targets 1 .. count."""
    inside = charged[0] <= count
    return charged[0][inside], charged[1][inside]


def _agree(subject: Subject, loss: float, total: int, what: str) -> Iterator[Verdict]:
    """S4 and C4b: one sum, and the one that is stated."""
    if subject.claim is None or subject.claim.val_loss is None:
        yield unchecked("S4", f"no loss is stated; {what} it is {loss:.8f} nats a token over {total:,} targets")
        return
    again = claims.rescored(subject.claim.val_loss, loss, total, what)
    yield again
    yield Verdict("C4b", again.status, f"one sum: {again.why}", again.evidence)


def _sample(
    subject: Subject, process: Scoring, pieces: list[Excerpt], reason: str, draw: np.random.Generator, seconds: float
) -> Iterator[Verdict]:
    """S4 from excerpts spread over the split."""
    if subject.claim is None or subject.claim.val_loss is None:
        yield unchecked("S4", f"no loss is stated, and {reason}")
        return
    with process.opened(subject.entry, "sample") as remote:
        if remote is None:
            raise PredictorError(process.broken)
        masses = Masses()
        found = [_losses(remote, subject, piece.tokens, masses) for piece in pieces[1:]]
        base = _rows(remote, subject, pieces[0])
        masses.count(base, pieces[0].begin)
        found.insert(0, -base[np.arange(len(base)), pieces[0].targets])
        means = [float(nats.mean()) for nats in found]
        yield masses.verdict()
        yield from _whole_window(subject, remote, pieces[0], base, draw)
        if subject.kind == "foreign" and hasattr(remote, "logprobs"):
            for piece, nats in zip(pieces, found):
                yield _walked(subject, process, remote, piece.tokens, nats, draw, seconds / len(pieces))
            yield unchecked("C2c", f"excerpts alone were asked for one by one: {reason}")
    if subject.script:
        yield from _by_script(subject, process, pieces[0].tokens, means[0])
    yield claims.sampled(subject.claim.val_loss, means, len(means), reason)


def _by_script(subject: Subject, process: Scoring, tokens: np.ndarray, found: float) -> Iterator[Verdict]:
    """A2, and S4 where it is everything: the submission's own script scores alone what golf found."""
    total = len(tokens) - 1
    try:
        loss = process.by_script(tokens)
    except PredictorError as error:
        word = unchecked if "cannot read" in str(error) else failed
        yield word("A2", f"its own script, alone in a clean folder: {error}")
        return
    words = f"its own {SCRIPT}, alone, scores {total:,} targets at {loss:.8f} nats a token, golf at {found:.8f}"
    if not abs(loss - found) <= claims.RESCORED * max(1.0, abs(found)):
        yield failed("A2", words, numbers=[loss, found])
        return
    yield passed("A2", words)
    if total == len(subject.tokens) - 1:
        yield from _agree(subject, loss, total, "its own script")


def _rows(remote: Remote, subject: Subject, piece: Excerpt) -> np.ndarray:
    form = causality.rows if hasattr(remote, "logprobs") else causality.steps
    return form(remote, subject.artifact, piece.tokens)


def _whole_window(
    subject: Subject, remote: Remote, piece: Excerpt, base: np.ndarray, draw: np.random.Generator
) -> Iterator[Verdict]:
    """C1a, C1b and C2c once as far back as the predictor looks, where all else was tried in shorter windows."""
    if not subject.probe:
        return
    once = Budget(0.0, 1)
    yield from causality.later_tokens(remote, subject.artifact, [piece], [base], draw, once)
    yield from causality.step_equals_stretch(remote, subject.artifact, [piece], [base], draw, once, shorter=False)
