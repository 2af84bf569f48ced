"""A submission's own scoring loop, put to the test as a black box."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from golf.contracts import PredictorError
from golf.eval.validity import causality, driver, evaluator
from golf.eval.validity.verdict import Budget, Verdict, unchecked
from golf.publish.verify.process import Scoring
from golf.publish.verify.remote import Remote
from golf.publish.verify.subject import Subject


def loop(
    subject: Subject, process: Scoring, tier: Any, draw: np.random.Generator, facts: dict[str, Any]
) -> Iterator[Verdict]:
    """The submission's own scoring loop as a black box, where it has one."""
    if not subject.loop or subject.tokens is None or not facts.get("has_loop"):
        return
    with process.opened(subject.loop, "own loop", probe=True) as remote:
        if remote is None:
            return
        try:
            yield from _black_box(subject, process, remote, tier, draw, facts)
        except PredictorError as error:
            yield process.failure(error)


def _black_box(
    subject: Subject, process: Scoring, remote: Remote, tier: Any, draw: np.random.Generator, facts: dict[str, Any]
) -> Iterator[Verdict]:
    length = min(facts.get("probe_targets", 256), 512 if subject.kind == "foreign" else 4096)
    # A stream that has documents in it, so that what goes by documents shows.
    least = facts.get("probe_least", 6)
    pieces = causality.excerpts(subject.tokens, subject.bos, [length, length, length], draw)
    piece = max(pieces[:2] + pieces[2:], key=lambda each: (len(each.edges) > 2, len(each.tokens)))
    vocab = subject.vocab

    def evaluate(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return remote.evaluate(subject.artifact, tokens)

    begin = time.monotonic()
    positions, nats = evaluate(piece.tokens)
    seconds, base = time.monotonic() - begin, evaluator.by_position((positions, nats), len(piece.targets))
    facts["seconds_per_loop"] = seconds * facts.get("excerpt_targets", length) / len(piece.targets)
    yield evaluator.once(positions, len(piece.targets))
    yield evaluator.in_order(evaluate, piece, positions, subject.bos, draw)
    yield from evaluator.flips(evaluate, piece, base, vocab, draw, Budget(tier.probe, least))
    with process.opened(subject.entry, "predictor beside the loop", probe=True) as predictor:
        if predictor is None or not predictor.scores:
            yield unchecked("C2b", "the submission gives no distribution its charges could be read off")
            return
        stretch = driver.STRETCH if hasattr(predictor, "logprobs") else None
        recorded = np.concatenate(
            [each.nats_T for each in driver.drive(predictor, subject.artifact, piece.tokens, stretch=stretch)]
        )
        yield evaluator.read_off(positions, nats, recorded, piece.tokens, piece.begin)

        def row_of(tokens: np.ndarray) -> np.ndarray:
            return causality.step(predictor, subject.artifact, tokens)

        left = Budget(tier.probe, least)
        yield from evaluator.charges(evaluate, piece, base, seconds, vocab, row_of, draw, left)
