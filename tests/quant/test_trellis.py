"""Two grids that take turns: the same path as an exhaustive search, fewer bytes for the same loss, exact reading."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_waterfill import curved

from golf.contracts import ArtifactError, QTensor
from golf.pack import rans
from golf.quant import stacked, viterbi
from golf.quant.apply import dequantize
from golf.quant.fisher import Curvature
from golf.quant.ramp import join
from golf.quant.trellis import WAYS, Trellis, halves, visits
from golf.quant.viterbi import NEXT, path
from golf.quant.waterfill import round_tensor


def spelled(codes: list[int]) -> list[float]:
    """Levels in steps, one code at a time."""
    state, found = 0, []
    for code in codes:
        shift = 0.5 if state > 1 else 0.0
        found.append(code - shift * np.sign(code))
        state = NEXT[state][code % 2]
    return found


def test_ways_are_the_transitions_backwards():
    for state, pair in enumerate(WAYS):
        assert [NEXT[way >> 1][way & 1] for way in pair] == [state, state]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-30000, 30000), max_size=40), st.randoms())
def test_levels_are_told_by_parities_in_visiting_order(codes, random):
    order = random.sample(range(len(codes)), len(codes))
    found = halves(torch.tensor(codes, dtype=torch.int64).reshape(-1, 1), torch.tensor(order, dtype=torch.int64))[:, 0]
    assert (found[order] / 2).tolist() == spelled([codes[place] for place in order])


def test_the_path_is_the_best_there_is():
    """Without feedback Viterbi is exact: no other codes of a short row come nearer."""
    W_KR = 0.9 * torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    codes_KR = path(W_KR, torch.eye(5, dtype=torch.float64)).long()
    read_KR = halves(codes_KR, torch.arange(5)) / 2
    tried = {codes: np.array(spelled(list(codes))) for codes in itertools.product(range(-3, 4), repeat=5)}
    levels = np.stack(list(tried.values()))
    for row in range(8):
        best = ((levels - W_KR[:, row].numpy()) ** 2).sum(1).min()
        assert ((read_KR - W_KR)[:, row] ** 2).sum().item() == pytest.approx(best)


def test_paths_do_not_depend_on_the_block():
    W_KR, U_KK = in_steps(*curved(30, 150))
    assert all(torch.equal(path(W_KR, U_KK, block), path(W_KR, U_KK, 50)) for block in (1, 7, 20))


def in_steps(W: torch.Tensor, curvature: Curvature) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights in visiting order, and the factor, in steps."""
    return W.double().T / 0.02, curvature.factor.U_KK / curvature.factor.U_KK.diagonal()


def test_deciding_far_behind_changes_next_to_nothing(monkeypatch):
    W_KR, U_KK = in_steps(*curved(300, 200))
    found = path(W_KR, U_KK)
    monkeypatch.setattr(viterbi, "DEPTH", 200)
    assert (found != path(W_KR, U_KK)).any(dim=0).sum() < 10


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_many_matrices_at_once_take_the_paths_they_take_alone(device):
    alone = [in_steps(*curved(40, 150, seed)) for seed in range(3)]
    together = (torch.stack(parts).to(device) for parts in zip(*alone))
    assert torch.equal(stacked.path(*together).cpu(), torch.stack([path(*parts) for parts in alone]))


def test_the_same_tensors_together_as_one_by_one():
    shapes = {"a": (20, 30), "b": (20, 30), "c": (30, 20), "zeros": (20, 30), "gain": (1, 30)}
    weights, known = zip(*(curved(*shape, seed) for seed, shape in enumerate(shapes.values())))
    weights, known = dict(zip(shapes, weights)), dict(zip(shapes, known))
    weights["zeros"] = weights["zeros"] / 1000
    known["gain"] = replace(known["gain"], inputs_KK=None)
    plan = Trellis(step=0.003)
    one, all_ = plan.side_by_side(weights, known, 1.0), plan.together(weights, known, 1.0)
    assert {name: q.method for name, q in one.items()} == {name: q.method for name, q in all_.items()}
    assert {q.method for q in one.values()} == {"trellis", "waterfill"}
    for name, q in one.items():
        assert all(np.array_equal(q.parts[part], all_[name].parts[part]) for part in q.parts)


def test_better_than_one_grid():
    """Loss and bytes together, at the exchange rate that steps imply, where codes carry some five bits."""
    W, curvature = curved(256, 64)
    step = 0.0007
    two, one = Trellis.round(W, curvature, step), round_tensor(W, curvature, step)
    assert (two.method, one.method) == ("trellis", "waterfill")

    def price(q: QTensor) -> float:
        bits = rans.cost(rans.Stream(q.parts["codes"].ravel(), 65535, 64, heights=(256,)))
        return curvature.loss(W - dequantize({"w": q})["w"]) + 2 * np.log(2) * step**2 / 24 * bits

    assert price(two) < price(one) - 0.05 * W.numel() * 2 * np.log(2) * step**2 / 24


def test_mostly_zeros_and_controls_keep_one_grid():
    W, curvature = curved(20, 30)
    assert Trellis.round(W, curvature, 0.5).method == "waterfill"
    assert Trellis.round(W, Curvature("w", None, torch.ones(20)), 0.01).method == "waterfill"


def test_an_input_that_never_came_becomes_nothing():
    W, curvature = curved(20, 30)
    H_KK = curvature.inputs_KK.clone()
    H_KK[3] = H_KK[:, 3] = 0
    q = Trellis.round(W, replace(curvature, inputs_KK=H_KK), 0.003)
    assert q.method == "trellis" and not dequantize({"w": q})["w"][:, 3].any()


def test_rows_of_two_roundings_are_read_as_they_were():
    W, curvature = curved(20, 30)
    fine, coarse = ({"w": Trellis.round(W, curvature, step)} for step in (0.003, 0.004))
    mixed = join(fine, coarse, 7 * 30)
    read = dequantize(mixed)["w"]
    assert mixed["w"].method == "trellis"
    assert torch.equal(read[:7], dequantize(fine)["w"][:7]) and torch.equal(read[7:], dequantize(coarse)["w"][7:])


def test_tensors_of_two_methods_are_not_joined():
    W, curvature = curved(20, 30)
    one, two = ({"w": method(W, curvature, 0.003)} for method in (round_tensor, Trellis.round))
    assert join(two, one, 7 * 30) == one and join(two, one, 20 * 30) == two


def test_what_does_not_fit_together_is_refused():
    q = Trellis.round(*curved(5, 6), 0.001)
    assert visits(torch.from_numpy(q.parts["columns"])).sort().values.tolist() == list(range(6))
    for parts in (
        q.parts | {"columns": q.parts["columns"][:-1]},
        q.parts | {"rows": q.parts["rows"][:-1]},
        {part: array for part, array in q.parts.items() if part != "columns"},
    ):
        with pytest.raises(ArtifactError):
            Trellis.dequantize(replace(q, parts=parts))
