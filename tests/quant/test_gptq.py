"""GPTQ against a slow float64 reference that follows the paper's derivation, not this code's shortcuts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.contracts import HessianError, QTensor, SpecError
from golf.quant.clip import OnGrid, weighted_error
from golf.quant.gptq import GPTQ, factor, gptq
from golf.quant.grid import Grid, to_codes, unpack_codes
from golf.quant.nearest import RoundNearest


def correlated(width: int, alpha: float, seed: int = 0, tokens: int = 2000) -> torch.Tensor:
    """Hessian of inputs whose principal variances fall as i^-alpha, in a random basis, some channels louder."""
    random = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, width, generator=random)).Q
    loudness = torch.exp(0.5 * torch.randn(width, generator=random))
    spectrum = torch.arange(1, width + 1) ** (-alpha / 2)
    X = torch.randn(tokens, width, generator=random) * spectrum @ basis * loudness
    return X.T @ X / tokens


def reference(W, H, scale, limit, damp, order) -> np.ndarray:
    """Optimal brain quantization, one column after another: the inverse of the Hessian of the columns left,
    taken afresh each time, tells how they best make up for the one just rounded."""
    W, H = W.double().numpy().copy(), H.double().numpy().copy()
    scale = scale.double().numpy()
    H += damp * np.mean(np.diag(H)) * np.eye(len(H))
    codes, left = np.zeros(W.shape), list(order)
    while left:
        inverse = np.linalg.inv(H[np.ix_(left, left)])
        column = left[0]
        codes[:, column] = np.clip(np.round(W[:, column] / scale), -limit, limit)
        error = (W[:, column] - codes[:, column] * scale) / inverse[0, 0]
        W[:, left] -= np.outer(error, inverse[0])
        left = left[1:]
    return codes


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rows, width, bits", [(16, 40, 6), (5, 33, 3), (1, 1, 4), (8, 24, 8)])
def test_equals_the_direct_reference(rows, width, bits, alpha, act_order):
    W, H, grid = torch.randn(rows, width) * 0.1, correlated(width, alpha), Grid(bits)
    scale = OnGrid(bits=bits, k=4.0).scales(W)[:, 0]
    order = range(width)
    if act_order:
        order = sorted(order, key=lambda column: -H[column, column].item())
    expected = reference(W, H, scale, grid.limit, 0.01, order)
    found = gptq(W, H, grid, scale_R=scale, damp=0.01, block=16, act_order=act_order)
    assert np.array_equal(found.parts["codes"], expected)
    assert found.alphabets == {"codes": grid.alphabet}
    assert found.method == "gptq"


def test_act_order_is_a_permutation_and_its_undoing():
    W, H = torch.randn(12, 50), correlated(50, 0.7)
    order = torch.argsort(H.diagonal(), descending=True)
    scale = OnGrid(bits=4, k=4.0).scales(W)[:, 0]
    whole = gptq(W, H, Grid(4), scale_R=scale).parts["codes"]
    sorted_ = gptq(W[:, order], H[order][:, order], Grid(4), scale_R=scale, act_order=False).parts["codes"]
    assert np.array_equal(whole[:, order.numpy()], sorted_)


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
def test_error_falls_from_rounding_to_gptq_to_act_order(alpha):
    torch.manual_seed(0)
    W, H = torch.randn(64, 192), correlated(192, alpha)
    method = GPTQ(bits=6)
    plain = RoundNearest(bits=6, k=method.k).quantize({"w": W}, {}, 1.0)["w"]
    blind, ordered = (gptq(W, H, Grid(6), k=method.k, act_order=act_order) for act_order in (False, True))
    assert np.array_equal(plain.parts["scale"], ordered.parts["scale"])
    rtn, solved, best = (weighted_error(W, unpack_codes(q), H) for q in (plain, blind, ordered))
    assert solved < rtn * (1 - 0.1 * alpha)
    assert best < solved * 0.99


def test_the_factor_is_the_upper_cholesky_of_the_inverse():
    H = correlated(60, 0.8).double()
    found = factor("w", H, 0.01, act_order=False).U_KK
    damped = H + 0.01 * H.diagonal().mean() * torch.eye(60)
    expected = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
    assert not found.tril(-1).any()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 90), st.integers(1, 100), st.integers(0, 999))
def test_block_size_changes_nothing(rows, width, block, seed):
    W = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    H = correlated(width, 0.8, seed, tokens=200)
    found = [gptq(W, H, Grid(6), block=b).parts["codes"] for b in (block, 7, 128)]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[1], found[2])


def test_stacking_changes_nothing():
    weights = {f"layer{i}": torch.randn(24, 40) for i in range(3)} | {"other": torch.randn(10, 40)}
    hessians = {name: correlated(40, 0.6, seed) for seed, name in enumerate(weights)}
    method = GPTQ(bits=5, k=8.0)
    for name, found in method.quantize(weights, hessians, 1.0).items():
        alone = gptq(weights[name], hessians[name], Grid(5), k=8.0)
        assert np.array_equal(found.parts["codes"], alone.parts["codes"])
        assert np.array_equal(found.parts["scale"], alone.parts["scale"])


def test_the_scale_of_the_hessian_cancels():
    W, H = torch.randn(16, 64), correlated(64, 0.8)
    assert same(gptq(W, H, Grid(6)), gptq(W, H * 2.0**20, Grid(6)))


def test_dead_columns_become_zero_and_disturb_nobody():
    W, H = torch.randn(8, 30), correlated(30, 0.5)
    dead = torch.zeros(30, dtype=torch.bool)
    dead[[0, 7, 29]] = True
    H[dead], H[:, dead] = 0, 0
    scale = OnGrid(bits=6, k=6.0).scales(W)[:, 0]
    codes = gptq(W, H, Grid(6), scale_R=scale).parts["codes"]
    assert not codes[:, dead.numpy()].any()
    alone = gptq(W[:, ~dead], H[~dead][:, ~dead], Grid(6), scale_R=scale).parts["codes"]
    assert np.array_equal(codes[:, ~dead.numpy()], alone)


def test_inputs_that_are_always_zero_give_zeros():
    assert not gptq(torch.randn(4, 6), torch.zeros(6, 6), Grid(6)).parts["codes"].any()


def test_neither_hessian_nor_weight_is_changed():
    W, H = torch.randn(8, 20), correlated(20, 0.5)
    H[3], H[:, 3] = 0, 0
    W_before, H_before = W.clone(), H.clone()
    gptq(W, H, Grid(4))
    GPTQ().quantize({"w": W}, {"w": H}, 1.3)
    assert torch.equal(W, W_before)
    assert torch.equal(H, H_before)


def test_white_inputs_leave_plain_rounding():
    W = torch.randn(10, 32)
    codes = gptq(W, torch.eye(32), Grid(6)).parts["codes"]
    assert np.array_equal(codes, to_codes(W, OnGrid(bits=6, k=12.85).scales(W), Grid(6)).numpy())


def indefinite(width: int) -> torch.Tensor:
    H = torch.eye(width)
    H[0, 1] = H[1, 0] = 2.0
    return H


@pytest.mark.parametrize(
    "H, says",
    [
        (indefinite(6), "positive definite"),
        (-torch.eye(6), "positive definite"),
        (torch.full((6, 6), torch.nan), "finite"),
        (torch.eye(6).index_fill(0, torch.tensor([2]), torch.inf), "finite"),
    ],
    ids=["indefinite", "negative", "nan", "inf"],
)
def test_a_bad_hessian_is_an_error_that_names_the_tensor(H, says):
    good = {"fine.weight": torch.eye(6), "bad.weight": H}
    with pytest.raises(HessianError, match=rf"bad\.weight.*{says}"):
        GPTQ().quantize({name: torch.randn(3, 6) for name in good}, good, 1.0)


def test_the_grid_that_is_optimized_is_the_grid_that_is_stored():
    """The codes are right for the float16 scale, not for a float32 one that the file never sees."""
    W, H = torch.randn(6, 30), correlated(30, 0.6)
    raw = W.abs().amax(1) / 31 * 1.0003
    found = gptq(W, H, Grid(6), scale_R=raw, block=8)
    order = sorted(range(30), key=lambda column: -H[column, column].item())
    expected = reference(W, H, raw.half(), 31, 0.01, order)
    assert np.array_equal(found.parts["codes"], expected)
    assert np.array_equal(found.parts["scale"], raw.half().numpy())


@pytest.mark.parametrize("wrong", [{"damp": 0.0}, {"block": 0}, {"bits": 1}, {"clip": "max"}], ids=str)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(SpecError):
        GPTQ(**wrong)


def same(one: QTensor, other: QTensor) -> bool:
    return all(np.array_equal(one.parts[part], other.parts[part]) for part in one.parts)
