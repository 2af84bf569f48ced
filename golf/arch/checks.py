"""What specs refuse: values out of bounds, and widths that do not divide."""

from __future__ import annotations

import math
from typing import Any

from golf.contracts import SpecError


def at_least(bound: int, name: str, value: float) -> None:
    if not value >= bound:
        raise SpecError(f"{name}={value} must be at least {bound}")


def above_zero(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise SpecError(f"{name}={value} must be above 0")


def splits(name: str, whole: int, other: str, parts: int) -> None:
    if whole % parts:
        raise SpecError(
            f"{name}={whole} does not split into {other}={parts}; "
            f"{name}={-(-whole // parts) * parts} would, as would {other}={math.gcd(whole, parts)}"
        )


def even(name: str, width: int) -> None:
    if width % 2:
        raise SpecError(f"{name}={width} is odd and cannot be rotated in pairs; {width + 1} could")


def bounds(spec: Any, counts: tuple[str, ...], rates: tuple[str, ...]) -> None:
    """The fields `counts` are at least 1, the fields `rates` above 0."""
    for name in counts:
        at_least(1, name, getattr(spec, name))
    for name in rates:
        above_zero(name, getattr(spec, name))
