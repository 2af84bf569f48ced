"""GPTQ: rounding that lets the weights not yet rounded make up for the errors of those that are.

Everything here runs in float64. In float32 a different block size sums in a different order, and about one
code in 100,000 falls on the other side of a half; in float64 none does, and 27 M weights still take seconds
on two cores. Matrices are held transposed, [M, K, R]: M matrices of one shape at once, and a column of W is
one run of memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from golf.contracts import HessianError, QTensor, SpecError
from golf.quant.clip import OnGrid
from golf.quant.grid import Grid, as_rows, pack_codes, stored, to_codes, to_weights, unpack_codes

# Bounds the stacked factors and weights (float64 elements): 11 matrices of 512 x 1536 go in two rounds.
STACK_ELEMENTS = 16_000_000


def gptq(
    W_RK: Tensor,
    H_KK: Tensor,
    grid: Grid,
    *,
    scale_R: Tensor | None = None,
    k: float = 12.85,
    damp: float = 0.01,
    block: int = 128,
    act_order: bool = True,
) -> QTensor:
    """Round W column by column, pushing each column's error onto the columns not yet rounded.

    H_KK: mean of x xT over calibration tokens; its scale cancels; neither damped nor changed here.
    scale_R: steps of the rows, rounded as stored; without it, SDClip with `k` standard deviations.
    damp: share of mean(diag H) added to the diagonal.  block: speed only, the codes do not depend on it.
    act_order: visit columns by falling diag(H), undone in the result, so that the loudest inputs are rounded
        while all others can still move.
    A column whose input was always zero is dead: nothing it holds can matter, so it becomes zero. Raises
    HessianError when H is not finite, or not positive definite after damping. It never falls back to plain
    rounding. Source: arXiv 2210.17323, algorithm 1. The factor is the upper Cholesky of inv(H), not inv(H) itself.
    """
    scale_R1 = OnGrid(bits=grid.bits, k=k).scales(W_RK) if scale_R is None else stored(scale_R)[:, None]
    codes_KR = solve([W_RK], [factor("the matrix", H_KK, damp, act_order)], [scale_R1], grid, block)[0]
    return pack_codes(codes_KR.T, scale_R1, grid, tuple(W_RK.shape), GPTQ.name)


@dataclass(frozen=True)
class Factor:
    """What the column loop needs of one Hessian: the order it visits columns in, the dead ones, and U of the
    damped H in that order: upper triangular, UT U = inv(H)."""

    order_K: Tensor
    dead_K: Tensor
    U_KK: Tensor


def factor(name: str, H_KK: Tensor, damp: float, act_order: bool) -> Factor:
    """Damp a copy of H and factor it, in float64. Raises HessianError, with the name, where that cannot be done."""
    H_KK = H_KK.double()
    if not H_KK.isfinite().all():
        raise HessianError(f"Hessian of {name} holds values that are not finite; check the averaged weights")
    diagonal_K = H_KK.diagonal()
    dead_K = diagonal_K == 0
    typical = diagonal_K.sum() / (~dead_K).sum() if not dead_K.all() else diagonal_K.new_ones(())
    # A dead column touches no other; any positive diagonal serves, and this one leaves the mean as it is.
    H_KK = H_KK + torch.diag(damp * typical + typical * dead_K)
    order_K = torch.arange(len(diagonal_K), device=H_KK.device)
    if act_order:
        order_K = torch.argsort(diagonal_K, descending=True, stable=True)
    # One Cholesky and one triangular inverse, half the work of inverting first: with rows and columns in
    # reverse order, the lower factor of H turns into an upper R with H = R RT, and U = inv(R).
    back_K = order_K.flip(0)
    L_KK, failed = torch.linalg.cholesky_ex(H_KK[back_K][:, back_K])
    if failed:
        raise HessianError(
            f"Hessian of {name} is not positive definite after damping by {damp}; calibrate on more "
            f"tokens or raise damp"
        )
    unit_KK = torch.eye(len(L_KK), dtype=L_KK.dtype, device=L_KK.device)
    return Factor(order_K, dead_K, torch.linalg.solve_triangular(L_KK.flip(0, 1), unit_KK, upper=True))


def solve(weights: list[Tensor], factors: list[Factor], scales: list[Tensor], grid: Grid, block: int) -> list[Tensor]:
    """Codes [K, R], in float64, of W_RK matrices of one shape with their Hessians and scales [R, 1]."""
    order_MK = torch.stack([each.order_K for each in factors])
    dead_MK1 = torch.stack([each.dead_K for each in factors])[:, :, None]
    W_MKR = torch.stack([W_RK.T.double() for W_RK in weights]).masked_fill_(dead_MK1, 0)
    W_MKR = W_MKR.gather(1, order_MK[:, :, None].expand_as(W_MKR))
    U_MKK = torch.stack([each.U_KK for each in factors])
    scale_MR = torch.stack([scale_R1[:, 0].double() for scale_R1 in scales])
    codes_MKR = columns(W_MKR, U_MKK, scale_MR, grid, block)
    return list(torch.empty_like(codes_MKR).scatter_(1, order_MK[:, :, None].expand_as(codes_MKR), codes_MKR))


def columns(W_MKR: Tensor, U_MKK: Tensor, scale_MR: Tensor, grid: Grid, block: int) -> Tensor:
    """The loop of algorithm 1 on columns in visiting order. Overwrites W_MKR with the codes and returns it."""
    width = W_MKR.shape[1]
    for begin in range(0, width, block):
        end = min(begin + block, width)
        errors_MBR = torch.empty_like(W_MKR[:, begin:end])
        for column in range(begin, end):
            done = column - begin
            # What this block's earlier columns owe this one; earlier blocks have paid already, below.
            owed_MR = torch.bmm(U_MKK[:, begin:column, column].unsqueeze(1), errors_MBR[:, :done]).squeeze(1)
            w_MR = W_MKR[:, column] - owed_MR
            code_MR = to_codes(w_MR, scale_MR, grid)
            errors_MBR[:, done] = (w_MR - to_weights(code_MR, scale_MR)) / U_MKK[:, column, column, None]
            W_MKR[:, column] = code_MR
        W_MKR[:, end:].baddbmm_(U_MKK[:, begin:end, end:].transpose(1, 2), errors_MBR, alpha=-1)
    return W_MKR


@dataclass(frozen=True, kw_only=True)
class GPTQ(OnGrid):
    """`gptq` for a whole model, matrices of equal shape together."""

    name: ClassVar[str] = "gptq"
    needs_hessian: ClassVar[bool] = True

    bits: int = 6
    k: float = 12.85
    act_order: bool = True
    damp: float = 0.01
    block: int = 128

    dequantize = staticmethod(unpack_codes)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.damp > 0:
            raise SpecError(f"damp={self.damp} must be above 0, or a rare input makes H singular; 0.01 is usual")
        if self.block < 1:
            raise SpecError(f"block={self.block} columns must be at least 1; 128 is fast")

    def quantize(
        self, weights: Mapping[str, Tensor], hessians: Mapping[str, Tensor], multiplier: float
    ) -> dict[str, QTensor]:
        """QTensors by name. The multiplier widens every step. Raises HessianError for a missing or bad Hessian."""
        alike: dict[tuple[int, ...], list[str]] = {}
        for name, W in weights.items():
            if name not in hessians:
                raise HessianError(
                    f"no Hessian for {name}: no token reached it as a matrix; calibrate, or use RoundNearest"
                )
            size, width = len(hessians[name]), W.shape[-1]
            if size != width:
                raise HessianError(
                    f"Hessian of {name} is {size} x {size}, its rows have {width}; calibrate the model it is for"
                )
            alike.setdefault(as_rows(W).shape, []).append(name)
        found = {}
        for (rows, width), names in alike.items():
            stack = max(1, STACK_ELEMENTS // max(1, width * max(rows, width)))
            for first in range(0, len(names), stack):
                found |= self._stack(
                    {name: weights[name] for name in names[first : first + stack]}, hessians, multiplier
                )
        return {name: found[name] for name in weights}

    def _stack(
        self, weights: Mapping[str, Tensor], hessians: Mapping[str, Tensor], multiplier: float
    ) -> dict[str, QTensor]:
        matrices = [as_rows(W) for W in weights.values()]
        scales = [self.scales(W_RK, hessians[name], multiplier) for name, W_RK in zip(weights, matrices)]
        factors = [factor(name, hessians[name], self.damp, self.act_order) for name in weights]
        solved = solve(matrices, factors, scales, self.grid, self.block)
        return {
            name: pack_codes(codes_KR.T, scale_R1, self.grid, tuple(W.shape), self.name)
            for (name, W), codes_KR, scale_R1 in zip(weights.items(), solved, scales)
        }
