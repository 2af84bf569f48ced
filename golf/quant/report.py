"""What quantization did to each tensor, as rows for a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from golf.contracts import QTensor
from golf.quant.apply import dequantize
from golf.quant.clip import weighted_error
from golf.quant.grid import as_rows


@dataclass(frozen=True)
class Row:
    """scale: mean step, 0 for a tensor kept in float.  bits: entropy of the codes (or width of the float),
    per weight. error: tr(E H ET) / tr(W H WT), the share of the outputs' energy that rounding moved; plain
    squares without H."""

    name: str
    role: str
    method: str
    parameters: int
    scale: float
    bits: float
    error: float


def rows(weights: Mapping[str, Tensor], qtensors: Mapping[str, QTensor], hessians: Mapping[str, Tensor]) -> list[Row]:
    """One row for every tensor, in order."""
    return [_row(name, weights[name], qtensor, hessians.get(name)) for name, qtensor in qtensors.items()]


def _row(name: str, W: Tensor, qtensor: QTensor, H_KK: Tensor | None) -> Row:
    read = dequantize({name: qtensor})[name]
    H_KK = None if H_KK is None else H_KK.cpu()
    W_RK, read_RK = as_rows(W.detach().float().cpu()), as_rows(read)
    moved = weighted_error(W_RK, read_RK, H_KK)
    whole = weighted_error(W_RK, W_RK.new_zeros(()), H_KK)
    coded = [array for part, array in qtensor.parts.items() if part in qtensor.alphabets]
    floats = {part: array for part, array in qtensor.parts.items() if part not in qtensor.alphabets}
    bits = sum(entropy(array) for array in coded) if coded else 8.0 * sum(a.itemsize for a in floats.values())
    return Row(
        name=name,
        role=qtensor.role,
        method=qtensor.method,
        parameters=W.numel(),
        scale=float(floats["scale"].mean(dtype=np.float64)) if coded else 0.0,
        bits=bits,
        error=moved / whole if whole else 0.0,
    )


def entropy(symbols: np.ndarray) -> float:
    """Bits a symbol, by the histogram alone: what an ideal coder without context would need."""
    if not symbols.size:
        return 0.0
    share = np.unique(symbols, return_counts=True)[1] / symbols.size
    return float(-(share * np.log2(share)).sum())
