"""Learning after rounding brings predictions back, moves control tensors alone and never breaks a cap."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from golf.arch import symmetries
from golf.arch.unet import UNetSpec
from golf.contracts import Role
from golf.host import Host
from golf.quant import report, symmetry
from golf.quant.apply import dequantize
from golf.quant.beam import Beam
from golf.quant.refine import key, learn, overheard, refine
from golf.quant.report import entropy
from golf.quant.squeeze import Squeeze, room
from golf.quant.trellis import Trellis
from golf.quant.waterfill import Waterfill


def quiet(event):
    pass


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    spec = UNetSpec(vocab=300, layers=2, dim=32, heads=4, kv_heads=2, bigram=None, rope_dims=4, rope_length=32)
    found = spec.build().eval()
    for name, W in found.named_parameters():
        if found.roles()[name] is not Role.CONTROL:
            torch.nn.init.normal_(W, std=0.2)
    return found


@pytest.fixture(scope="module")
def batches():
    return list(torch.randint(300, (8, 4, 32), generator=torch.Generator().manual_seed(1)))


@torch.no_grad()
def divergence(model, weights, batches):
    nats = 0.0
    for ids in batches:
        before = model(ids).log_softmax(dim=-1)
        after = torch.func.functional_call(model, weights, (ids,)).log_softmax(dim=-1)
        nats += (before.exp() * (before - after)).sum().item()
    return nats / sum(ids.numel() for ids in batches)


def damaged(model):
    """All matrices a tenth too short, which gains can mend."""
    roles = model.roles()
    return {name: W.detach() * (1.0 if roles[name] is Role.CONTROL else 0.9) for name, W in model.named_parameters()}


def test_gains_make_up_for_what_matrices_lost(model, batches):
    rounded = damaged(model)
    learned = refine(model, rounded, batches, steps=24, host=Host(), sink=quiet)
    assert {model.roles()[name] for name in learned} == {Role.CONTROL}
    assert divergence(model, rounded | learned, batches) < 0.9 * divergence(model, rounded, batches)
    again = refine(model, rounded, batches, steps=24, host=Host(), sink=quiet)
    assert all(torch.equal(learned[name], again[name]) for name in learned)


def test_a_refined_artifact_keeps_codes_and_cap(model, batches):
    def size_of(qtensors):
        return sum(int(entropy(a) * a.size) for q in qtensors.values() for a in q.parts.values()) // 8

    spec, roles = Squeeze(learn=6), model.roles()
    weights = {name: W.detach() for name, W in model.named_parameters()}
    known = spec.collect(model, batches, host=Host()).by_name
    fitted = spec.fit(weights, roles, known, size_of=size_of, cap=None, sink=quiet)
    rest = {"size_of": size_of, "host": Host(), "sink": quiet}
    refined = spec.refine(fitted, model, known, batches, cap=None, **rest)
    assert refined.bytes == size_of(refined.qtensors)
    for name, q in refined.qtensors.items():
        if roles[name] is not Role.CONTROL:
            assert q is fitted.qtensors[name]
    assert any(
        not torch.equal(*(dequantize({name: f.qtensors[name]})[name] for f in (fitted, refined))) for name in known
    )
    for cap in (refined.bytes - 1, refined.bytes - 300, int(1.002 * refined.bytes)):
        within = spec.refine(fitted, model, known, batches, cap=cap, **rest)
        assert within.bytes == size_of(within.qtensors) <= cap
        used_up = fitted.bytes in room(cap) or refined.bytes > cap
        assert within.bytes in room(cap) or not used_up
        for name in known:
            if roles[name] is Role.CONTROL:
                assert torch.equal(*(dequantize({name: f.qtensors[name]})[name] for f in (refined, within)))
    assert replace(spec, learn=0).refine(fitted, model, known, batches, cap=fitted.bytes, **rest).bytes == fitted.bytes


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
def test_weights_are_squeezed_where_the_model_is(model, batches, device):
    """Curvature, codes on one grid and on two, symmetries and learning, all with tensors of one device."""
    host, model = Host(device=torch.device(device)), copy.deepcopy(model).to(device)

    def size_of(qtensors):
        return sum(array.nbytes for qtensor in qtensors.values() for array in qtensor.parts.values())

    for method in (Waterfill(step=0.01), Trellis(step=0.01), Beam(step=0.01, survivors=4, sweeps=1, rate=0.3)):
        spec = Squeeze(matrix=method, head=method, embed=method, control=Waterfill(), learn=2)
        known = spec.collect(model, batches, host=host).by_name
        weights = {name: W.detach() for name, W in model.named_parameters()}
        weights, known = symmetry.settle(weights, known, symmetries.of(model.spec))
        assert {W.device.type for W in weights.values()} == {device}
        rest = {"size_of": size_of, "cap": None, "sink": quiet}
        fitted = spec.fit(weights, model.roles(), known, **rest)
        found = spec.refine(fitted, model, known, batches, host=host, **rest)
        assert 0 < sum(row.loss for row in report.rows(weights, found.qtensors, known)) < 0.2


def test_parts_learn_what_as_many_ranks_would(model, batches):
    """Two parts share their gradients, so a step follows the mean over both batches."""
    rounded = damaged(model)
    both = [torch.cat(pair) for pair in zip(batches[::2], batches[1::2])]
    # One part of whole batches; a Host of another device type than the CPU's would also be one.
    begin = {name: rounded[name] for name, role in model.roles().items() if role is Role.CONTROL}
    fixed = {name: W for name, W in rounded.items() if name not in begin}
    alone = learn(model, fixed, begin, both, Host(), steps=4, sink=quiet, answers={})
    shared = refine(model, rounded, batches, steps=4, host=Host(), sink=quiet)
    for name, W in shared.items():
        torch.testing.assert_close(W, alone[name], rtol=1e-3, atol=1e-5)


def test_answers_overheard_are_learned_from_as_new_ones(model, batches, monkeypatch):
    rounded = damaged(model)
    monkeypatch.setattr("golf.quant.refine.KEPT_BYTES", 3 * 4 * 32 * 300 * 4)  # room for three of the batches
    with overheard(model, batches) as answers:
        for ids_BT in reversed(batches):
            model(ids_BT)
    assert set(answers) == {key(ids_BT) for ids_BT in batches[:3]}  # whichever was read first
    again = refine(model, rounded, batches, steps=4, host=Host(), sink=quiet, answers=answers)
    anew = refine(model, rounded, batches, steps=4, host=Host(), sink=quiet)
    for name, W in anew.items():
        torch.testing.assert_close(again[name], W)
    answers[key(batches[0])] *= 2
    other = refine(model, rounded, batches, steps=4, host=Host(), sink=quiet, answers=answers)
    assert any(not torch.allclose(other[name], W) for name, W in anew.items())
