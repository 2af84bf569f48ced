"""Scale rules against their definitions, and the weighted error against the outputs it stands for."""

from __future__ import annotations

import pytest
import torch

from golf.contracts import SpecError
from golf.quant.clip import FRACTIONS, OnGrid, row_errors, weighted_error
from golf.quant.grid import Grid, fake_quant, stored
from golf.quant.nearest import RoundNearest


def inputs(tokens: int = 400, width: int = 48) -> torch.Tensor:
    mix = torch.randn(width, width) * torch.arange(1, width + 1) ** -1.0
    return torch.randn(tokens, width) @ mix.T


def test_sd_clip_is_k_deviations_over_the_limit():
    W = torch.randn(9, 200) * torch.rand(9, 1)
    scale = OnGrid(bits=6, k=12.85).scales(W)
    expected = (12.85 / 31 * W.double().square().mean(1).sqrt()).half()
    assert torch.equal(scale[:, 0].half(), expected)


def test_the_multiplier_widens_every_step():
    W = torch.randn(9, 200)
    for clip in ("sd", "search"):
        one, two = (OnGrid(bits=6, k=6.0, clip=clip).scales(W, multiplier=m) for m in (1.0, 1.5))
        assert torch.allclose(two, 1.5 * one, rtol=2e-3)


def test_a_constant_row_is_not_clipped_to_nothing():
    W = torch.full((2, 64), 0.25)
    assert torch.allclose(RoundNearest(bits=8).as_exported(W), W, rtol=0.1)


def test_a_row_of_zeros_stays_zero():
    for clip in ("sd", "search"):
        assert not RoundNearest(bits=4, k=4.0, clip=clip).as_exported(torch.zeros(3, 8)).any()


@pytest.mark.parametrize("with_hessian", [False, True])
def test_search_takes_the_best_fraction_of_every_row(with_hessian):
    torch.manual_seed(1)
    W = torch.distributions.StudentT(3.0).sample((20, 48))
    X = inputs()
    H = X.T @ X / len(X) if with_hessian else None
    rule, grid = OnGrid(bits=3, k=100.0, clip="search"), Grid(3)

    def errors(scale):
        E = (fake_quant(W, scale, grid) - W).double()
        return (E @ X.double().T).square().mean(1) if with_hessian else E.square().sum(1)

    tried = [errors(stored(W.abs().amax(1, keepdim=True) * f / grid.limit)) for f in FRACTIONS]
    torch.testing.assert_close(errors(rule.scales(W, H)), torch.stack(tried).amin(0), rtol=1e-4, atol=1e-7)
    # Another objective picks other clips, or the Hessian plays no part.
    assert not torch.equal(rule.scales(W, None), rule.scales(W, X.T @ X / len(X)))


def test_search_never_reaches_beyond_k_deviations():
    W = torch.randn(4, 400)
    W[:, 0] = 50.0
    assert (OnGrid(bits=6, k=3.0, clip="search").scales(W) <= OnGrid(bits=6, k=3.0).scales(W)).all()


def test_weighted_error_is_the_mean_squared_change_of_the_outputs():
    torch.manual_seed(0)
    X, W, changed = inputs(), torch.randn(10, 48), torch.randn(10, 48)
    H = X.T @ X / len(X)
    outputs = (X.double() @ (W - changed).double().T).square().sum(1).mean().item()
    assert weighted_error(W, changed, H) == pytest.approx(outputs, rel=1e-4)
    assert row_errors((W - changed).double(), H.double()).sum().item() == pytest.approx(outputs, rel=1e-4)
    assert weighted_error(W, changed) == pytest.approx((W - changed).square().sum().item(), rel=1e-5)


@pytest.mark.parametrize("wrong", [{"clip": "percentile"}, {"k": 0.0}, {"k": float("nan")}, {"bits": 17}], ids=str)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(SpecError):
        RoundNearest(**wrong)
