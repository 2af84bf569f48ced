"""What is said far down a stream is what was on record; text that is looked up is told from text that is predicted."""

from __future__ import annotations

import numpy as np
import pytest

from golf.eval.validity import driver, memory
from golf.eval.validity.verdict import Status

VOCAB = 12
TOKENS = np.random.default_rng(0).integers(VOCAB, size=900)


class Counts:
    """What came before which token, counted along the way; with a leak from some place on."""

    def __init__(self, leak=10**9, horizon=None):
        self.leak = leak
        if horizon:
            self.horizon = lambda state: horizon - (len(state) - 1) % horizon

    def open(self, artifact):
        return []

    def observe(self, state, token):
        return [*state, token]

    def row(self, seen):
        counts = np.bincount(seen[-20:], minlength=VOCAB) + 1.0
        return np.log(counts / counts.sum())

    def distribution(self, state):
        return self.row(state)

    def logprobs(self, state, targets_T):
        seen, rows = list(state), []
        for target in targets_T.tolist():
            row = self.row(seen)
            if len(seen) > self.leak:
                row = np.log((np.exp(row) + 0.1 * (np.arange(VOCAB) == target)) / 1.1)
            rows.append(row)
            seen.append(target)
        return np.array(rows)


def walked(predictor):
    recorded = np.concatenate([piece.nats_T for piece in driver.drive(predictor, "", TOKENS)])
    return memory.walk(predictor, "", TOKENS, recorded, np.random.default_rng(0), 5.0)


@pytest.mark.parametrize("horizon", [None, 64])
def test_a_leak_deep_in_the_stream_is_met(horizon):
    assert walked(Counts(horizon=horizon)).status is Status.PASS
    found = walked(Counts(leak=850, horizon=horizon))
    assert found.status is Status.FAIL and found.evidence["position"] > 850
    assert found.evidence["numbers"][0] < found.evidence["numbers"][1]


def test_what_rounding_does_takes_no_side():
    recorded = np.concatenate([piece.nats_T for piece in driver.drive(Counts(), "", TOKENS)])
    draw = np.random.default_rng(0)
    for off, status in ((draw.normal(size=len(recorded)) * 2e-4, Status.PASS), (-9e-4, Status.FAIL)):
        found = memory.walk(Counts(), "", TOKENS, recorded + off, draw, 5.0, check="C2b")
        assert (found.check, found.status) == ("C2b", status)


def test_what_there_was_no_time_for_is_not_passed():
    recorded = np.concatenate([piece.nats_T for piece in driver.drive(Counts(), "", TOKENS)])
    found = memory.walk(Counts(), "", TOKENS, recorded, np.random.default_rng(0), 5.0, most=0.0)
    assert found.status is Status.NOT_CHECKED


def test_few_places_kept_are_told_from_noise():
    draw = np.random.default_rng(0)
    origin, recorded = np.arange(2001), draw.exponential(3.0, 2000)
    assert memory.recognized(recorded, recorded + draw.normal(size=2000) * 0.8, origin)[0].status is Status.PASS
    kept = recorded.copy()
    kept[::15] = 0.1
    assert memory.recognized(kept, recorded, origin)[0].status is Status.FAIL


def test_a_text_that_is_recognized():
    tokens = np.where(np.arange(900) % 90, TOKENS % 11 + 1, 0)  # a document every 90 tokens
    stream, origin = memory.moved(tokens, 0, np.random.default_rng(0))
    kept = origin > 0
    np.testing.assert_array_equal(stream[kept], tokens[origin[kept]])
    assert (np.flatnonzero(kept) > origin[kept]).all()  # nothing is at its place
    plain, same = np.full(899, 1.0), np.full(len(stream) - 1, 1.0)

    def said(again):
        return [(each.check, each.status) for each in memory.recognized(plain, again, origin)]

    fine, first = ("D1", Status.PASS), np.arange(len(same)) < len(same) // 2
    assert said(same) == said(same + np.where(first, 0.02, 0.2)) == [fine, fine]
    assert said(same + 0.1 * first) == [("D1", Status.FAIL), fine]
    assert said(same + 0.5 * ~first) == [fine, ("D1", Status.FAIL)]
    assert said(same - 0.1) == [("C4b", Status.FAIL)] * 2


def test_a_text_that_is_known_by_heart():
    draw = np.random.default_rng(0)
    train = draw.normal(3.0, 0.1, 12).tolist()
    assert memory.known_by_heart(draw.normal(2.95, 0.1, 12).tolist(), train).status is Status.PASS
    assert memory.known_by_heart(draw.normal(2.0, 0.1, 12).tolist(), train).status is Status.FAIL
    assert memory.known_by_heart([1.0], train).status is Status.NOT_CHECKED
