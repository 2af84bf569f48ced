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


def test_a_text_that_is_recognized():
    plain = np.full(500, 1.0)
    assert memory.recognized(plain, plain + np.r_[np.full(60, 3.0), np.zeros(440)]).status is Status.PASS
    found = memory.recognized(plain, plain + 0.2)
    assert found.status is Status.FAIL and found.evidence["position"] > memory.SETTLES


def test_a_text_that_is_known_by_heart():
    draw = np.random.default_rng(0)
    train = draw.normal(3.0, 0.1, 12).tolist()
    assert memory.known_by_heart(draw.normal(2.95, 0.1, 12).tolist(), train).status is Status.PASS
    assert memory.known_by_heart(draw.normal(2.0, 0.1, 12).tolist(), train).status is Status.FAIL
    assert memory.known_by_heart([1.0], train).status is Status.NOT_CHECKED
