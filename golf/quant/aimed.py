"""The squeeze with fewer roundings: the first step is foretold, and what it is off by is made up for by some tensors.

To round a whole model and pack it is most of the work of a fit, and `Squeeze` does it three times: at the spec's step,
where that says the cap is met, and once more on the other side of the cap. Here the bits that an ideal coder would need
are added up first, which takes seconds for any number of steps and is right to a percent or two. Then a part of the
tensors is rounded a quarter octave away, and its rows are joined with what there is. Codes are worth the same
everywhere, so it makes no difference which of them pay: those are taken that are packed anew the soonest.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

from torch import Tensor

from golf.contracts import QTensor, Role, Sink, emit
from golf.quant import abreast, ramp
from golf.quant.apply import quantize
from golf.quant.fisher import Curvature
from golf.quant.fit import Fitted
from golf.quant.rehearse import aim, rate
from golf.quant.squeeze import AIM, BEND, COARSEST, FINEST, Squeeze, room
from golf.quant.trellis import WIDER

# What an ideal coder of normal codes is off by, as a share for every octave of bits a code from where it is right,
# as measured at 1.8 to 3.6 bits on two grids; finer codes are as far off as those of MOST bits.
OFF, RIGHT_AT, MOST = 0.08, 3.1, 4.0
# Octaves between the roundings of a tensor, whose steps are stored in quarters.
APART = 1 / 4
# Of the codes that should make up for a difference, so many more are rounded anew, since nobody knows to a row.
MORE = 1.3
# Roundings of the whole, each of them nearer, before the search that takes its time.
WHOLES = 3
# Foretelling goes on until it is this share of the bytes off, or has been asked so often.
CLOSE, STEPS = 0.0005, 12


Sizes = Callable[[dict[str, QTensor]], int]


@dataclass(frozen=True, kw_only=True)
class Aimed(Squeeze):
    """`Squeeze`, whose fit under a cap rounds the whole once, as a rule, and a tenth of it once more."""

    def fit(
        self,
        weights: Mapping[str, Tensor],
        roles: Mapping[str, Role],
        hessians: Mapping[str, Curvature],
        *,
        size_of: Sizes,
        cap: int | None,
        sink: Sink,
    ) -> Fitted:
        """As `Squeeze.fit`, which goes on where foretelling leads nowhere: in models of few weights, and to find out
        what the smallest size is."""

        def measured(qtensors: dict[str, QTensor]) -> int:
            sizes.append(size_of(qtensors))
            emit(sink, "fit", attempt=len(sizes), multiplier=2.0**octaves, bytes=sizes[-1], cap=cap)
            return sizes[-1]

        sizes: list[int] = []
        if cap is not None and hessians.keys() >= weights.keys():
            ideal, codes, off = foretold(weights, roles, hessians, self), _count(weights), 1.0
            for _ in range(WHOLES):
                octaves = reach(ideal, AIM * cap / off, codes)
                if not FINEST < octaves < COARSEST:
                    break
                qtensors = quantize(weights, roles, hessians, self, 2.0**octaves)
                now = Fitted(qtensors, 2.0**octaves, measured(qtensors), len(sizes))
                met = self.meet(now, weights, roles, hessians, size_of=measured, cap=cap)
                if met is not None:
                    return replace(met, tries=len(sizes))
                off = now.bytes / ideal(octaves)
        return super().fit(weights, roles, hessians, size_of=size_of, cap=cap, sink=sink)

    def pay(
        self,
        learned: Fitted,
        weights: Mapping[str, Tensor],
        roles: Mapping[str, Role],
        hessians: Mapping[str, Curvature],
        *,
        size_of: Sizes,
        cap: int,
    ) -> Fitted | None:
        """As `Squeeze.pay`, by rows of some tensors where they can."""
        told = weights, roles, hessians
        return self.meet(learned, *told, size_of=size_of, cap=cap) or super().pay(
            learned, *told, size_of=size_of, cap=cap
        )

    def meet(
        self,
        fitted: Fitted,
        weights: Mapping[str, Tensor],
        roles: Mapping[str, Role],
        hessians: Mapping[str, Curvature],
        *,
        size_of: Sizes,
        cap: int,
    ) -> Fitted | None:
        """What was rounded, with rows of some tensors APART octaves finer or coarser, so that it uses up the cap.
        None where that takes more than these weights have."""
        if fitted.bytes in room(cap):
            return fitted
        bits = 8 * fitted.bytes / _count(weights)
        missing = 8 * abs(fitted.bytes - AIM * cap) / (APART * (1 - 2 ** (-BEND * bits)))
        known = {name: W for name, W in weights.items() if hessians[name].inputs_KK is not None}
        chosen = {name: roles[name] for name in payers(known, roles, MORE * missing)}
        further = 2.0 ** (APART if fitted.bytes > cap else -APART)
        some = {name: weights[name] for name in chosen}
        other = quantize(some, chosen, hessians, self, fitted.multiplier * further)
        here = {name: fitted.qtensors[name] for name in other}
        size = size_of(fitted.qtensors | other) if other else fitted.bytes
        if size not in room(cap):
            if not min(size, fitted.bytes) <= cap < max(size, fitted.bytes):
                return None
            pair = (here, other) if fitted.bytes > cap else (other, here)
            both = max(size, fitted.bytes), min(size, fitted.bytes)
            other, size = ramp.between(*pair, both, room(cap), lambda part: size_of(fitted.qtensors | part))
        found = replace(fitted, qtensors=fitted.qtensors | other, bytes=size)
        return found if size in room(cap) else None


def payers(weights: Mapping[str, Tensor], roles: Mapping[str, Role], codes: float) -> list[str]:
    """Names of tensors of so many codes together, from the smallest stream that has them; none where not even all of
    them have."""
    streams: dict[tuple[Role, int], list[str]] = {}
    for name, W in weights.items():
        streams.setdefault((roles[name], W.shape[-1]), []).append(name)
    sizes = {stream: sum(weights[name].numel() for name in names) for stream, names in streams.items()}
    enough = [stream for stream, size in sizes.items() if size >= codes]
    names = streams[min(enough, key=sizes.__getitem__)] if enough else list(weights)
    ends = list(accumulate(weights[name].numel() for name in names))
    return names[: bisect_left(ends, codes) + 1] if ends and ends[-1] >= codes else []


def foretold(
    weights: Mapping[str, Tensor], roles: Mapping[str, Role], known: Mapping[str, Curvature], spec: Squeeze
) -> Callable[[float], float]:
    """Bytes of codes and exponents on two grids, so many octaves from the spec's steps."""
    aimed = aim(weights, roles, known, spec, math.log2(WIDER))
    codes = _count(weights)

    def at(octaves: float) -> float:
        def ideal(name: str) -> float:
            return rate(weights[name] * 2.0**-octaves, aimed[name])

        bits = sum(abreast.each(ideal, aimed))
        return bits / 8 / (1 + OFF * math.log2(min(max(bits / codes, 0.1), MOST) / RIGHT_AT))

    return at


def reach(size: Callable[[float], float], wanted: float, codes: int) -> float:
    """Octaves where a size comes down to what is wanted, to CLOSE of it, between FINEST and COARSEST."""
    octaves = 0.0
    for _ in range(STEPS):
        now = size(octaves)
        if abs(now - wanted) <= CLOSE * wanted or not FINEST < octaves < COARSEST:
            break
        slope = codes / 8 * (1 - 2 ** (-BEND * 8 * min(now, wanted) / codes))
        octaves = min(max(octaves + (now - wanted) / slope, FINEST), COARSEST)
    return octaves


def _count(weights: Mapping[str, Tensor]) -> int:
    return sum(W.numel() for W in weights.values())
