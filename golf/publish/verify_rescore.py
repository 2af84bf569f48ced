"""The score again, from the artifact alone, in a process that has seen nothing yet: S4, C4a, C1d, T2."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from golf.contracts import PredictorError
from golf.eval.validity import causality, claims, driver, evaluator, recording
from golf.eval.validity.verdict import Verdict, passed, unchecked
from golf.publish.verify_process import Scoring
from golf.publish.verify_remote import Remote
from golf.publish.verify_subject import Subject

SAMPLES = 8


def checks(
    subject: Subject, process: Scoring, tier: Any, draw: np.random.Generator, facts: dict[str, Any]
) -> Iterator[Verdict]:
    """Score everything where the tier has time for it, else a sample."""
    if subject.tokens is None or not subject.entry:
        yield from (unchecked(check, subject.no_tokens) for check in ("S4", "C4a"))
        return
    total = len(subject.tokens) - 1
    yield from _counted(subject, total)
    own = bool(subject.loop)
    entry, files = (subject.loop if own else subject.entry), subject.files
    with process.opened(entry, files, "score") as remote:
        if remote is None:
            yield unchecked("S4", process.broken)
            return
        try:
            yield from _whole(subject, remote, tier, facts) or _sample(subject, remote, draw, facts)
        except PredictorError as error:
            yield process.failure(error)
    if "charged" in facts:
        yield from _all_charges(subject, process, tier, facts, *facts.pop("charged"))


def _all_charges(
    subject: Subject, process: Scoring, tier: Any, facts: dict[str, Any], positions: np.ndarray, nats: np.ndarray
) -> Iterator[Verdict]:
    """C2b and C2a of every target, where the predictor is fast enough to be asked for all of them."""
    total = len(subject.tokens) - 1
    expected = facts.get("seconds_per_excerpt", 0.0) / max(facts.get("excerpt_targets", 1), 1) * total
    if facts.get("rescore_seconds", 0.0) + expected > tier.rescore:
        return
    with process.opened(subject.entry, subject.files, "every distribution") as remote:
        if remote is None or not remote.scores:
            return
        tokens, masses = np.asarray(subject.tokens[:], np.int64), recording.Masses()
        stretch = driver.STRETCH if hasattr(remote, "logprobs") else None
        try:
            pieces = list(masses.watch(driver.drive(remote, subject.artifact, tokens, stretch=stretch)))
        except PredictorError as error:
            yield process.failure(error)
            return
        yield masses.verdict()
        recorded = np.concatenate([piece.nats_T for piece in pieces])
        yield evaluator.read_off(positions, nats, recorded, tokens)


def _counted(subject: Subject, total: int) -> Iterator[Verdict]:
    """C4a of the numbers that are stated; the driver itself asks for each target once and in order."""
    claimed = subject.claim.tokens if subject.claim else None
    if claimed is not None and claimed != total:
        positions = np.arange(1, claimed + 1)
        verdict = evaluator.once(positions, total)
        why = f"{claimed:,} scored targets are stated, the split has {total:,}: {verdict.why}"
        yield Verdict("C4a", verdict.status, why, {**verdict.evidence, "numbers": [claimed, total]})
    else:
        words = f", as stated, of {claimed:,}" if claimed is not None else f" of {total:,}"
        yield passed("C4a", f"the driver asks for each target once{words}, the last included")
    yield passed("C1d", "the driver asks in stream order, and a state has seen nothing else")


def _whole(subject: Subject, remote: Remote, tier: Any, facts: dict[str, Any]) -> list[Verdict]:
    """Verdicts of a complete scoring; empty when it would take longer than the tier has."""
    total, begin = len(subject.tokens) - 1, time.monotonic()
    tokens, artifact = np.asarray(subject.tokens[:], np.int64), subject.artifact
    trial = min(total, max(4 * facts.get("excerpt_targets", 256), 1024))
    first = _losses(remote, artifact, tokens[: trial + 1], recording.Masses())
    per_target = (time.monotonic() - begin) / trial
    facts["rescore_seconds_expected"] = per_target * total
    if per_target * total > tier.rescore:
        return []
    verdicts, begin = [], time.monotonic()
    masses = recording.Masses()
    positions, nats = (np.arange(1, trial + 1), first) if trial == total else (None, None)
    if remote.about["evaluate"]:
        positions, nats = remote.evaluate(artifact, tokens)
        verdicts.append(evaluator.once(positions, total))
        facts["charged"] = positions, nats
    elif nats is None:
        nats = _losses(remote, artifact, tokens, masses)
    if masses.count:
        verdicts.append(masses.verdict())
    facts["rescore_seconds"] = seconds = time.monotonic() - begin
    loss = float(np.sum(nats)) / max(len(nats), 1)
    facts["val_loss"] = loss
    if subject.eval_limit is not None and trial < total:
        spent = {subject.claim.seed if subject.claim else 0: seconds}
        verdicts.append(claims.clock("T2", "evaluation, here,", spent, subject.eval_limit))
    if subject.claim is None or subject.claim.val_loss is None:
        return [*verdicts, unchecked("S4", f"no loss is stated; here it is {loss:.8f} nats over {total:,} targets")]
    what = "its own loop" if remote.about["evaluate"] else "through the driver"
    again = claims.rescored(subject.claim.val_loss, loss, total, what)
    verdicts += [again, Verdict("C4b", again.status, f"one sum, {again.why}", again.evidence)]
    return verdicts


def _losses(remote: Remote, artifact: str, tokens: np.ndarray, masses: recording.Masses) -> np.ndarray:
    """Nats in the order of targets; by the submission's own loop where it has one."""
    if remote.about["evaluate"]:
        return remote.evaluate(artifact, tokens)[1]
    stretch = driver.STRETCH if hasattr(remote, "logprobs") else None
    pieces = masses.watch(driver.drive(remote, artifact, tokens, stretch=stretch))
    return np.concatenate([piece.nats_T for piece in pieces])


def _sample(
    subject: Subject, remote: Remote, draw: np.random.Generator, facts: dict[str, Any]
) -> Iterator[Verdict]:
    """S4 from excerpts spread over the split."""
    expected = facts["rescore_seconds_expected"]
    reason = f"scoring all {len(subject.tokens) - 1:,} targets would take about {expected:,.0f} s here"
    length = facts.get("excerpt_targets", 256)
    pieces = causality.excerpts(subject.tokens, subject.bos, [length] * SAMPLES, draw)
    means = [float(_losses(remote, subject.artifact, piece.tokens, recording.Masses()).mean()) for piece in pieces]
    if subject.claim is None or subject.claim.val_loss is None:
        yield unchecked("S4", f"no loss is stated, and {reason}")
        return
    yield claims.sampled(subject.claim.val_loss, means, len(means), reason)
