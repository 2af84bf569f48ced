"""Steps from curvature: what they are, what they cost, and that they are read back as they were."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from golf.contracts import ArtifactError, BudgetError, HessianError, QTensor, Role, SpecError
from golf.quant import apply
from golf.quant.apply import dequantize
from golf.quant.fisher import INPUT_DAMP, Curvature
from golf.quant.gptq import gptq
from golf.quant.grid import Grid, exponents, power_step
from golf.quant.ramp import join
from golf.quant.report import entropy, rows
from golf.quant.squeeze import Squeeze, room
from golf.quant.waterfill import Waterfill, round_tensor


def curved(outputs: int, width: int, seed: int = 0) -> tuple[torch.Tensor, Curvature]:
    """A weight, inputs of very unequal loudness, correlated, and rows of unequal weight."""
    random = torch.Generator().manual_seed(seed)
    loud = torch.exp(1.5 * torch.randn(width, generator=random))
    X = torch.randn(4 * width, width, generator=random) @ torch.randn(width, width, generator=random) * loud
    H = X.T @ X
    weight = torch.exp(torch.randn(outputs, generator=random))
    return torch.randn(outputs, width, generator=random) * 0.05, Curvature("w", H / H.diagonal().mean(), weight)


def test_powers_of_two_to_the_quarter():
    quarters = torch.arange(-127, 128)
    steps = power_step(quarters)
    torch.testing.assert_close(steps.double(), 2.0 ** (quarters.double() / 4), rtol=1e-7, atol=0)
    assert torch.equal(exponents(steps).long(), quarters)
    assert exponents(torch.tensor([0.0, math.inf])).tolist() == [-127, 127]


def test_every_weight_is_predicted_to_cost_the_same():
    W, curvature = curved(40, 64)
    step = 0.003
    q = round_tensor(W, curvature, step)
    damped = replace(curvature, inputs_KK=curvature.inputs_KK + INPUT_DAMP * torch.eye(64))
    cost = damped.loss(W - dequantize({"w": q})["w"])
    # Exponents in quarters put it a little beside c s^2 / 24 a weight.
    assert cost == pytest.approx(W.numel() * step**2 / 24, rel=0.1)


def test_fewer_bits_than_one_step_a_row_at_the_same_loss():
    W, curvature = curved(128, 64)
    read = dequantize({"w": (ours := round_tensor(W, curvature, 0.03))})["w"]
    cost = curvature.loss(W - read)

    def theirs(k: float) -> tuple[float, QTensor]:
        q = gptq(W, curvature.inputs_KK, Grid(8), k=k)
        return curvature.loss(W - dequantize({"w": q})["w"]), q

    finest_over = min((k for k in range(1, 60) if theirs(k)[0] >= cost), key=lambda k: theirs(k)[0])
    plain = theirs(finest_over)[1]

    def bits(q: QTensor) -> float:
        """By column, where ours differ; side information counted in full bytes for ours, not at all for theirs."""
        columns = sum(entropy(q.parts["codes"][:, k]) for k in range(64)) * 128
        return columns + (8 * (64 + 128) if q is ours else 0)

    assert bits(ours) < 0.9 * bits(plain)


def test_codes_do_not_depend_on_the_block(monkeypatch):
    W, curvature = curved(30, 50)
    codes = round_tensor(W, curvature, 0.01).parts["codes"]
    monkeypatch.setattr("golf.quant.waterfill.BLOCK", 7)
    assert np.array_equal(round_tensor(W, curvature, 0.01).parts["codes"], codes)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 9), (3, 2, 4)], ids=str)
def test_any_shape_without_inputs_comes_back_within_half_a_step(shape):
    W = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    leading = max(1, math.prod(shape[:-1]))
    read = dequantize({"w": (q := round_tensor(W, Curvature("w", None, torch.full((leading,), 4.0)), 0.01))})["w"]
    assert read.shape == W.shape and q.parts["rows"].shape == (leading,)
    assert (read - W).abs().max() <= 0.005 * 2**0.125 / 2


def test_fine_steps_take_two_bytes_a_code():
    W, curvature = curved(8, 16)
    coarse, fine = (round_tensor(W, curvature, step) for step in (0.1, 1e-5))
    assert (coarse.parts["codes"].dtype, coarse.alphabets["codes"]) == (np.int8, 255)
    assert (fine.parts["codes"].dtype, fine.alphabets["codes"]) == (np.int16, 65535)
    assert (dequantize({"w": fine})["w"] - W).abs().max() < 1e-3


def test_a_weight_without_curvature_becomes_nothing():
    q = round_tensor(torch.randn(4, 6), Curvature("w", None, torch.zeros(4)), 0.01)
    assert not dequantize({"w": q})["w"].any()


def test_what_does_not_fit_together_is_refused():
    q = round_tensor(*curved(5, 6), 0.01)
    for parts in (
        q.parts | {"columns": q.parts["columns"][:-1]},
        q.parts | {"rows": q.parts["rows"].astype(np.float16)},
        q.parts | {"more": q.parts["rows"]},
        {"codes": q.parts["codes"]},
    ):
        with pytest.raises(ArtifactError):
            Waterfill.dequantize(QTensor((5, 6), "waterfill", parts))
    with pytest.raises(HessianError, match="no curvature for w"):
        Waterfill().quantize({"w": torch.zeros(2, 2)}, {}, 1.0)
    with pytest.raises(SpecError, match="step=0"):
        Waterfill(step=0)


def model() -> tuple[dict, dict, dict]:
    weights, known = {}, {}
    for seed, (name, shape) in enumerate({"a.weight": (96, 64), "b.weight": (64, 96)}.items()):
        weights[name], known[name] = curved(*shape, seed=seed)
    weights["gain"], known["gain"] = torch.linspace(0.5, 2, 64), Curvature("gain", None, torch.tensor([0.1]))
    return weights, {"a.weight": Role.HEAD, "b.weight": Role.MATRIX, "gain": Role.CONTROL}, known


def size_of(qtensors: dict[str, QTensor]) -> int:
    arrays = [array for q in qtensors.values() for array in q.parts.values()]
    return 300 + sum(math.ceil(entropy(array) * array.size / 8) for array in arrays)


def fitted(cap: int | None):
    weights, roles, known = model()
    return SPEC.fit(weights, roles, known, size_of=size_of, cap=cap, sink=lambda event: None)


SPEC = Squeeze(**dict.fromkeys(("matrix", "head", "embed", "control"), Waterfill(step=0.005)))
NATURAL = size_of(apply.quantize(*model(), SPEC))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9, 0.98, 1.0, 1.01, 1.2])
def test_a_fit_is_within_a_thousandth_of_the_cap(share):
    cap = int(share * NATURAL)
    found = fitted(cap)
    assert room(cap).start - 2 <= found.bytes <= cap  # a row of these takes more than a thousandth
    assert found.bytes == size_of(found.qtensors) and found.tries <= (8 if share > 0.4 else 24)


def test_a_fit_uses_up_the_cap_where_many_rows_change_their_step_at_once():
    weights, roles, known = model()
    unseen = known["a.weight"].rows_R.clone()
    unseen[8:] = unseen[8]  # rows of a table that no text showed
    known["a.weight"] = replace(known["a.weight"], rows_R=unseen)
    for share in (0.8, 0.93, 1.02, 1.2):
        cap = int(share * NATURAL)
        found = SPEC.fit(weights, roles, known, size_of=size_of, cap=cap, sink=lambda event: None)
        assert found.bytes == size_of(found.qtensors) and found.bytes in room(cap)


def test_rows_of_two_roundings_stand_in_one_tensor():
    weights, roles, known = model()
    fine, coarse = (apply.quantize(weights, roles, known, SPEC, multiplier) for multiplier in (1.0, 1.3))
    total = sum(W.numel() for W in weights.values())
    read = {place: dequantize(join(fine, coarse, place)) for place in (0, 6144 + 10 * 96 + 5, total)}
    for name in weights:
        assert torch.equal(read[0][name], dequantize(coarse)[name])
        assert torch.equal(read[total][name], dequantize(fine)[name])
    (split,) = [read[place] for place in read if 0 < place < total]
    assert torch.equal(split["a.weight"], read[total]["a.weight"]) and torch.equal(split["gain"], read[0]["gain"])
    assert torch.equal(split["b.weight"][:10], read[total]["b.weight"][:10])
    assert torch.equal(split["b.weight"][10:], read[0]["b.weight"][10:])


def test_without_a_cap_the_step_stands():
    assert (fitted(None).multiplier, fitted(None).bytes) == (1.0, NATURAL)


def test_a_generous_cap_loses_nothing_to_speak_of():
    found, (weights, _, known) = fitted(10**9), model()
    assert sum(row.loss for row in rows(weights, found.qtensors, known)) < 1e-6


def test_an_impossible_cap_is_refused_with_the_smallest_size():
    with pytest.raises(BudgetError, match=r"the smallest artifact .* is \d+ bytes, \d+ over"):
        fitted(200)
