"""Steps from curvature: every weight of the model may cost the loss the same.

An error spread evenly over a step s costs c s^2 / 24 nats where the loss curves by c, and a step half as wide costs
one bit more whatever the weight. So the fewest nats for all bytes together come at s = step / sqrt(c), with one
`step` for the whole model: reverse water-filling, where bits are an outcome. The curvature that counts is what is
left once later columns have made up for an error, the inverse square of the diagonal of GPTQ's factor, times the row's.
Both factors of a step travel as eight-bit exponents.

Source: for the columns, WaterSIC, arXiv 2603.04956; the rows' share comes from the Fisher matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from golf.contracts import ArtifactError, HessianError, QTensor, SpecError
from golf.quant.clip import OnGrid
from golf.quant.fisher import Curvature
from golf.quant.gptq import solve
from golf.quant.grid import QUARTERS, Grid, as_rows, exponents, integers, power_step, take_parts, to_codes, to_weights

WIDE = Grid(16)
# Columns that the loop over columns settles before it touches the rest: speed only.
BLOCK = 64


@dataclass(frozen=True, kw_only=True)
class Waterfill(OnGrid):
    """Codes on steps of row times column, both from curvature.

    step: its square over 24 is what rounding one weight may cost, in nats per token.  bits, k, clip: the grid that
    late QAT rehearses on, unless the plan is `golf.quant.rehearse.Rehearsed`.
    """

    name: ClassVar[str] = "waterfill"
    needs_hessian: ClassVar[bool] = True
    # What the loss hardly minds may vanish altogether, so shapes alone rule no budget out.
    least_bits: ClassVar[float] = 0.0

    bits: int = 6
    k: float = 12.85
    step: float = 1.4e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.step > 0:
            raise SpecError(f"step={self.step} must be above 0; 0.00014 loses little")

    def quantize(
        self, weights: Mapping[str, Tensor], hessians: Mapping[str, Curvature], multiplier: float
    ) -> dict[str, QTensor]:
        """QTensors by name; the multiplier widens every step. Raises HessianError for a tensor without curvature."""
        for name in weights:
            if name not in hessians:
                raise HessianError(f"no curvature for {name}; calibrate, or use RoundNearest")
        return {name: self.round(W, hessians[name], self.step * multiplier) for name, W in weights.items()}

    @staticmethod
    def round(W: Tensor, curvature: Curvature, step: float) -> QTensor:
        return round_tensor(W, curvature, step)

    @staticmethod
    def dequantize(qtensor: QTensor) -> Tensor:
        codes, rows, *rest = take_parts(qtensor, **dict.fromkeys(("codes", "rows", *qtensor.parts), np.integer))
        codes_RK = as_rows(torch.from_numpy(codes.astype(np.float32)))
        columns = rest[0] if rest else np.zeros(codes_RK.shape[1], np.int8)
        if rest[1:] or codes.shape != qtensor.shape or (*rows.shape, *columns.shape) != tuple(codes_RK.shape):
            raise ArtifactError(
                f"codes {codes.shape} with steps {rows.shape} and {columns.shape} do not make a {qtensor.shape} "
                "tensor; fetch the file again"
            )
        quarters_R, quarters_K = torch.from_numpy(rows.astype(np.int64)), torch.from_numpy(columns.astype(np.int64))
        return to_weights(codes_RK, power_step(quarters_R[:, None] + quarters_K)).reshape(qtensor.shape)


def round_tensor(W: Tensor, curvature: Curvature, step: float) -> QTensor:
    """One tensor on the steps its curvature asks for; what it meets as a matrix, column by column as GPTQ does."""
    W_RK = as_rows(W).double()
    rows, columns = quarters(W_RK, curvature, step)
    if columns is None:
        return pack(W, to_codes(W_RK, power_step(rows)[:, None], WIDE), {"rows": rows})
    steps_K = power_step(columns).double()
    U_KK = curvature.factor.U_KK / steps_K[curvature.factor.order_K]
    factor = replace(curvature.factor, U_KK=U_KK)
    codes_KR = solve([W_RK / steps_K], [factor], [power_step(rows)[:, None]], WIDE, BLOCK)[0]
    return pack(W, codes_KR.T, {"rows": rows, "columns": columns})


def quarters(W_RK: Tensor, curvature: Curvature, step: float) -> tuple[Tensor, Tensor | None]:
    """Exponents of the steps of rows [R] and columns [K] as they are stored; None where all columns count the same."""
    rows_R = curvature.rows_R.double()
    if curvature.inputs_KK is None:
        return _unclipped(exponents(step * rows_R.rsqrt()), W_RK), None
    left_K = torch.empty_like(curvature.factor.dead_K, dtype=torch.float64)
    left_K[curvature.factor.order_K] = curvature.factor.U_KK.diagonal().square().reciprocal()
    columns, rows = shares(left_K, rows_R, step)
    return _unclipped(rows, W_RK / power_step(columns).double()), columns


def shares(left_K: Tensor, rows_R: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Exponents of the columns' and rows' factors. The columns' are centered on zero, so they stay small."""
    typical = left_K.log().mean().exp()
    return exponents((typical / left_K).sqrt()), exponents(step * (typical * rows_R).rsqrt())


def _unclipped(rows: Tensor, W_RK: Tensor) -> Tensor:
    """Exponents no finer than what codes of 16 bits reach, with an octave left for what errors add to a weight."""
    return torch.maximum(rows, exponents(W_RK.abs().amax(dim=1) / WIDE.limit) + QUARTERS)


def pack(W: Tensor, codes_RK: Tensor, steps: Mapping[str, Tensor]) -> QTensor:
    """The codes in bytes where they fit, and the exponents."""
    grid = Grid(8) if codes_RK.numel() and codes_RK.abs().max() <= Grid(8).limit else WIDE
    parts = {"codes": integers(codes_RK, grid).reshape(tuple(W.shape))}
    parts |= {part: integers(values, Grid(8)) for part, values in steps.items()}
    alphabets = {"codes": grid.alphabet} | {part: Grid(8).alphabet for part in steps}
    return QTensor(tuple(W.shape), Waterfill.name, parts, alphabets)
