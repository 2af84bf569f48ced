"""All rounding arithmetic of golf. Late QAT, export and read-back call these lines, so they cannot disagree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from golf.contracts import ArtifactError, QTensor, SpecError

FP16 = torch.finfo(torch.float16)
# Steps that are powers of two to the quarter: an eighth of an octave off costs half a percent of error at most.
QUARTERS, EXPONENT_LIMIT = 4, 127


@dataclass(frozen=True)
class Grid:
    """Symmetric integers -limit..limit. The one code that two's complement would add on the negative side
    stays unused: with it, a weight and its mirror image would round differently."""

    bits: int

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise SpecError(f"bits={self.bits} is outside 2..16, the grids that fit two bytes; use Keep for finer")

    @property
    def limit(self) -> int:
        return 2 ** (self.bits - 1) - 1

    @property
    def alphabet(self) -> int:
        return 2 * self.limit + 1


def stored(scale: Tensor) -> Tensor:
    """The scale as the file will hold it: rounded to float16 first, so that every later step works on the
    grid that is read back, not on a neighbor of it. In the dtype it came in.

    Below 6.1e-5 float16 loses bits and then flushes to zero, so that is the floor; above 65,504 it is infinite.
    """
    return scale.clamp(FP16.smallest_normal, FP16.max).half().to(scale.dtype)


def to_codes(W: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """The nearest integers of the grid, in the dtype of W. `scale` broadcasts against W: [R, 1] for [R, K]."""
    return (W / scale).round().clamp(-grid.limit, grid.limit)


def to_weights(codes: Tensor, scale: Tensor) -> Tensor:
    """Codes (in a floating dtype) back to weights."""
    return codes * scale


def fake_quant(W: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """The weight exactly as it will be read back, with the gradient of the identity (straight-through)."""
    return straight_through(W, to_weights(to_codes(W, scale, grid), scale))


def straight_through(W: Tensor, rounded: Tensor) -> Tensor:
    """`rounded` bit for bit, with the gradient of W. The common W + (rounded - W) is off by an ulp now and then."""
    return rounded.detach() + (W - W.detach())


def pack_codes(codes_RK: Tensor, scale_R1: Tensor, grid: Grid, shape: tuple[int, ...], method: str) -> QTensor:
    """Codes and their stored scales as plain arrays: int8 or int16 of `shape`, and float16 of one per row."""
    parts = {
        "codes": integers(codes_RK, grid).reshape(shape),
        "scale": scale_R1.half().flatten().cpu().numpy(),
    }
    return QTensor(shape=shape, method=method, parts=parts, alphabets={"codes": grid.alphabet})


def integers(codes: Tensor, grid: Grid) -> np.ndarray:
    """Codes as an array of the narrowest type that holds the grid."""
    return codes.to(torch.int8 if grid.bits <= 8 else torch.int16).cpu().numpy()


def exponents(step: Tensor) -> Tensor:
    """Steps as the nearest quarter octaves, in the dtype of `step`, within what eight bits hold."""
    return (step.log2() * QUARTERS).round().clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT)


def power_step(quarters: Tensor) -> Tensor:
    """The float32 step of whole quarter octaves. One of four constants and an exact power of two, so that no
    machine's logarithm has a say in it."""
    quarters = quarters.long()
    within = torch.tensor([1.0, 1.1892071, 1.4142135, 1.6817929], device=quarters.device)[quarters % QUARTERS]
    return torch.ldexp(within, quarters // QUARTERS)


def unpack_codes(qtensor: QTensor) -> Tensor:
    """float32 weights of what `pack_codes` made. Raises ArtifactError when the parts are others."""
    codes, scale = take_parts(qtensor, codes=np.integer, scale=np.floating)
    rows = as_rows(torch.from_numpy(codes.astype(np.float32)))
    if codes.shape != qtensor.shape or scale.shape != (len(rows),):
        raise ArtifactError(
            f"codes {codes.shape} and scales {scale.shape} do not make a {qtensor.shape} tensor; fetch the file again"
        )
    scale_R1 = torch.from_numpy(scale.astype(np.float32))[:, None]
    return to_weights(rows, scale_R1).reshape(qtensor.shape)


def take_parts(qtensor: QTensor, **kinds: type) -> list[np.ndarray]:
    """The named parts in that order. Raises ArtifactError when a part is missing, extra or of another kind."""
    parts: Mapping[str, np.ndarray] = qtensor.parts
    if set(parts) != set(kinds) or not all(np.issubdtype(parts[part].dtype, kind) for part, kind in kinds.items()):
        held = {part: str(array.dtype) for part, array in parts.items()}
        raise ArtifactError(f"method {qtensor.method!r} stores {sorted(kinds)}, the file holds {held}; fetch it again")
    return [parts[part] for part in kinds]


def as_rows(W: Tensor) -> Tensor:
    """[..., K] as [R, K]: leading axes are rows. A vector is one row, a scalar one row of one."""
    W = W.reshape(1) if W.ndim == 0 else W
    return W.reshape(-1, W.shape[-1]) if W.numel() else W.reshape(0, W.shape[-1])
