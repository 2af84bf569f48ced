"""Likelihoods of continuations against one forward pass per token."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from golf.arch import families
from golf.arch.unet import UNetSpec
from golf.contracts import DataError, named_hooks
from golf.eval import zeroshot
from golf.eval.zeroshot import STEP, Answer, Request, log_probabilities, plan

VOCAB, BOS = 40, 1


def unet(rope_length=16):
    """A U-Net that stretches its rotary base beyond `rope_length`, and so changes with the length of its input."""
    torch.manual_seed(1)
    model = UNetSpec(vocab=VOCAB, bos=BOS, rope_length=rope_length).tiny().build()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def draw(count, longest=30, seed=0):
    random = np.random.default_rng(seed)

    def some(low, high):
        return tuple(random.integers(2, VOCAB, random.integers(low, high + 1)).tolist())

    contexts = [(BOS, *some(0, longest)) for _ in range(count // 3)]
    return [Request(contexts[place % len(contexts)], some(1, 6)) for place in range(count)]


@torch.no_grad()
def one_by_one(model, request, window):
    """A pass for each token of the continuation, padded as the whole row is."""
    row = (request.context + request.continuation)[-window - 1 :]
    padded = min(window, -(-(len(row) - 1) // STEP) * STEP)
    first, total, greedy = len(row) - len(request.continuation), 0.0, True
    for place in range(first, len(row)):
        ids = torch.zeros(1, padded, dtype=torch.int64)
        ids[0, :place] = torch.tensor(row[:place])
        chances = torch.log_softmax(model(ids)[0, place - 1].double(), -1)
        total += chances[row[place]].item()
        greedy &= chances.argmax().item() == row[place]
    return Answer(total, greedy)


@pytest.mark.parametrize("window", [12, 64])
def test_equals_one_pass_per_token(window):
    model = unet().eval()
    requests = draw(40)
    # What the model itself would say is the only kind of continuation that greedy decoding agrees with.
    ids = [BOS, 5, 6]
    for _ in range(3):
        padded = torch.tensor([ids + [0] * (min(window, STEP) - len(ids))])
        ids.append(model(padded)[0, len(ids) - 1].argmax().item())
    requests.append(Request((BOS, 5, 6), tuple(ids[3:])))
    found = log_probabilities(model, requests, window=window, batch_tokens=200)
    for request, answer in zip(requests, found):
        wanted = one_by_one(model, request, window)
        assert answer.log_probability == pytest.approx(wanted.log_probability, abs=1e-4)
        assert answer.greedy == wanted.greedy
    assert found[-1].greedy and not all(answer.greedy for answer in found)


def test_batches_change_nothing():
    model, requests = unet(), draw(30)
    told = []
    small = log_probabilities(model, requests, window=64, batch_tokens=1, sink=told.append)
    large = log_probabilities(model, requests, window=64, batch_tokens=10**6)
    done = [event.values["done"] for event in told]
    assert done == sorted(done) and done[-1] == told[-1].values["total"] and len(set(done)) == len(done) > 3
    for a, b in zip(small, large):
        assert a.log_probability == pytest.approx(b.log_probability, abs=1e-5)


def test_requests_that_read_the_same_share_a_row():
    context = (BOS, 7, 8, 9)
    letters = [Request(context, (letter,)) for letter in range(10, 15)]  # A to E behind one question
    longer = Request(context, (10, 11, 12))  # reads on where the letters stop
    other = Request((BOS, 7, 30), (3,))
    rows = plan([*letters, longer, other], 64)
    assert [row.tokens for row in rows] == [(BOS, 7, 8, 9, 10, 11), (BOS, 7, 30)]
    assert sorted(rows[0].asked) == [(place, 3) for place in range(6)]
    # A longer row of another padded length is left alone.
    assert len(plan([letters[0], Request(context, tuple(range(2, 2 + STEP)))], 64)) == 2


@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_context_is_read_once(family):
    """The same answers as without a cache, from half of the tokens."""
    torch.manual_seed(2)
    model = replace(families.spec_class(family)(), vocab=VOCAB).tiny().build()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    random = np.random.default_rng(3)
    contexts = [(BOS, *random.integers(2, VOCAB, size).tolist()) for size in (40, 40, 55)]
    requests = [
        Request(context, tuple(random.integers(2, VOCAB, size).tolist())) for context in contexts for size in (3, 11, 5)
    ]
    requests.append(Request(contexts[0][:20], (5, 6)))
    read = []
    table = next(layer for _, layer in named_hooks(model))
    hook = table.register_forward_pre_hook(lambda layer, inputs: read.append(inputs[0].numel()))
    found = log_probabilities(model, requests, window=128)
    with_cache = sum(read)
    read.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zeroshot, "shared", lambda requests, window: {})
        plain = log_probabilities(model, requests, window=128)
    hook.remove()
    for a, b in zip(found, plain):
        assert a.log_probability == pytest.approx(b.log_probability, abs=2e-4) and a.greedy == b.greedy
    assert with_cache < 0.6 * sum(read)


@pytest.mark.parametrize("request_", [Request((), (3,)), Request((BOS,), ()), Request((BOS,), (3,) * 9)])
def test_what_cannot_be_asked(request_):
    with pytest.raises(DataError, match="window=8"):
        log_probabilities(unet(), [request_], window=8)
