"""How much time `golf quantize` takes over weights when no recipe says how to quantize them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Effort:
    """tokens: of calibration text, on which curvature is measured.  steps: of learning after rounding.
    survivors: beginnings of a row that rounding keeps; 0 for the best one in each state of the trellis."""

    tokens: int
    steps: int
    survivors: int = 0


EFFORTS = {
    "fast": Effort(tokens=36_864, steps=12),
    "default": Effort(tokens=131_072, steps=48),
    "thorough": Effort(tokens=131_072, steps=48, survivors=16),
}
