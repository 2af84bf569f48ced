"""Methods without a Hessian: round-to-nearest, and keeping a tensor in float."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from golf.contracts import QTensor, SpecError
from golf.quant import clip as clips
from golf.quant.grid import (
    Grid,
    as_rows,
    fake_quant,
    pack_codes,
    straight_through,
    take_parts,
    to_codes,
    unpack_codes,
)


@dataclass(frozen=True, kw_only=True)
class RoundNearest:
    """Every weight to its nearest code. For tables whose rows are looked up one at a time there is no better.

    bits: of the grid.  k: clip in standard deviations of the row.  clip: "sd" or "search", see
    `golf.quant.clip`.
    """

    name: ClassVar[str] = "nearest"
    needs_hessian: ClassVar[bool] = False

    bits: int = 8
    k: float = 20.0
    clip: str = "sd"

    def __post_init__(self) -> None:
        Grid(self.bits)
        clips.check(self.clip, self.k)

    def scale(self, W_RK: Tensor, H_KK: Tensor | None = None, multiplier: float = 1.0) -> Tensor:
        return clips.scale(self.clip, W_RK, Grid(self.bits), self.k, H_KK, multiplier)

    def fake(self, W: Tensor) -> Tensor:
        """The weight as export would leave it, for late QAT: a pure function of the current weight."""
        W_RK = as_rows(W)
        return fake_quant(W_RK, self.scale(W_RK.detach()), Grid(self.bits)).view_as(W)

    def quantize(
        self, weights: Mapping[str, Tensor], hessians: Mapping[str, Tensor], multiplier: float
    ) -> dict[str, QTensor]:
        """QTensors by name. The multiplier widens every step. Hessians, where there are any, steer
        clip="search"."""
        return {name: self._one(W, hessians.get(name), multiplier) for name, W in weights.items()}

    def _one(self, W: Tensor, H_KK: Tensor | None, multiplier: float) -> QTensor:
        W_RK, grid = as_rows(W), Grid(self.bits)
        scale_R1 = self.scale(W_RK, H_KK, multiplier)
        return pack_codes(to_codes(W_RK, scale_R1, grid), scale_R1, grid, tuple(W.shape), self.name)

    @staticmethod
    def dequantize(qtensor: QTensor) -> Tensor:
        return unpack_codes(qtensor)


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

    def fake(self, W: Tensor) -> Tensor:
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
        return torch.from_numpy(value.astype(np.float32)).reshape(qtensor.shape)
