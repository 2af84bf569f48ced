"""Two grids that take turns, on the steps of `waterfill`: a tenth less loss at the same bytes.

Steps stand where they stood, but a weight is rounded to one of two grids, half a step apart, and the parities of the
codes before it in its row say which. So the codes of a row are a path through a trellis of four states, whose points
are packed more closely than a lattice of single weights can be. The path is Viterbi's (`golf.quant.viterbi`).

Source: Marcellin and Fischer, "Trellis coded quantization of memoryless and Gauss-Markov sources", 1990; the grids
and the states are those of dependent quantization in VVC, Schwarz et al. 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from golf.contracts import QTensor
from golf.quant import forked, stacked
from golf.quant.fisher import INPUT_DAMP, Curvature
from golf.quant.gptq import STACK_ELEMENTS, factor
from golf.quant.grid import QUARTERS, as_rows, power_step, take_parts
from golf.quant.viterbi import path
from golf.quant.waterfill import Waterfill, pack, quarters, round_tensor

# The two ways into each state, as twice the state before plus the parity.
WAYS = ((0, 3), (4, 7), (1, 2), (5, 6))
# How much wider a step may be for the same loss: the square root of 0.81.
WIDER = 1.11
# Where more weights than this share are below half a step, there is little to pack, and two grids cost more zeros
# than they save error.
ZEROS = 0.55
# Rows whose paths are sought side by side: speed only.
ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class Trellis(Waterfill):
    """`Waterfill` with two grids. What meets no inputs as a matrix keeps one, and so does what is mostly zeros."""

    name: ClassVar[str] = "trellis"

    def quantize(
        self, weights: Mapping[str, Tensor], hessians: Mapping[str, Curvature], multiplier: float
    ) -> dict[str, QTensor]:
        if any(W.is_cuda for W in weights.values()):
            return self.together(weights, hessians, multiplier)
        return self.side_by_side(weights, hessians, multiplier)

    def side_by_side(
        self, weights: Mapping[str, Tensor], hessians: Mapping[str, Curvature], multiplier: float
    ) -> dict[str, QTensor]:
        """A tensor a process, the largest first, so that processes end together."""
        order = sorted(weights.items(), key=lambda named: -named[1].numel())
        one = super().quantize
        found = forked.each(lambda named: one(dict([named]), hessians, multiplier), order)
        return {name: qtensor for part in found for name, qtensor in part.items()}

    def together(
        self, weights: Mapping[str, Tensor], hessians: Mapping[str, Curvature], multiplier: float
    ) -> dict[str, QTensor]:
        """The same, matrices of a shape at once, for devices that take as long for many as for one."""
        found, alike = {}, {}
        for name, W in weights.items():
            aimed = aim(W, hessians[name], self.step * multiplier) if name in hessians else None
            if aimed is None:
                found |= super().quantize({name: W}, hessians, multiplier)
            else:
                alike.setdefault(aimed.visited_KR.shape, {})[name] = aimed
        for shape, group in alike.items():
            names, many = list(group), max(1, STACK_ELEMENTS // shape.numel())
            for some in (names[first : first + many] for first in range(0, len(names), many)):
                W_MKR = torch.stack([group[name].visited_KR for name in some])
                U_MKK = torch.stack([group[name].U_KK for name in some])
                for name, codes_KR in zip(some, stacked.path(W_MKR, U_MKK)):
                    found[name] = group[name].packed(weights[name], codes_KR)
        return found

    @staticmethod
    def round(W: Tensor, curvature: Curvature, step: float) -> QTensor:
        return round_on_two(W, curvature, step, paths, round_tensor)

    @staticmethod
    def dequantize(qtensor: QTensor) -> Tensor:
        """As codes of one grid of half the step. Raises ArtifactError for parts that are not what `round` stores."""
        codes, columns, rows = take_parts(qtensor, codes=np.integer, columns=np.integer, rows=np.integer)
        if codes.shape[-1:] == columns.shape:
            halves_KR = halves(
                as_rows(torch.from_numpy(codes.astype(np.int64))).T, visits(torch.from_numpy(columns.astype(np.int64)))
            )
            codes = halves_KR.T.reshape(codes.shape).numpy()
        return Waterfill.dequantize(
            replace(qtensor, parts={"codes": codes, "rows": rows.astype(np.int64) - QUARTERS, "columns": columns})
        )


def round_on_two(
    W: Tensor,
    curvature: Curvature,
    step: float,
    paths: Callable[[Tensor, Tensor], Tensor],
    round_on_one: Callable[[Tensor, Curvature, float], QTensor],
) -> QTensor:
    """A tensor on two grids, by codes that `paths` finds; by `round_on_one` where they would not pay."""
    aimed = aim(W, curvature, step)
    if aimed is None:
        return round_on_one(W, curvature, step)
    return aimed.packed(W, paths(aimed.visited_KR, aimed.U_KK))


@dataclass(frozen=True)
class Aim:
    """What a search for codes of a matrix needs: weights in steps and the factor, in visiting order."""

    rows: Tensor
    columns: Tensor
    visited_KR: Tensor
    U_KK: Tensor

    def packed(self, W: Tensor, codes_KR: Tensor) -> QTensor:
        """The tensor on codes that were found."""
        codes_RK = codes_KR.new_empty(codes_KR.shape[::-1])
        codes_RK[:, visits(self.columns).to(codes_KR.device)] = codes_KR.T
        return replace(pack(W, codes_RK, {"rows": self.rows, "columns": self.columns}), method=Trellis.name)


def aim(W: Tensor, curvature: Curvature, step: float) -> Aim | None:
    """None where two grids would not pay."""
    if curvature.inputs_KK is None:
        return None
    W_RK = as_rows(W).double()
    rows, columns = quarters(W_RK, curvature, WIDER * step)
    order_K, step_K = visits(columns), power_step(columns).double()
    scaled_RK = W_RK / (power_step(rows).double()[:, None] * step_K)
    if (scaled_RK.abs() < 0.5).double().mean() > ZEROS:
        return None
    damped = factor(curvature.name, curvature.inputs_KK[order_K][:, order_K], INPUT_DAMP, act_order=False)
    visited_KR = scaled_RK.T[order_K].masked_fill_(damped.dead_K[:, None], 0)
    return Aim(rows, columns, visited_KR, damped.U_KK / step_K[order_K])


def paths(W_KR: Tensor, U_KK: Tensor) -> Tensor:
    """`path` for a piece of the rows at a time."""
    return torch.cat([path(part_KR, U_KK) for part_KR in W_KR.split(ROWS, dim=1)], dim=1)


def visits(columns_K: Tensor) -> Tensor:
    """Columns by falling step: the quietest inputs first, as `Curvature.factor` has it, but told by what is stored."""
    return torch.argsort(columns_K, descending=True, stable=True)


def halves(codes_KR: Tensor, order_K: Tensor) -> Tensor:
    """Codes as whole halves of a step, whole numbers like the codes themselves.

    Whether a column is on the second grid, the higher bit of its state, is told by the parities of the codes one,
    three, five, .. columns before it: NEXT written out.
    """
    odd_KR, second_KR = (codes_KR[order_K] & 1).byte(), torch.zeros(codes_KR.shape, dtype=torch.uint8)
    for begin in 0, 1:
        parities_KR = odd_KR[begin:-1:2].cumsum(0, dtype=torch.uint8) & 1
        second_KR[begin + 1 :: 2] = parities_KR
    found_KR = 2 * codes_KR
    found_KR[order_K] -= codes_KR[order_K].sign() * second_KR
    return found_KR


def nearest(w_SR: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [states, parity, R] next to the weights of each state's survivor, in steps, and where they lie."""
    first_SR, w2_SR = w_SR[:2], w_SR[2:]
    even_SR, odd_SR = 2 * (first_SR / 2).round(), 2 * ((first_SR - 1) / 2).round() + 1
    size_SR, sign_SR = w2_SR.abs(), torch.where(w2_SR < 0, -1.0, 1.0).to(w2_SR)
    # Away from zero: 1.5, 3.5, .. for even codes, 0.5, 2.5, .. for odd ones.
    even2_SR = (2 * ((size_SR + 0.5) / 2).round()).clamp_min(2).masked_fill(size_SR < 0.75, 0)
    odd2_SR = (2 * ((size_SR - 0.5) / 2).round() + 1).clamp_min(1)
    codes_SPR = torch.stack([even_SR, odd_SR], 1)
    codes2_SPR = torch.stack([even2_SR, odd2_SR], 1)
    levels2_SPR = (codes2_SPR - 0.5).clamp_min(0) * sign_SR[:, None]
    return torch.cat([codes_SPR, codes2_SPR * sign_SR[:, None]]), torch.cat([codes_SPR, levels2_SPR])
