"""Coordinate descent over codes: one column after the other, each code moves by one where that lowers the Lagrangian.

What a row costs is (w - c) H (w - c)T and a price for the bits of its codes. Sweeps never raise it. Rows are
independent of each other, and after a good rounding one code in a hundred moves, so a sweep takes little time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from golf.quant.waterfill import WIDE

# A bit is worth 2 ln 2 times the loss it halves, and a weight on a grid of steps 1 is 1/12 off its place.
BIT = 2 * math.log(2) / 12
# No code is taken to be rarer: what a Gaussian makes of one far out says more about the Gaussian.
RAREST = 1e-30


def descend(codes_KR: Tensor, W_KR: Tensor, U_KK: Tensor, sweeps: int, rate: float = 0.0) -> Tensor:
    """Codes [K, R] after so many sweeps over the columns, last ones first.

    W_KR: weights in steps.  U_KK: upper triangular, UT U is the inverse of H in units of the columns' steps.
    rate: price of a bit, as a share of what steps pay for it.
    """
    codes_KR, H_KK = codes_KR.clone(), torch.cholesky_inverse(U_KK, upper=True)
    # cholesky_inverse gives inv(UT U), which is H.
    slope_KR = H_KK @ (W_KR - codes_KR)
    price, deviation_KR = rate * price_of_bit(U_KK), deviations(W_KR) if rate else None
    for _ in range(sweeps):
        for column in reversed(range(len(W_KR))):
            code_R, curve = codes_KR[column], H_KK[column, column]
            by_R = slope_KR[column].sign()
            gain_R = 2 * slope_KR[column].abs() - curve
            if rate:
                tried = torch.stack([-torch.ones_like(code_R), torch.ones_like(code_R)])
                before_R = bits(code_R, deviation_KR[column])
                gains = 2 * tried * slope_KR[column] - curve
                gains += price * (before_R - bits(code_R + tried, deviation_KR[column]))
                gain_R, best_R = gains.max(dim=0)
                by_R = 2.0 * best_R - 1
            rows = torch.nonzero((gain_R > 0) & ((code_R + by_R).abs() <= WIDE.limit))[:, 0]
            codes_KR[column, rows] += by_R[rows]
            slope_KR[:, rows] -= H_KK[:, column, None] * by_R[rows]
    return codes_KR


def price_of_bit(U_KK: Tensor) -> float:
    """What steps pay for a bit, in squared steps of what GPTQ leaves of a column's curvature."""
    return BIT * (-2 * U_KK.diagonal().log().mean()).exp().item()


def deviations(W_KR: Tensor) -> Tensor:
    """Of weights in steps, as the product of a column's and a row's: what a coder of codes writes down."""
    squares_KR = W_KR.square()
    whole = squares_KR.mean().clamp_min(RAREST)
    return (squares_KR.mean(1, keepdim=True) * squares_KR.mean(0, keepdim=True) / whole).sqrt().clamp_min(1e-3)


def bits(codes: Tensor, deviation: Tensor) -> Tensor:
    """Code lengths of rounded Gaussians."""
    low, high = ((codes.abs() + side) / deviation / 2**0.5 for side in (-0.5, 0.5))
    return -(0.5 * (torch.erfc(low) - torch.erfc(high))).clamp_min(RAREST).log2()


def lagrangian(codes_KR: Tensor, W_KR: Tensor, U_KK: Tensor, rate: float = 0.0) -> Tensor:
    """What `descend` lowers, of each row [R]: squared errors as H sees them, and the price of the bits."""
    H_KK, errors_KR = torch.cholesky_inverse(U_KK, upper=True), W_KR - codes_KR
    found_R = (errors_KR * (H_KK @ errors_KR)).sum(dim=0)
    return found_R + rate * price_of_bit(U_KK) * bits(codes_KR, deviations(W_KR)).sum(dim=0) if rate else found_R
