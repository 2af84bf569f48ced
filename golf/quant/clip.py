"""How far a row reaches before it is clipped, which fixes its scale: scale = clip / limit.

A rule takes (W_RK, grid, k, H_KK) and returns scales [R, 1]. H_KK weighs errors by the inputs the weight will
meet; without it (late QAT, plain rounding) every weight counts the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from golf.contracts import SpecError
from golf.quant.grid import Grid, as_rows, fake_quant, stored, to_codes, to_weights

Rule = Callable[[Tensor, Grid, float, "Tensor | None"], Tensor]

# Shares of a row's reach that the search tries.
FRACTIONS = tuple(1 - 0.05 * step for step in range(11))


def deviation(W_RK: Tensor) -> Tensor:
    """Standard deviation of every row about zero, where the grid has its center, [R, 1]. About its mean, a
    constant row would have none and be clipped to nothing."""
    return W_RK.square().mean(dim=1, keepdim=True).sqrt()


def sd_scale(W_RK: Tensor, grid: Grid, k: float, H_KK: Tensor | None = None) -> Tensor:
    """SDClip: k standard deviations of the row, so that k alone sets the rate: about 2.05 + log2(limit / k) bits a
    weight for Gaussian rows. A wide k with many levels never clips and costs almost nothing. H_KK plays no part.

    There is no floor besides float16's own. One of 1 / limit, as records carry, forces the same absolute step
    on all rows and zeroes small matrices.
    """
    return deviation(W_RK) * (k / grid.limit)


def search_scale(W_RK: Tensor, grid: Grid, k: float, H_KK: Tensor | None = None) -> Tensor:
    """Per row the clip among FRACTIONS of its largest weight (of k standard deviations, if that is less) with
    the least weighted error after plain rounding."""
    largest_R1 = W_RK.abs().amax(dim=1, keepdim=True) / grid.limit
    reach_R1 = torch.minimum(largest_R1, sd_scale(W_RK, grid, k))
    best_R1, least_R1 = reach_R1, torch.full_like(reach_R1, torch.inf)
    for fraction in FRACTIONS:
        scale_R1 = stored(reach_R1 * fraction)
        rounded_RK = to_weights(to_codes(W_RK, scale_R1, grid), scale_R1)
        error_R1 = row_errors(W_RK - rounded_RK, H_KK)
        best_R1 = torch.where(error_R1 < least_R1, scale_R1, best_R1)
        least_R1 = torch.minimum(error_R1, least_R1)
    return best_R1


RULES: dict[str, Rule] = {"sd": sd_scale, "search": search_scale}


def row_errors(E_RK: Tensor, H_KK: Tensor | None = None) -> Tensor:
    """e H eT of every row, [R, 1]: the mean squared error of that output. Without H, the sum of squares."""
    return (E_RK * (E_RK if H_KK is None else E_RK @ H_KK)).sum(dim=1, keepdim=True)


def weighted_error(W_RK: Tensor, What_RK: Tensor, H_KK: Tensor | None = None) -> float:
    """tr(E H ET), E = W - What: what rounding does to the layer's outputs, summed over them, in float64."""
    H_KK = None if H_KK is None else H_KK.double()
    return row_errors(W_RK.double() - What_RK.double(), H_KK).sum().item()


@dataclass(frozen=True, kw_only=True)
class OnGrid:
    """What every method has that stores codes and one scale a row.

    bits: of the grid.  k: clip in standard deviations of the row.  clip: the rule, "sd" or "search".
    """

    bits: int
    k: float
    clip: str = "sd"

    def __post_init__(self) -> None:
        Grid(self.bits)
        if self.clip not in RULES:
            raise SpecError(f"clip={self.clip!r} is not a rule; choose one of {', '.join(RULES)}")
        if not self.k > 0:
            raise SpecError(f"k={self.k} standard deviations must be above 0; 12.85 suits 6 bits")

    @property
    def grid(self) -> Grid:
        return Grid(self.bits)

    def scales(self, W_RK: Tensor, H_KK: Tensor | None = None, multiplier: float = 1.0) -> Tensor:
        """Scales [R, 1] as they are stored, every step `multiplier` times as wide as the rule says."""
        return stored(RULES[self.clip](W_RK, self.grid, self.k, H_KK) * multiplier)

    def as_exported(self, W: Tensor) -> Tensor:
        """The weight on the export's grid, for late QAT: a pure function of the current weight. It rounds to
        nearest and clips without a Hessian, because training has none."""
        W_RK = as_rows(W)
        return fake_quant(W_RK, self.scales(W_RK.detach()), self.grid).view_as(W)
