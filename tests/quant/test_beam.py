"""Rounding that keeps several beginnings: one of them is GPTQ's, enough of them find the best there is; descent only
ever lowers the Lagrangian."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_waterfill import curved
from torch import Tensor

from golf.contracts import SpecError
from golf.quant import trellis
from golf.quant.apply import dequantize
from golf.quant.beam import ONE_STATE, Beam, search, searched, two_nearest
from golf.quant.descent import BIT, bits, descend, deviations, lagrangian
from golf.quant.fisher import Curvature
from golf.quant.trellis import WAYS, Trellis
from golf.quant.waterfill import round_tensor

RATES = (0.0, 0.3, 2.0)


def problem(width: int, rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights in steps [K, R] and the factor of correlated inputs, in visiting order, of a diagonal about 1."""
    W, curvature = curved(rows, width, seed)
    U_KK = curvature.factor.U_KK
    return W.T.double() / 0.03, U_KK / U_KK.diagonal()


@pytest.mark.parametrize("step", [0.001, 0.01, 0.1])
def test_one_survivor_and_no_sweeps_are_gptq_bit_for_bit(step):
    W, curvature = curved(30, 50)
    plain, ours = round_tensor(W, curvature, step), Beam(grids=1, survivors=1, sweeps=0).round(W, curvature, step)
    assert plain.parts.keys() == ours.parts.keys() and plain.method == ours.method
    assert all(np.array_equal(plain.parts[part], ours.parts[part]) for part in plain.parts)


def test_one_survivor_a_state_is_the_path_of_the_trellis_bit_for_bit():
    W, curvature = curved(30, 50)
    plain, ours = Trellis.round(W, curvature, 0.002), Beam(survivors=4).round(W, curvature, 0.002)
    assert plain.method == ours.method == "trellis"
    assert all(np.array_equal(plain.parts[part], ours.parts[part]) for part in plain.parts)


@pytest.mark.parametrize("seed", range(3))
def test_enough_survivors_find_the_best_codes_there_are(seed):
    W_KR, U_KK = problem(4, 12, seed)
    H_KK = torch.linalg.inv(U_KK.T @ U_KK)
    near_KR = W_KR.round()
    found_R = lagrangian(search(W_KR, U_KK, two_nearest, ONE_STATE, 16), W_KR, U_KK)
    moves_KN = torch.tensor(list(itertools.product(range(-3, 4), repeat=4)), dtype=torch.float64).T
    for row in range(12):
        E_KN = (W_KR - near_KR)[:, row, None] - moves_KN
        assert found_R[row] <= (E_KN * (H_KK @ E_KN)).sum(0).min() * (1 + 1e-9)


def test_enough_survivors_find_the_best_path_of_two_grids():
    W_KR, U_KK = problem(5, 6)
    H_KK = torch.linalg.inv(U_KK.T @ U_KK)
    codes_KR = search(W_KR, U_KK, trellis.nearest, WAYS, 16).long()
    E_KR = W_KR - trellis.halves(codes_KR, torch.arange(5)) / 2
    found_R = (E_KR * (H_KK @ E_KR)).sum(0)
    tried_KN = torch.tensor(list(itertools.product(range(-2, 3), repeat=5))).T
    for row in range(6):
        near_K1 = codes_KR[:, row, None]
        E_KN = W_KR[:, row, None] - trellis.halves(near_K1 + tried_KN, torch.arange(5)) / 2
        assert found_R[row] <= (E_KN * (H_KK @ E_KN)).sum(0).min() * (1 + 1e-9)


@pytest.mark.parametrize("ways, nearest", [(ONE_STATE, two_nearest), (WAYS, trellis.nearest)], ids=["one", "two"])
def test_neither_blocks_nor_pieces_of_rows_matter(ways, nearest, monkeypatch):
    W_KR, U_KK = problem(50, 30)
    whole_KR = search(W_KR, U_KK, nearest, ways, 3, block=50)
    assert all(torch.equal(search(W_KR, U_KK, nearest, ways, 3, block), whole_KR) for block in (1, 7, 16))
    monkeypatch.setattr("golf.quant.beam.ROWS", 7)
    assert torch.equal(searched(W_KR, U_KK, nearest, ways, 3), whole_KR)


def test_more_survivors_lose_less():
    W, curvature = curved(128, 64)
    for step, grids in ((0.001, 2), (0.01, 1)):
        losses = [
            curvature.loss(W - dequantize({"w": Beam(survivors=kept, grids=grids).round(W, curvature, step)})["w"])
            for kept in (4, 16)
        ]
        plain = (round_tensor if grids == 1 else Trellis.round)(W, curvature, step)
        assert losses[1] < losses[0] <= curvature.loss(W - dequantize({"w": plain})["w"])


@pytest.mark.parametrize("rate", RATES)
def test_a_sweep_never_raises_the_lagrangian_of_any_row(rate):
    W_KR, U_KK = problem(40, 60)
    codes_KR = W_KR.round()
    before_R = lagrangian(codes_KR, W_KR, U_KK, rate)
    for _ in range(4):
        codes_KR = descend(codes_KR, W_KR, U_KK, 1, rate)
        after_R = lagrangian(codes_KR, W_KR, U_KK, rate)
        assert (after_R <= before_R * (1 + 1e-9)).all()
        before_R = after_R


@pytest.mark.parametrize("rate", RATES)
def test_descent_ends_where_no_single_code_can_better_a_row(rate):
    W_KR, U_KK = problem(12, 8)
    codes_KR = descend(W_KR.round(), W_KR, U_KK, 30, rate)
    least_R = lagrangian(codes_KR, W_KR, U_KK, rate)
    for column, by in itertools.product(range(12), (-1, 1)):
        moved_KR = codes_KR.clone()
        moved_KR[column] += by
        assert (lagrangian(moved_KR, W_KR, U_KK, rate) >= least_R * (1 - 1e-9)).all()


def test_a_choice_that_counts_bits_has_no_higher_lagrangian_than_the_plain_one():
    W_KR, U_KK = problem(40, 60)
    plain_KR = search(W_KR, U_KK, two_nearest, ONE_STATE, 1)
    for rate in RATES:
        ours_R, plain_R = (
            lagrangian(codes_KR, W_KR, U_KK, rate)
            for codes_KR in (descend(plain_KR, W_KR, U_KK, 2, rate), descend(plain_KR, W_KR, U_KK, 0, rate))
        )
        assert (ours_R <= plain_R * (1 + 1e-9)).all() and ours_R.sum() < 0.999 * plain_R.sum()


def test_descent_is_what_it_says_written_out():
    W_KR, U_KK = problem(9, 5)
    found_KR, H = descend(W_KR.round(), W_KR, U_KK, 2, 1.0), np.linalg.inv((U_KK.T @ U_KK).numpy())
    sigma, price = deviations(W_KR).numpy(), BIT * math.exp(-2 * U_KK.diagonal().log().mean())

    def cost(w: np.ndarray, c: np.ndarray, s: np.ndarray) -> float:
        halves = [[math.erf((abs(code) + side) / width / 2**0.5) for side in (-0.5, 0.5)] for code, width in zip(c, s)]
        return (w - c) @ H @ (w - c) + price * sum(-math.log2((high - low) / 2) for low, high in halves)

    for row in range(5):
        w, s = W_KR[:, row].numpy(), sigma[:, row]
        codes = w.round()
        for _, column in itertools.product(range(2), reversed(range(9))):
            tries = [codes + by * (np.arange(9) == column) for by in (0, -1, 1)]
            codes = min(tries, key=lambda c: cost(w, c, s))
        assert found_KR[:, row].tolist() == codes.tolist()


def test_code_lengths_are_those_of_a_whole_alphabet():
    for deviation in (0.05, 0.7, 9.0):
        lengths = bits(torch.arange(-200, 201, dtype=torch.float64), torch.tensor(deviation, dtype=torch.float64))
        assert (2**-lengths).sum().item() == pytest.approx(1)


def test_what_never_came_and_what_meets_no_matrix_are_as_elsewhere():
    W, curvature = curved(20, 30)
    H_KK = curvature.inputs_KK.clone()
    H_KK[3] = H_KK[:, 3] = 0
    for grids in (1, 2):
        q = Beam(grids=grids).round(W, replace(curvature, inputs_KK=H_KK), 0.003)
        assert not dequantize({"w": q})["w"][:, 3].any()
        control = Curvature("w", None, torch.ones(20))
        assert np.array_equal(
            Beam(grids=grids).round(W, control, 0.01).parts["codes"], round_tensor(W, control, 0.01).parts["codes"]
        )


@pytest.mark.parametrize(
    "wrong", [{"survivors": 0}, {"survivors": 6}, {"grids": 3}, {"sweeps": -1}, {"rate": -0.5}], ids=str
)
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(SpecError):
        Beam(**wrong)
