"""The rolling cache against one forward pass a target, where the two are the same predictor, and by what it sees."""

import numpy as np
import pytest
import torch
from torch import nn

from golf.arch.unet import UNetSpec
from golf.contracts import ByteTable, DataError, SpecError
from golf.eval.rolling import Rolling, RollingPredictor
from golf.eval.sliding import SlidingWindow
from golf.eval.validity import driver
from golf.host import Host

VOCAB, BOS = 30, 1
TABLE = ByteTable(np.arange(VOCAB) % 5, np.arange(VOCAB) % 3 == 0, np.arange(VOCAB) < 3)


def unet(**changes):
    torch.manual_seed(1)
    model = UNetSpec(**{"vocab": VOCAB, "bos": BOS, "rope_length": 16} | changes).tiny().build()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def stream(length, share=0.06, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, VOCAB, length + 1).astype(np.uint16)
    tokens[rng.random(length + 1) < share] = BOS
    return tokens


def told(spec, model, tokens):
    """(Score, nats of every target by position)."""
    nats = np.full(len(tokens), np.nan)
    return spec.score(model, tokens, TABLE, report=nats.__setitem__), nats[1:]


@torch.no_grad()
def test_a_window_over_everything_is_one_forward():
    model, tokens = unet(rope_length=64, documents=False), stream(60)
    total, nats = told(Rolling(window=64, chunk=7), model, tokens)
    ids = torch.from_numpy(tokens.astype(np.int64))
    logits_TV = model(torch.nn.functional.pad(ids[:-1], (0, 4))[None])[0, :60]
    wanted = nn.functional.cross_entropy(logits_TV, ids[1:], reduction="none").numpy()
    np.testing.assert_allclose(nats, wanted, atol=2e-5)
    assert (total.tokens, total.bytes) == (60, int(TABLE.count(tokens[:-1], tokens[1:]).sum()))


def test_documents_shorter_than_the_window_score_as_by_sliding():
    """Where the model keeps documents apart, both predictors see the whole of a short one."""
    model, tokens = unet(), stream(300, share=0.3, seed=4)
    edges = np.flatnonzero(tokens == BOS)
    assert np.diff(edges).max() < 28
    rolling, nats = told(Rolling(window=32, chunk=9), model, tokens)
    sliding, wanted = told(SlidingWindow(window=32, stride=4), model, tokens)
    np.testing.assert_allclose(nats, wanted, atol=5e-5)
    assert (rolling.tokens, rolling.bytes) == (sliding.tokens, sliding.bytes)


@pytest.mark.parametrize("chunk", [1, 5, 64, 1000])
def test_chunks_change_nothing(chunk):
    model, tokens = unet(documents=False), stream(150)
    _, nats = told(Rolling(window=16, chunk=chunk), model, tokens)
    np.testing.assert_allclose(nats, told(Rolling(window=16, chunk=16), model, tokens)[1], atol=5e-5)


def test_it_sees_further_than_its_window_and_never_ahead():
    """Bigram and smear gate reach two tokens on, and each of three blocks with windows of 8 seven more."""
    model, tokens = unet(documents=False), stream(80, share=0)
    changed = tokens.copy()
    changed[40] = 2 + (tokens[40] - 1) % (VOCAB - 2)
    before, after = (told(Rolling(window=8, chunk=11), model, each)[1] for each in (tokens, changed))
    moved = np.flatnonzero(before != after) + 1  # targets
    assert moved.min() == 40  # as a target; as an input it first matters for 41
    assert 50 < moved.max() <= 40 + 2 + 3 * 7 + 1


def test_lanes_split_the_stream_and_hardly_move_the_score():
    model, tokens = unet(documents=False), stream(400)
    alone, nats = told(Rolling(window=32), model, tokens)
    shared, others = told(Rolling(window=32, lanes=3), model, tokens)
    assert not np.isnan(others).any() and shared.tokens == 400 and shared.bytes == alone.bytes
    np.testing.assert_allclose(others[:133], nats[:133], atol=5e-5)
    assert shared.nats == pytest.approx(alone.nats, rel=0.01)
    assert told(Rolling(window=32, lanes=900), unet(), stream(5))[0].tokens == 5


@pytest.mark.parametrize("stretch", [None, 7, 64])
def test_the_driver_gets_the_same_numbers(stretch):
    model, tokens = unet(), stream(100)
    _, nats = told(Rolling(window=16), model, tokens)
    found = driver.drive(RollingPredictor(Rolling(window=16, chunk=5)), model, tokens, stretch=stretch)
    np.testing.assert_allclose(np.concatenate([scored.nats_T for scored in found]), nats, atol=5e-5)


def test_what_cannot_be():
    with pytest.raises(SpecError, match="lanes=0 must be at least 1"):
        Rolling(lanes=0)
    with pytest.raises(SpecError, match="Linear has no cache to roll"):
        Rolling().score(nn.Linear(2, 2), stream(5), TABLE)
    with pytest.raises(DataError, match="at least 2 tokens"):
        Rolling().score(unet(), stream(0), TABLE)


@pytest.mark.parametrize("world", [2, 5])
def test_ranks_share_the_lanes(world, monkeypatch):
    """A rank without a lane scores nothing and still joins the sums."""
    model, tokens, spec = unet(), stream(100), Rolling(window=16, lanes=3)
    nats, found = told(spec, model, tokens)[1], np.full(101, np.nan)
    monkeypatch.setattr(Host, "sum", lambda self, tensor: tensor)
    for rank in range(world):
        with pytest.raises(AssertionError, match="targets scored instead of 100"):
            spec.score(model, tokens, TABLE, host=Host(rank, world), report=found.__setitem__)
    np.testing.assert_allclose(found[1:], nats, atol=5e-5)
