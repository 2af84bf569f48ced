"""What quantization did to each tensor, as rows for a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from golf.contracts import QTensor
from golf.quant.apply import dequantize
from golf.quant.clip import weighted_error
from golf.quant.fisher import Curvature
from golf.quant.grid import as_rows, power_step


@dataclass(frozen=True)
class Row:
    """scale: mean step, 0 for a tensor kept in float.  bits: entropy of the codes (or width of the float),
    per weight. error: tr(E H ET) / tr(W H WT), the share of the outputs' energy that rounding moved; plain
    squares without H.  loss: what that is predicted to cost, nats per token; None where only H is known."""

    name: str
    role: str
    method: str
    parameters: int
    scale: float
    bits: float
    error: float
    loss: float | None = None


def rows(
    weights: Mapping[str, Tensor], qtensors: Mapping[str, QTensor], hessians: Mapping[str, Tensor | Curvature]
) -> list[Row]:
    """One row for every tensor, in order."""
    return [_row(name, weights[name], qtensor, hessians.get(name)) for name, qtensor in qtensors.items()]


def _row(name: str, W: Tensor, qtensor: QTensor, known: Tensor | Curvature | None) -> Row:
    read = dequantize({name: qtensor})[name]
    W_RK, read_RK = as_rows(W.detach().float().cpu()), as_rows(read)
    if isinstance(known, Curvature):
        moved, whole = known.loss(W_RK - read_RK), known.loss(W_RK)
    else:
        H_KK = None if known is None else known.cpu()
        moved, whole = weighted_error(W_RK, read_RK, H_KK), weighted_error(W_RK, W_RK.new_zeros(()), H_KK)
    coded = "codes" in qtensor.alphabets
    floats = {part: array for part, array in qtensor.parts.items() if part not in qtensor.alphabets}
    bits = entropy(qtensor.parts["codes"]) if coded else 8.0 * sum(array.itemsize for array in floats.values())
    return Row(
        name=name,
        role=qtensor.role,
        method=qtensor.method,
        parameters=W.numel(),
        scale=mean_step(qtensor) if coded else 0.0,
        bits=bits,
        error=moved / whole if whole else 0.0,
        loss=moved if isinstance(known, Curvature) else None,
    )


def mean_step(qtensor: QTensor) -> float:
    """Over all weights of a tensor on a grid."""
    if "scale" in qtensor.parts:
        return float(qtensor.parts["scale"].mean(dtype=np.float64))
    sides = (qtensor.parts[part] for part in ("rows", "columns") if part in qtensor.parts)
    return math.prod(power_step(torch.from_numpy(side.astype(np.int64))).double().mean().item() for side in sides)


def entropy(symbols: np.ndarray) -> float:
    """Bits a symbol, by the histogram alone: what an ideal coder without context would need."""
    if not symbols.size:
        return 0.0
    share = np.unique(symbols, return_counts=True)[1] / symbols.size
    return abs(float((share * np.log2(share)).sum()))
