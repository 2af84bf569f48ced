"""The best artifact of given weights for a number of bytes: one price of loss per byte for the whole model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from golf.contracts import BudgetError, Hessians, QTensor, Role, Sink, SpecError, emit
from golf.host import Host
from golf.quant import fisher, ramp, refine
from golf.quant.apply import Calibration, Method, Plan, dequantize, quantize
from golf.quant.fisher import Curvature
from golf.quant.fit import Fitted
from golf.quant.waterfill import Waterfill

# A fit may leave this share of the cap unused; the search aims at a third of it.
SLACK = 0.001
AIM = 1 - SLACK / 3
TRIES = 12
# Two roundings that are this share of the cap apart are so alike that rows of both may stand in one artifact.
NEAR = 0.03
# Octaves to another rounding that is sure to be smaller, or larger, than one that rows of two others were joined in.
ASIDE = 1 / 8
# How soon a coarser step stops saving bits: as measured at two to four bits a code.
BEND = 0.8
# Octaves from the spec's step: far enough that nothing is lost, and that nothing is left.
FINEST, COARSEST = -16.0, 16.0


@dataclass(frozen=True, kw_only=True)
class Squeeze(Plan):
    """Every tensor, control ones too, on steps that curvature chooses; a fit moves the one step behind them all.

    learn: steps of learning after rounding, where `refine` is called; each reads as much text as a batch holds.
    """

    matrix: Method = field(default_factory=Waterfill)
    head: Method = field(default_factory=Waterfill)
    embed: Method = field(default_factory=Waterfill)
    control: Method = field(default_factory=Waterfill)
    calibration: Calibration = field(default_factory=lambda: Calibration(sequences=128, rows=1))
    small: int = 0
    learn: int = 48

    def __post_init__(self) -> None:
        """Control tensors have curvature as any other has, so nothing of what `QuantSpec` refuses is wrong here."""
        if self.learn < 0:
            raise SpecError(f"learn={self.learn} steps cannot be negative; 0 leaves what was rounded as it is")

    def collect(self, model: nn.Module, batches: Iterable[Tensor], *, host: Host) -> Hessians:
        return fisher.collect(model, batches, host=host)

    def fit(
        self,
        weights: Mapping[str, Tensor],
        roles: Mapping[str, Role],
        hessians: Mapping[str, Curvature],
        *,
        size_of: Callable[[dict[str, QTensor]], int],
        cap: int | None,
        sink: Sink,
    ) -> Fitted:
        """Quantize so that `size_of` the result is never over `cap` bytes and within 0.1 % of it; less only where
        codes of 16 bits cannot use up the cap. Without a cap the spec's step stands.

        Raises BudgetError with the smallest size reachable when that is over the cap.
        """

        def measured(qtensors: dict[str, QTensor]) -> int:
            sizes.append(size_of(qtensors))
            emit(sink, "fit", attempt=len(sizes), multiplier=2.0**octaves, bytes=sizes[-1], cap=cap)
            return sizes[-1]

        def attempt() -> Fitted:
            qtensors = quantize(weights, roles, hessians, self, 2.0**octaves)
            return Fitted(qtensors, 2.0**octaves, measured(qtensors), len(sizes))

        sizes: list[int] = []
        octaves = 0.0
        now = attempt()
        if cap is None:
            return now
        points, over, under, codes = [], None, None, sum(W.numel() for W in weights.values())
        while True:
            points.append((octaves, now.bytes))
            if now.bytes > cap:
                over = now if over is None or now.bytes < over.bytes else over
            elif under is None or now.bytes > under.bytes:
                under = now
            if (under and under.bytes in room(cap)) or (over and under and over.bytes - under.bytes < NEAR * cap):
                break
            octaves = min(max(_guess(points, cap, codes), FINEST), COARSEST)
            if len(points) == TRIES or any(octaves == tried for tried, _ in points):
                break
            now = attempt()
        if under is None:
            raise BudgetError(
                f"the smallest artifact of these weights is {min(sizes):,} bytes, {min(sizes) - cap:,} over the "
                f"{cap:,} left for them; narrow the model or raise the cap"
            )
        if over and under.bytes not in room(cap):
            octaves = math.log2(under.multiplier)
            both = over.bytes, under.bytes
            qtensors, size = ramp.between(over.qtensors, under.qtensors, both, room(cap), measured)
            under = replace(under, qtensors=qtensors, bytes=size)
        return replace(under, tries=len(sizes))

    def refine(
        self,
        fitted: Fitted,
        model: nn.Module,
        hessians: Mapping[str, Curvature],
        batches: Sequence[Tensor],
        *,
        size_of: Callable[[dict[str, QTensor]], int],
        cap: int | None,
        host: Host,
        sink: Sink,
        answers: refine.Answers | None = None,
    ) -> Fitted:
        """What fitted, with control tensors that make up for the codes of the others (`golf.quant.refine`), on
        their own steps. Where their bytes differ from what they were, some rows of the others pay for it. The model
        holds the untouched weights."""
        rounded, roles = dequantize(fitted.qtensors), model.roles()
        learned = refine.refine(model, rounded, batches, steps=self.learn, host=host, sink=sink, answers=answers)
        known = {name: roles[name] for name in learned}
        controls = quantize(learned, known, hessians, self, fitted.multiplier)
        found = fitted.qtensors | controls
        size = size_of(found)
        if cap is None or size in room(cap) or (size < cap and fitted.bytes not in room(cap)):
            return replace(fitted, qtensors=found, bytes=size)
        weights = {name: W.detach() for name, W in model.named_parameters()}
        learned = replace(fitted, qtensors=found, bytes=size)
        return self.pay(learned, weights, roles, hessians, size_of=size_of, cap=cap) or fitted

    def pay(
        self,
        learned: Fitted,
        weights: Mapping[str, Tensor],
        roles: Mapping[str, Role],
        hessians: Mapping[str, Curvature],
        *,
        size_of: Callable[[dict[str, QTensor]], int],
        cap: int,
    ) -> Fitted | None:
        """The same control tensors, with rows of the others finer or coarser, so that they use up the cap; None where
        that cannot be."""
        kept = {name: q for name, q in learned.qtensors.items() if roles[name] is Role.CONTROL}
        further = 2.0 ** (ASIDE if learned.bytes > cap else -ASIDE)
        other = quantize(weights, roles, hessians, self, learned.multiplier * further) | kept
        sizes = learned.bytes, size_of(other)
        pair = (learned.qtensors, other) if learned.bytes > cap else (other, learned.qtensors)
        if not min(sizes) <= cap < max(sizes):
            return None
        found, size = ramp.between(*pair, (max(sizes), min(sizes)), room(cap), size_of)
        return replace(learned, qtensors=found, bytes=size)


def room(cap: int) -> range:
    """Sizes that use up a cap."""
    return range(math.ceil((1 - SLACK) * cap), cap + 1)


def _guess(points: list[tuple[float, int]], cap: int, codes: int) -> float:
    """Octaves where the size should be AIM * cap, by what the tries so far say: on the line between the two that
    enclose it, or else on one from the last."""
    over = min((point for point in points if point[1] > cap), default=None, key=lambda point: point[1])
    under = max((point for point in points if point[1] <= cap), default=None, key=lambda point: point[1])
    if over and under:
        share = (over[1] - AIM * cap) / max(over[1] - under[1], 1)
        return over[0] + (under[0] - over[0]) * min(max(share, 0.02), 0.98)
    octaves, size = points[-1]
    if len(points) == 1:
        # Fine codes take a bit more an octave, coarse ones less: d bits = -(1 - 2^(-BEND bits)) d octaves.
        here, there = (2 ** (BEND * min(8 * each / codes, 40)) - 1 for each in (size, AIM * cap))
        return octaves + math.log2(here / there) / BEND
    before, larger = points[-2]
    # At coarse steps bytes fall slower than a bit a code, though never at less than a tenth of it here.
    slope = min((size - larger) / (octaves - before), -0.09 * codes / 8)
    return octaves + (AIM * cap - size) / slope
