"""A submission's predictor, put to the test in its own process: C1 to C3, C4b and A4."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from golf.contracts import PredictorError
from golf.eval.validity import accounting, causality, driver, memory, recording
from golf.eval.validity.causality import Excerpt
from golf.eval.validity.verdict import Budget, Verdict, beside_the_point, failed, passed, unchecked
from golf.publish.verify.process import Scoring
from golf.publish.verify.remote import Remote
from golf.publish.verify.subject import Subject

# An excerpt that takes no longer than this is never too long.
BRIEF = 0.05
# Every check looks for so long at least, however little time it has, and so many times.
LEAST_SECONDS, FEW, MANY = 2.0, 2, 24
# Excerpts of each text to see how well it is known, and targets of each; of these, the first quarter is context.
BOTH, LENGTH = 24, 128
# Log probabilities of an excerpt, which are held in float64 for several at a time: 1 GB each, 2,048 rows of 65,536.
EXCERPT_LOGITS = 1 << 27
CHECKS = ("C1a", "C1b", "C1c", "C1e", "C2a", "C2c", "C2d", "C3a", "C3b", "C3c", "C4b")


def predictor(
    subject: Subject, process: Scoring, tier: Any, draw: np.random.Generator, facts: dict[str, Any]
) -> Iterator[Verdict]:
    """The predictor by itself: C1, C2a, C2c, C2d, C3, C4b, A4."""
    if not subject.entry or subject.tokens is None:
        yield from (unchecked(check, subject.no_tokens) for check in CHECKS)
        return
    with process.opened(subject.entry, "predictor", probe=True) as remote:
        if remote is None:
            yield from (unchecked(check, process.broken) for check in CHECKS)
            return
        facts["isolation"], facts["has_loop"] = remote.place.isolation, remote.about["evaluate"]
        if not remote.scores:
            why = "the submission gives no distribution, only numbers for the tokens that came"
            yield failed("C2a", why)
            yield failed("C2c", why)
            return
        told: set[str] = set()
        try:
            for verdict in _probe(subject, remote, tier, draw, facts):
                told.add(verdict.check)
                yield verdict
        except PredictorError as error:
            yield process.failure(error)
            why = f"the predictor answered no more: {error}"
            yield from (unchecked(check, why) for check in CHECKS if check not in told)


def _probe(
    subject: Subject, remote: Remote, tier: Any, draw: np.random.Generator, facts: dict[str, Any]
) -> Iterator[Verdict]:
    artifact, tokens = subject.artifact, subject.tokens
    length, seconds = affordable(remote, artifact, subject, tier)
    stretch = driver.STRETCH if hasattr(remote, "logprobs") else None
    least = max(FEW, min(MANY, int(LEAST_SECONDS / max(seconds, 1e-3))))
    facts |= {"probe_targets": length, "probe_least": least}
    # What a whole excerpt of the score takes: at least as many times longer as it is.
    times = subject.context / length if subject.probe else 1
    facts |= {"excerpt_targets": round(length * times), "seconds_per_excerpt": seconds * times}
    facts["least"] = max(FEW, min(MANY, int(least / times)))
    pieces = causality.excerpts(tokens, subject.bos, [length] * (2 if least == FEW else 4), draw)
    # New to the process, so before anything else looks at them.
    yield recording.repeat(remote, artifact, pieces[-1], stretch)
    beyond = _beyond(subject, length, seconds, tier)
    if beyond:
        pieces += [causality.excerpts(tokens, subject.bos, [8, 8, beyond], draw)[-1]]
    form = causality.rows if hasattr(remote, "logprobs") else causality.steps
    bases = [form(remote, artifact, piece.tokens) for piece in pieces]
    masses = recording.Masses()
    for piece, base in zip(pieces, bases):
        masses.count(base, piece.begin)
    yield masses.verdict()
    yield from recording.asking(remote, artifact, pieces[0], Budget(tier.probe / 3, least))
    yield from causality.later_tokens(remote, artifact, pieces, bases, draw, Budget(tier.probe * 2, least))
    yield from causality.step_equals_stretch(remote, artifact, pieces, bases, draw, Budget(tier.probe, least))
    yield from recording.flips(remote, artifact, pieces[0], bases[0], draw, Budget(tier.probe / 2, least))
    yield from _adapting(subject, remote, tier, length, draw)
    yield from causality.isolation(remote, artifact, pieces, subject.isolated, draw)
    if subject.probe:
        words = f"through windows of {subject.probe} of {subject.context:,} tokens, as this tier has time for"
        yield from (passed(check, words) for check in ("C1a", "C1b", "C2c", "C3a", "C3c"))
    yield _bytes_too(subject, remote, pieces[0])
    yield from _both_texts(subject, remote, length, seconds, tier, draw)


def _adapting(
    subject: Subject, remote: Remote, tier: Any, length: int, draw: np.random.Generator
) -> Iterator[Verdict]:
    """C1c over at least one update, where that is affordable."""
    wanted = length
    if hasattr(remote, "horizon"):
        state = remote.observe(remote.open(subject.artifact), int(subject.tokens[0]))
        learns = remote.horizon(state)
        if learns is None:
            yield beside_the_point("C1c", causality.FIXED)
            return
        wanted = max(length, 3 * learns // 2)
        spent = remote.seconds / max(remote.asked, 1)
        if wanted > 64 * length or spent * wanted / length > tier.probe:
            yield unchecked("C1c", f"one update takes {wanted:,} targets, more than the {tier.name} tier has time for")
            return
    piece = np.asarray(subject.tokens[: wanted + 1], np.int64)
    yield from causality.adaptation(remote, subject.artifact, piece, draw)


def _both_texts(
    subject: Subject, remote: Remote, length: int, seconds: float, tier: Any, draw: np.random.Generator
) -> Iterator[Verdict]:
    """D1: how well excerpts of the validation text are known, and how well those of the training text."""
    if subject.train is None or subject.transform:
        return
    longest = max(LENGTH, min(length, 2 * LENGTH))
    seconds *= max(1.0, longest / length)
    count = int(min(BOTH, max(tier.probe, LEAST_SECONDS / 4) / max(2 * seconds, 1e-3)))
    count = max(4, count) if subject.kind != "foreign" else count
    if count < 4:
        yield unchecked("D1", f"comparing validation with training text takes {8 * seconds:.0f} s or more")
        return
    block = next(iter(subject.train()), np.empty(0, np.int64))
    form = driver.STRETCH if hasattr(remote, "logprobs") else None
    found = []
    for text in (subject.tokens, block):
        edges = _begins(text, subject.bos, longest, count, draw)
        found.append([
            float(np.concatenate([each.nats_T for each in driver.drive(remote, subject.artifact, piece, stretch=form)])
                  [-(len(piece) * 3 // 4) :].clip(max=-causality.FLOOR).mean())
            for piece in edges
        ])  # fmt: skip
    yield memory.known_by_heart(*found)


def _begins(text: Any, bos: int, length: int, count: int, draw: np.random.Generator) -> list[np.ndarray]:
    """Beginnings of documents drawn from the first million tokens of a text, at least two tokens of each."""
    tokens = np.asarray(text[: 1 << 20], np.int64)
    starts = np.flatnonzero(tokens == bos)
    chosen = draw.permutation(starts)[:count].tolist()
    ends = [int(starts[np.searchsorted(starts, start) + 1 :][:1].sum()) or len(tokens) for start in chosen]
    pieces = [tokens[start : min(end, start + length + 1)] for start, end in zip(chosen, ends)]
    return [piece for piece in pieces if len(piece) > 2]


def _bytes_too(subject: Subject, remote: Remote, piece: Excerpt) -> Verdict:
    """C2d."""
    if not remote.about["byte_distribution"]:
        return beside_the_point("C2d", "tokens are scored, not bytes")
    if not subject.pieces:
        return unchecked("C2d", "no tokenizer is named, so nobody knows which bytes tokens begin with")
    first = {bound: accounting.first_bytes(subject.pieces, bound) for bound in (True, False)}
    bounds = {token for token, each in enumerate(subject.pieces) if each.kind not in ("text", "byte", "bytes")}

    def rows() -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        state = remote.observe(remote.open(subject.artifact), int(piece.tokens[0]))
        for place in range(1, min(64, len(piece.tokens))):
            before = int(piece.tokens[place - 1])
            row = np.asarray(remote.distribution(state), np.float64)
            yield piece.begin + place, row, remote.byte_distribution(state), first[before in bounds]
            state = remote.observe(state, int(piece.tokens[place]))

    return accounting.byte_marginals(rows())


def affordable(remote: Remote, artifact: str, subject: Subject, tier: Any) -> tuple[int, float]:
    """(targets of an excerpt, seconds it takes): the longest that leaves time for dozens of them.

    A predictor that computes in windows answers for a whole one in the time of a part.
    """
    chosen, form = (16, 0.0), causality.rows if hasattr(remote, "logprobs") else causality.steps
    # Of golf's own it is known how long a window is.
    known = subject.probe or subject.context
    lengths = (min(known, 4096, EXCERPT_LOGITS // subject.vocab),) if known else (16, 64, 256, 1024)
    for length in lengths:
        piece = np.asarray(subject.tokens[: length + 1], np.int64)
        if len(piece) < 3 or (length <= chosen[0] and chosen[1]):
            continue
        begin = time.monotonic()
        form(remote, artifact, piece)
        seconds = time.monotonic() - begin
        if chosen[1] and seconds > max(tier.probe / 30, BRIEF, 1.3 * chosen[1]):
            break
        chosen = (len(piece) - 1, seconds)
    return chosen


def _beyond(subject: Subject, length: int, seconds: float, tier: Any) -> int:
    """Targets of an excerpt that goes past the predictor's first window, if that is affordable."""
    window = subject.probe or subject.context
    if window is None or window >= len(subject.tokens) - 2 or length < window // 2:
        return 0
    return window + 32 if 4 * seconds < tier.probe else 0


