"""The best artifact of given weights for a number of bytes: one price of loss per byte for the whole model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from golf.contracts import BudgetError, Hessians, QTensor, Role, Sink, SpecError, emit
from golf.host import Host
from golf.quant import fisher, refine
from golf.quant.apply import Calibration, Method, Plan, dequantize, quantize
from golf.quant.fisher import Curvature
from golf.quant.fit import Fitted
from golf.quant.waterfill import Waterfill

# A fit may leave this share of the cap unused; the search aims at a third of it.
SLACK = 0.001
AIM = 1 - SLACK / 3
TRIES = 12
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

        def attempt(octaves: float) -> Fitted:
            qtensors = quantize(weights, roles, hessians, self, 2.0**octaves)
            points.append((octaves, size_of(qtensors)))
            emit(sink, "fit", attempt=len(points), multiplier=2.0**octaves, bytes=points[-1][1], cap=cap)
            return Fitted(qtensors, 2.0**octaves, points[-1][1], len(points))

        points: list[tuple[float, int]] = []
        now = attempt(0.0)
        if cap is None:
            return now
        best, codes = None, sum(W.numel() for W in weights.values())
        while True:
            if now.bytes <= cap and (best is None or now.bytes > best.bytes):
                best = now
            octaves = min(max(_guess(points, cap, codes), FINEST), COARSEST)
            close = best is not None and best.bytes >= (1 - SLACK) * cap
            if close or len(points) == TRIES or any(octaves == tried for tried, _ in points):
                break
            now = attempt(octaves)
        if best is None:
            least = min(size for _, size in points)
            raise BudgetError(
                f"the smallest artifact of these weights is {least:,} bytes, {least - cap:,} over the {cap:,} left "
                f"for them; narrow the model or raise the cap"
            )
        return replace(best, tries=len(points))

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
    ) -> Fitted:
        """What fitted, with control tensors that make up for the codes of the others (`golf.quant.refine`), on
        their own steps. As it was where that would go over the cap: another rounding of the same tensors may take
        a few bytes more. The model holds the untouched weights."""
        rounded, roles = dequantize(fitted.qtensors), model.roles()
        learned = refine.refine(model, rounded, batches, steps=self.learn, host=host, sink=sink)
        known = {name: roles[name] for name in learned}
        qtensors = fitted.qtensors | quantize(learned, known, hessians, self, fitted.multiplier)
        size = size_of(qtensors)
        return fitted if cap is not None and size > cap else replace(fitted, qtensors=qtensors, bytes=size)


def _guess(points: list[tuple[float, int]], cap: int, codes: int) -> float:
    """Octaves where the size should be AIM * cap, by what the tries so far say: on the line between the two that
    enclose it, or else on one from the last."""
    over = max((point for point in points if point[1] > cap), default=None)
    under = min((point for point in points if point[1] <= cap), default=None)
    if over and under:
        share = (over[1] - AIM * cap) / max(over[1] - under[1], 1)
        return over[0] + (under[0] - over[0]) * min(max(share, 0.02), 0.98)
    (octaves, size), slope = points[-1], -0.9 * codes / 8
    if len(points) > 1:
        before, larger = points[-2]
        # At coarse steps bytes fall slower than a bit a code, though never at less than a tenth of it here.
        slope = min((size - larger) / (octaves - before), slope / 10)
    return octaves + (AIM * cap - size) / slope
