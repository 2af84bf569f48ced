"""Adapters for each document: against dense weights and a loop written out, and what must not depend on what."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from golf.arch.families import spec_class
from golf.arch.unet import UNetSpec
from golf.contracts import ByteTable, SpecError
from golf.eval.adapters import Adapters, adaptable
from golf.eval.lora import DocumentLoRA
from golf.eval.validity import causality, driver
from golf.host import Host

VOCAB, BOS = 30, 1
TABLE = ByteTable(np.arange(VOCAB) % 5, np.arange(VOCAB) % 3 == 0, np.arange(VOCAB) < 3)
SPEC = DocumentLoRA(window=16, chunk=4, bos=BOS, rank=2, alpha=4.0, lr=0.02)


def unet(**changes):
    torch.manual_seed(1)
    model = UNetSpec(vocab=VOCAB, bos=BOS, rope_length=16, **changes).tiny().build()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def stream(length, share=0.05, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, VOCAB, length + 1)
    tokens[rng.random(length + 1) < share] = BOS
    return tokens.astype(np.uint16)


def told(spec, model, tokens, **options):
    nats = np.full(len(tokens), np.nan)
    return spec.score(model, tokens, TABLE, report=nats.__setitem__, **options), nats[1:]


@pytest.mark.parametrize("family", ["pr1361", "gelu_gpt", "qed", "xgqa", "powergqa"])
def test_new_adapters_change_no_bit_of_the_logits(family):
    torch.manual_seed(0)
    model = spec_class(family)().tiny().build()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    ids = torch.randint(2, 100, (3, 24))
    adapters = Adapters(adaptable(model, ()), 3, 4, 2.0, 0)
    before = model(ids)
    with adapters.attached(torch.arange(3)):
        assert torch.equal(model(ids), before)
        for up in adapters.up:
            nn.init.normal_(up, std=0.1)
    with adapters.attached(torch.tensor([2, 0, 1])):
        assert not torch.equal(model(ids), before)
    assert torch.equal(model(ids), before) and len(adapters.up) > 3


def test_an_adapter_is_a_change_of_the_weights():
    """Each row of a batch meets its own W + scale B A."""
    model, ids = unet(), torch.randint(2, VOCAB, (2, 12))
    adapters = Adapters(adaptable(model, ("c_q", "mlp.proj")), 2, 3, 0.5, 7)
    assert len(adapters.layers) == 2 * len(model.blocks)
    for up in adapters.up:
        nn.init.normal_(up, std=0.3)
    with torch.no_grad(), adapters.attached(torch.tensor([1, 0])):
        got = model(ids)
    for row, owner in enumerate([1, 0]):
        dense = copy.deepcopy(model)
        for layer, down, up in zip(adaptable(dense, ("c_q", "mlp.proj")), adapters.down, adapters.up):
            layer.weight.data += 0.5 * up[owner] @ down[owner]
        torch.testing.assert_close(got[row : row + 1], dense(ids[row : row + 1]), atol=1e-4, rtol=1e-4)


def written_out(model, tokens, spec):
    """One document after the other, dense weights W + scale B A, AdamW from its definition."""
    ids, last, nats = torch.from_numpy(tokens.astype(np.int64)), len(tokens) - 1, []
    edges = [0, *(edge for edge in np.flatnonzero(tokens == BOS).tolist() if 0 < edge < last), last]
    weights = dict(model.named_parameters())
    names = [name for name, layer in model.named_modules() if any(layer is each for each in adaptable(model, ()))]
    scale = spec.alpha / spec.rank
    for begin, end in itertools.pairwise(edges):
        fresh = Adapters(adaptable(model, ()), 1, spec.rank, scale, spec.seed)
        moving = [tensor[0].detach().clone() for pair in zip(fresh.down, fresh.up) for tensor in pair]
        squares, steps = [torch.zeros_like(tensor) for tensor in moving], 0
        for start in range(begin, end, spec.chunk):
            stop = min(start + spec.chunk, end)
            moving = [tensor.detach().requires_grad_() for tensor in moving]
            changed = {
                f"{name}.weight": weights[f"{name}.weight"].detach() + scale * up @ down
                for name, down, up in zip(names, moving[::2], moving[1::2])
            }
            first = max(begin, start + spec.chunk - spec.window)
            logits = torch.func.functional_call(model, changed, (ids[None, first:stop],))[0, start - first :]
            losses = F.cross_entropy(logits, ids[start + 1 : stop + 1], reduction="none")
            nats += losses.tolist()
            grads, steps = torch.autograd.grad(losses.mean(), moving), steps + 1
            for place, grad in enumerate(grads):
                squares[place] = spec.beta2 * squares[place] + (1 - spec.beta2) * grad.square()
                size = (squares[place] / (1 - spec.beta2**steps)).sqrt() + 1e-10
                moving[place] = moving[place] * (1 - spec.lr * spec.weight_decay) - spec.lr * grad / size
    return np.array(nats)


@pytest.mark.parametrize("documents", [True, False])
def test_equals_the_loop_written_out(documents):
    model, tokens = unet(documents=documents), stream(90)
    total, nats = told(SPEC, model, tokens)
    np.testing.assert_allclose(nats, written_out(model, tokens, SPEC), atol=2e-3)
    assert (total.tokens, total.bytes) == (90, int(TABLE.count(tokens[:-1], tokens[1:]).sum()))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.4])
def test_documents_side_by_side_score_as_alone_and_as_under_the_driver(share):
    model, tokens = unet(), stream(60, share, seed=3)
    tokens[[5, 6, -1]] = BOS
    total, nats = told(SPEC, model, tokens)
    for rows in (2, 5):
        other, found = told(DocumentLoRA(**{**vars(SPEC), "rows": rows}), model, tokens)
        np.testing.assert_allclose(found, nats, atol=2e-3)
        assert (other.tokens, other.bytes) == (total.tokens, total.bytes)
    for stretch in (None, 3):
        scored = driver.drive(SPEC.predictor(), model, tokens, stretch=stretch)
        np.testing.assert_allclose(np.concatenate([each.nats_T for each in scored]), nats, atol=2e-3)


def test_without_a_step_it_is_the_fixed_score():
    """The same contexts: adapters that hardly move leave what `fixed` reports."""
    model, tokens = unet(documents=False), stream(150, 0.03)
    _, fixed = told(SPEC.fixed, model, tokens)
    np.testing.assert_allclose(told(DocumentLoRA(**{**vars(SPEC), "lr": 1e-9}), model, tokens)[1], fixed, atol=1e-4)


def test_what_comes_later_changes_no_score_to_the_last_bit_and_documents_are_apart():
    model, tokens = unet(), stream(100, 0)
    tokens[[0, 40]] = BOS
    changed = tokens.copy()
    changed[21] = 2 + (tokens[21] - 1) % (VOCAB - 2)
    before, after = told(SPEC, model, tokens)[1], told(SPEC, model, changed)[1]
    assert (before[:20] == after[:20]).all() and before[20] != after[20] and (before[24:40] != after[24:40]).any()
    assert (before[40:] == after[40:]).all()


def test_repetition_is_learned_and_the_model_left_as_it_was():
    model, tokens = unet().train(), np.tile(stream(10, 0), 30)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert told(SPEC, model, tokens)[0].nats < 0.9 * told(SPEC.fixed, model, tokens)[0].nats
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items()) and model.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules()) and torch.is_grad_enabled()


def test_ranks_take_turns(monkeypatch):
    model, tokens, seen = unet(), stream(100), []
    monkeypatch.setattr(Host, "sum", lambda self, tensor: tensor)
    for rank in range(2):
        with pytest.raises(AssertionError, match="targets scored instead of 100"):
            SPEC.score(model, tokens, TABLE, host=Host(rank, 2), report=lambda places, nats: seen.extend(places))
    assert sorted(seen) == list(range(1, 101))


def test_refusals():
    for wrong, text in (
        ({"chunk": 3}, "15 would be"),
        ({"rank": 0}, "rank=0"),
        ({"lr": 0}, "lr=0"),
        ({"beta2": 1}, "beta2"),
    ):
        with pytest.raises(SpecError, match=text):
            DocumentLoRA(**{**vars(SPEC), **wrong})
    with pytest.raises(SpecError, match="no hidden matrix of the model is named 'c_x'; there are c_k"):
        told(DocumentLoRA(**{**vars(SPEC), "layers": ("c_x",)}), unet(), stream(9))


@pytest.mark.parametrize("place", (1, 5, 6, 30, 97))
def test_shown_in_one_go_it_learns_as_it_does_when_asked_in_between(place):
    model, tokens = unet(), stream(100)
    row = causality.step(SPEC.predictor(), model, tokens[:place].astype(np.int64))
    assert -row[tokens[place]] == pytest.approx(told(SPEC, model, tokens)[1][place - 1], abs=2e-4)
