"""Methods without a Hessian: round-to-nearest, and keeping a tensor in float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from golf.contracts import ArtifactError, QTensor, SpecError
from golf.quant.clip import OnGrid
from golf.quant.grid import as_rows, pack_codes, straight_through, take_parts, to_codes, unpack_codes


@dataclass(frozen=True, kw_only=True)
class RoundNearest(OnGrid):
    """Every weight to its nearest code. For tables that are only looked up there is no better."""

    name: ClassVar[str] = "nearest"
    needs_hessian: ClassVar[bool] = False

    bits: int = 8
    k: float = 20.0

    dequantize = staticmethod(unpack_codes)

    def quantize(
        self, weights: Mapping[str, Tensor], hessians: Mapping[str, Tensor], multiplier: float
    ) -> dict[str, QTensor]:
        """QTensors by name; the multiplier widens every step. A Hessian, if any, steers the search."""
        return {name: self._one(W, hessians.get(name), multiplier) for name, W in weights.items()}

    def _one(self, W: Tensor, H_KK: Tensor | None, multiplier: float) -> QTensor:
        W_RK = as_rows(W)
        scale_R1 = self.scales(W_RK, H_KK, multiplier)
        codes_RK = to_codes(W_RK, scale_R1, self.grid)
        return pack_codes(codes_RK, scale_R1, self.grid, tuple(W.shape), self.name)


@dataclass(frozen=True)
class Keep:
    """Stored in float: gains, gates and everything too small to be worth a grid."""

    name: ClassVar[str] = "keep"
    needs_hessian: ClassVar[bool] = False

    dtype: str = "float16"

    def __post_init__(self) -> None:
        if self.dtype not in ("float16", "float32"):
            raise SpecError(f"dtype={self.dtype!r} cannot be kept; choose float16 or float32")

    def _rounded(self, W: Tensor) -> Tensor:
        return W.to(getattr(torch, self.dtype))

    def as_exported(self, W: Tensor) -> Tensor:
        """The weight as export would leave it, for late QAT."""
        return straight_through(W, self._rounded(W).to(W.dtype))

    def quantize(
        self, weights: Mapping[str, Tensor], hessians: Mapping[str, Tensor], multiplier: float
    ) -> dict[str, QTensor]:
        """QTensors by name. A float has no step, so neither Hessians nor the multiplier change it."""
        return {
            name: QTensor(tuple(W.shape), self.name, {"value": self._rounded(W).cpu().numpy()})
            for name, W in weights.items()
        }

    @staticmethod
    def dequantize(qtensor: QTensor) -> Tensor:
        (value,) = take_parts(qtensor, value=np.floating)
        if value.shape != qtensor.shape:
            raise ArtifactError(f"a value {value.shape} is no {qtensor.shape} tensor; fetch the file again")
        return torch.from_numpy(value.astype(np.float32))
