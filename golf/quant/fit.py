"""Fitting the cap: one multiplier on every step, found with the real quantizer and the real packer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from golf.contracts import BudgetError, QTensor, Role, Sink, emit
from golf.quant.apply import QuantSpec, quantize
from golf.quant.clip import deviation
from golf.quant.grid import as_rows
from golf.quant.nearest import Keep

# A fit may leave this share of the cap unused; the search aims at a third of it.
SLACK = 0.005
AIM = 1 - SLACK / 3
TRIES = 12
# Wider than two standard deviations, most codes are zero: about 1.2 bits a weight, and little of the model left.
COARSEST_STEP = 2.0
# Narrower than six, finer steps would cut off weights that matter more than the steps do.
NARROWEST_CLIP = 6.0


@dataclass(frozen=True)
class Fitted:
    """What fits: the tensors, the multiplier on every step, their packed bytes, how often quantizing was tried."""

    qtensors: dict[str, QTensor]
    multiplier: float
    bytes: int
    tries: int


def fit(
    weights: Mapping[str, Tensor],
    roles: Mapping[str, Role],
    hessians: Mapping[str, Tensor],
    spec: QuantSpec,
    *,
    size_of: Callable[[dict[str, QTensor]], int],
    cap: int | None,
    sink: Sink,
) -> Fitted:
    """Quantize so that `size_of` the result is never over `cap` bytes, and within 0.5 % of it where a
    sensible step gets there; cap None takes the spec as it stands.

    Too large: steps widen, up to COARSEST_STEP. Room left: they narrow, down to NARROWEST_CLIP; what room is
    left then needs more bits in the spec. Packed size falls by about one bit a weight each time steps double:
    that is the first guess, and a secant, kept inside the bracket once there is one, does the rest in two or
    three tries.
    Raises BudgetError, with numbers, when tensors kept in float or the coarsest steps are over the cap: the
    former before anything is quantized, the latter after one try where that shows it.
    """

    def attempt(octaves: float) -> Fitted:
        """Steps 2^octaves times as wide."""
        qtensors = quantize(weights, roles, hessians, spec, 2.0**octaves)
        points.append((octaves, size_of(qtensors)))
        emit(sink, "fit", attempt=len(points), multiplier=2.0**octaves, bytes=points[-1][1], cap=cap)
        return Fitted(qtensors, 2.0**octaves, points[-1][1], len(points))

    points: list[tuple[float, int]] = []
    if cap is None:
        return attempt(0.0)
    _check_kept(weights, roles, spec, size_of, cap)
    now = attempt(0.0)
    fitting = now if now.bytes <= cap else None
    codes = sum(array.size for q in now.qtensors.values() for part, array in q.parts.items() if part in q.alphabets)
    finest, coarsest = sensible(weights, now.qtensors)
    # Doubling a step saves at most one bit a code, so the coarsest steps leave at least this.
    check_least(now.bytes - coarsest * codes / 8, cap)
    while not (fitting and (fitting.bytes >= (1 - SLACK) * cap or math.log2(fitting.multiplier) <= finest)):
        octaves = min(max(_guess(points, cap, codes), finest), coarsest)
        # A power of two and its logarithm may differ by an ulp: the finest step is known by having been tried.
        if len(points) == TRIES or any(octaves == tried for tried, _ in points):
            break
        now = attempt(octaves)
        if now.bytes <= cap and (fitting is None or now.bytes > fitting.bytes):
            fitting = now
        elif now.bytes > cap and points[-1][0] >= coarsest:
            check_least(now.bytes, cap)
    if fitting is None:
        check_least(min(size for _, size in points), cap)
    return replace(fitting, tries=len(points))


def _guess(points: list[tuple[float, int]], cap: int, codes: int) -> float:
    """Octaves where the size should be AIM * cap, by what the tries so far say."""
    over = [point for point in points if point[1] > cap]
    under = [point for point in points if point[1] <= cap]
    if over and under:
        (left, large), (right, small) = max(over), min(under)
        share = (math.log(large) - math.log(AIM * cap)) / (math.log(large) - math.log(small))
        # Never closer than a tenth to either end: the bracket shrinks even where the line misleads.
        return left + (right - left) * min(max(share, 0.1), 0.9)
    # A bit a code for each octave, less what finer codes gain by a smoother histogram.
    (octaves, size), slope = points[-1], -0.95 * codes / 8
    if len(points) > 1:
        before, larger = points[-2]
        # At coarse steps bytes fall slower than a bit a code, though never at less than a tenth of it here.
        slope = min((size - larger) / (octaves - before), slope / 10)
    return octaves + (AIM * cap - size) / slope


def sensible(weights: Mapping[str, Tensor], qtensors: Mapping[str, QTensor]) -> tuple[float, float]:
    """Octaves of the finest multiplier at which no tensor's clip is below NARROWEST_CLIP, and of the coarsest at
    which the typical weight's step is COARSEST_STEP. Neither is on the other side of 0: the spec itself stands."""
    narrow, wide, elements = -math.inf, 0.0, 0
    for name, qtensor in qtensors.items():
        if not qtensor.alphabets:
            continue
        sigma_R = deviation(as_rows(weights[name].detach().float().cpu()))[:, 0]
        step_R = torch.from_numpy(qtensor.parts["scale"].astype("float32")) / sigma_R
        step = math.log2(step_R[sigma_R > 0].median().item()) if sigma_R.any() else 0.0
        narrow = max(narrow, math.log2(NARROWEST_CLIP / (qtensor.alphabets["codes"] // 2)) - step)
        wide += step * weights[name].numel()
        elements += weights[name].numel()
    if not elements:
        return 0.0, 0.0
    return min(narrow, 0.0), max(math.log2(COARSEST_STEP) - wide / elements, 0.0)


def _check_kept(
    weights: Mapping[str, Tensor],
    roles: Mapping[str, Role],
    spec: QuantSpec,
    size_of: Callable[[dict[str, QTensor]], int],
    cap: int,
) -> None:
    kept = {name: W for name, W in weights.items() if isinstance(spec.method(roles[name], W.numel()), Keep)}
    least = size_of(quantize(kept, {name: roles[name] for name in kept}, {}, spec))
    if least > cap:
        raise BudgetError(
            f"tensors kept in float and the header alone are {least:,} bytes, {least - cap:,} over the "
            f"{cap:,} left for weights; lower QuantSpec.small or keep them in float16"
        )


def check_least(least: float, cap: int) -> None:
    if least > cap:
        raise BudgetError(
            f"the weights are at least {least:,.0f} bytes at the coarsest sensible steps, "
            f"{least - cap:,.0f} over the {cap:,} left for them; narrow the model"
        )
