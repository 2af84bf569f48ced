"""The driver scores every target once, in order, from whole distributions, and shows none too early."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from golf.contracts import ByteTable, DivergedError, PredictorError
from golf.eval.sliding import SlidingWindow
from golf.eval.validity import driver
from golf.eval.validity.windows import Windows

V = 11


class Bigrams:
    """Counts of what followed what, plus one: adapts with every token, exact in both forms."""

    def open(self, artifact):
        return {"counts": np.ones((V, V)), "last": None}

    def observe(self, state, token):
        if state["last"] is not None:
            state["counts"][state["last"], token] += 1
        state["last"] = token
        return state

    def distribution(self, state):
        row = state["counts"][state["last"]]
        return np.log(row / row.sum())


class Watched(Bigrams):
    """Writes down what it is asked and shown."""

    def __init__(self):
        self.log = []

    def observe(self, state, token):
        self.log.append(("shown", token))
        return super().observe(state, token)

    def distribution(self, state):
        self.log.append(("asked", None))
        return super().distribution(state)


class Frozen(Bigrams):
    """Learns at every fourth token only, and answers for the stretch in between."""

    def open(self, artifact):
        return super().open(artifact) | {"waiting": []}

    def observe(self, state, token):
        state["waiting"].append(token)
        if len(state["waiting"]) == 4:
            for each in state["waiting"]:
                state = Bigrams.observe(self, state, each)
            state["waiting"] = []
        return state

    def _row(self, state, last):
        row = state["counts"][last if last is not None else 0]
        return np.log(row / row.sum())

    def distribution(self, state):
        return self._row(state, state["waiting"][-1] if state["waiting"] else state["last"])

    def horizon(self, state):
        return 4 - len(state["waiting"])

    def logprobs(self, state, targets):
        assert len(targets) <= self.horizon(state)
        before = state["waiting"][-1] if state["waiting"] else state["last"]
        return np.stack([self._row(state, last) for last in [before, *targets[:-1].tolist()]])


class Toy(nn.Module):
    """Logits from a causal running mean of embeddings, and from the length fed, as the U-Net's rotary base does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(V, 6)
        self.head = nn.Linear(6, V)

    def forward(self, ids, tail=None):
        x = self.table(ids).cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None]
        x = torch.tanh(3 * x) * (1 + 1 / ids.shape[1])
        return self.head(x if tail is None else x[:, ids.shape[1] - tail :])


def stream(count, seed=0):
    return np.random.default_rng(seed).integers(0, V, count).astype(np.uint16)


def table():
    return ByteTable(np.arange(V), np.zeros(V, bool), np.zeros(V, bool))


def nats(predictor, artifact, tokens, stretch):
    return np.concatenate([scored.nats_T for scored in driver.drive(predictor, artifact, tokens, stretch=stretch)])


def test_a_target_is_shown_after_it_was_asked_for():
    watched, tokens = Watched(), stream(50)
    list(driver.drive(watched, None, tokens))
    shown = [("shown", int(token)) for token in tokens]
    assert watched.log[0] == shown[0]
    assert watched.log[1::2] == [("asked", None)] * 49
    assert watched.log[2::2] == shown[1:]


def test_every_target_once_and_the_sum_by_hand():
    tokens = stream(300)
    pieces = list(driver.drive(Bigrams(), None, tokens))
    assert [piece.first for piece in pieces] == list(range(1, 300))
    counts, expected = np.ones((V, V)), 0.0
    for last, token in zip(tokens[:-1].tolist(), tokens[1:].tolist()):
        expected -= np.log(counts[last, token] / counts[last].sum())
        counts[last, token] += 1
    total = driver.score(Bigrams(), None, tokens, table())
    assert total.tokens == 299 and total.bytes == tokens[1:].sum()
    assert total.nats == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("stretch", [1, 3, 1024])
def test_stretches_end_where_something_was_learned(stretch):
    tokens = stream(203)
    np.testing.assert_allclose(nats(Frozen(), None, tokens, stretch), nats(Frozen(), None, tokens, None), rtol=1e-12)


@pytest.mark.parametrize("documents", ["stream", "isolated"])
@pytest.mark.parametrize("stretch", [5, 64, None])
@pytest.mark.parametrize(("window", "stride"), [(16, 4), (16, 16), (16, 5), (7, 1)])
def test_windows_are_the_sliding_window(documents, stretch, window, stride):
    spec = SlidingWindow(window=window, stride=stride, documents=documents, bos=1)
    tokens, model, found = stream(150), Toy().eval(), np.full(151, np.nan)

    def report(places, values):
        found[places] = values

    kept = spec.score(model, tokens, table(), report=report)
    np.testing.assert_allclose(nats(Windows(spec), model, tokens, stretch), found[1:150], rtol=1e-5)
    total = driver.score(Windows(spec), model, tokens, table(), stretch=stretch)
    assert (total.tokens, total.bytes) == (kept.tokens, kept.bytes)


class Apart(Toy):
    """The same, in which every document's mean begins anew."""

    spec = SimpleNamespace(documents=True, bos=1, vocab=V)

    def forward(self, ids, tail=None):
        x = self.table(ids).cumsum(1)
        begins = torch.where(ids == 1, torch.arange(ids.shape[1]), 0).cummax(1).values
        before = torch.where(begins[..., None] > 0, x.gather(1, (begins - 1).clamp(min=0)[..., None].expand_as(x)), 0.0)
        x = (x - before) / (torch.arange(ids.shape[1]) - begins + 1)[..., None]
        x = torch.tanh(3 * x) * (1 + 1 / ids.shape[1])
        return self.head(x if tail is None else x[:, ids.shape[1] - tail :])


@pytest.mark.parametrize("documents", ["stream", "isolated"])
@pytest.mark.parametrize("stretch", [5, 64, None])
@pytest.mark.parametrize(("window", "stride"), [(16, 4), (16, 16), (16, 5), (7, 1)])
def test_a_window_goes_on_over_documents_that_the_model_keeps_apart(documents, stretch, window, stride):
    spec = SlidingWindow(window=window, stride=stride, documents=documents, bos=1)
    tokens, model, found = stream(150), Apart().eval(), np.full(151, np.nan)
    tokens[60:110] = np.where(tokens[60:110] == 1, 2, tokens[60:110])  # a document longer than any window
    spec.score(model, tokens, table(), report=found.__setitem__)
    np.testing.assert_allclose(nats(Windows(spec), model, tokens, stretch), found[1:150], rtol=1e-5)
    fed = []
    model.register_forward_hook(lambda module, ids, logits: fed.append(ids))
    nats(Windows(spec), model, tokens, 149)
    # Documents are not known before they end, so some begin twice; yet no more is fed than one by one.
    assert len(fed) <= sum(1 for _ in spec.plan(Toy(), tokens))


class Answers:
    """Says the same, whatever it is shown."""

    def __init__(self, row):
        self.row = row

    def open(self, artifact):
        return None

    def observe(self, state, token):
        return None

    def distribution(self, state):
        return self.row


@pytest.mark.parametrize(
    ("row", "error", "says"),
    [
        (np.log(np.full(V, 2 / V)), PredictorError, "target 1 add up to 2.0"),
        (np.log(np.full(V - 1, 1 / (V - 1))), PredictorError, r"shape \(1, 10\)"),
        (np.full(V, np.nan), PredictorError, "target 1 holds NaN"),
        (np.where(np.arange(V) == 3, 0.0, -np.inf), DivergedError, "probability 0"),
    ],
)
def test_what_is_no_distribution_is_refused(row, error, says):
    with pytest.raises(error, match=says):
        driver.score(Answers(row), None, stream(20), table())
