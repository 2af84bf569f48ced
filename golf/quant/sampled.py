"""How large a model will be at any step, told from a few rows of every matrix; for models that are quantized once.

A matrix's rows are much alike to a codec, so every n-th of them, rounded to nearest and packed, says what all of them
take: to about a percent, since GPTQ's codes differ a little. Once the whole has been packed at one step, what the
sample was off by is known, and other steps near it follow closely.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from golf.contracts import QTensor, Role, SpecError
from golf.quant import apply
from golf.quant.apply import Method, QuantSpec
from golf.quant.clip import OnGrid
from golf.quant.fit import AIM, SLACK, check_least, sensible
from golf.quant.grid import as_rows
from golf.quant.nearest import RoundNearest

ELEMENTS = 1 << 20
# A sample may promise this much too little; only a cap further below what it says is refused on its word.
TRUST = 0.97
PASSES = 6
# Octaves; each is about a bit a code.
NEAR = 5e-4


class Sizes:
    """Packed bytes at steps 2^octaves times as wide as the spec's.

    size_of: packed bytes of QTensors.  elements: how many the sample has; a smaller model is taken whole.
    Raises SpecError for a method whose stand-in is not known.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        roles: Mapping[str, Role],
        spec: QuantSpec,
        size_of: Callable[[dict[str, QTensor]], int],
        elements: int = ELEMENTS,
    ) -> None:
        self._roles, self._size_of, self._spec = roles, size_of, _without_hessians(spec)
        methods = {name: spec.method(roles[name], W.numel()) for name, W in weights.items()}
        whole = {name for name, W in weights.items() if W.ndim < 2 or not isinstance(methods[name], OnGrid)}
        total = sum(W.numel() for name, W in weights.items() if name not in whole)
        stride = -(-total // elements) or 1
        self._whole = {name: weights[name].float() for name in whole}
        self._rows = {name: _every(as_rows(W), stride) for name, W in weights.items() if name not in whole}
        self._share = total / max(1, sum(W_RK.numel() for W_RK in self._rows.values()))
        self._known: dict[float, float] = {}
        rows = self._quantized(self._rows, 0.0, small=0)
        none = {name: _emptied(qtensor) for name, qtensor in rows.items()}
        kept = self._quantized(self._whole, 0.0, self._spec.small)
        self._frame, self._fixed = size_of(none), size_of(kept | none)
        self.finest, self.coarsest = sensible(self._rows, rows)

    def at(self, octaves: float) -> float:
        if octaves not in self._known:
            rows = self._size_of(self._quantized(self._rows, octaves, small=0))
            self._known[octaves] = self._fixed + self._share * (rows - self._frame)
        return self._known[octaves]

    def octaves(self, bytes_: float) -> float:
        """Where the size comes down to so many bytes, between the finest and the coarsest sensible steps."""
        from scipy.optimize import brentq  # half a second to load, and whoever asks has minutes of work before them

        if self.at(self.finest) <= bytes_:
            return self.finest
        if self.at(self.coarsest) >= bytes_:
            return self.coarsest
        return brentq(lambda octaves: self.at(octaves) - bytes_, self.finest, self.coarsest, xtol=NEAR)

    def _quantized(self, weights: Mapping[str, Tensor], octaves: float, small: int) -> dict[str, QTensor]:
        roles = {name: self._roles[name] for name in weights}
        return apply.quantize(weights, roles, {}, replace(self._spec, small=small), 2.0**octaves)


def next_try(sizes: Sizes, tried: Sequence[tuple[float, int]], cap: int) -> float | None:
    """Octaves of the next pass over the whole model, after those `tried` (octaves, packed bytes); None when the best
    of them that fits is good enough, or no better one is to be had.

    Raises BudgetError, with the smallest size there is, for a cap that no sensible step reaches.
    """
    for octaves, size in tried:
        if octaves >= sizes.coarsest:
            check_least(size, cap)
    if not tried:
        check_least(TRUST * sizes.at(sizes.coarsest), cap)
    fitting = [(size, octaves) for octaves, size in tried if size <= cap]
    if fitting and (max(fitting)[0] >= (1 - SLACK) * cap or max(fitting)[1] <= sizes.finest):
        return None
    # What the nearest of the passes says about the sample.
    off = 1.0
    if tried:
        octaves, size = min(tried, key=lambda one: abs(one[1] - cap))
        off = size / sizes.at(octaves)
    found = sizes.octaves(AIM * cap / off)
    if len(tried) >= PASSES or any(found == octaves for octaves, _ in tried):
        if not fitting:
            check_least(min(size for _, size in tried), cap)
        return None
    return found


def _without_hessians(spec: QuantSpec) -> QuantSpec:
    def stand_in(method: Method) -> Method:
        if not method.needs_hessian:
            return method
        if not isinstance(method, OnGrid) or hasattr(method, "step"):
            raise SpecError(f"--layerwise cannot tell the size of {method.name} beforehand; use GPTQ or RoundNearest")
        return RoundNearest(bits=method.bits, k=method.k, clip=method.clip)

    return replace(spec, **{role: stand_in(getattr(spec, role)) for role in ("matrix", "head", "embed")})


def _every(W_RK: Tensor, stride: int) -> Tensor:
    """Each stride-th row, the middle one of as many; one at least."""
    return W_RK[min(stride // 2, len(W_RK) - 1) :: stride].float()


def _emptied(qtensor: QTensor) -> QTensor:
    """The same without a row, which the header takes as much space for."""
    parts = {part: array[:0] for part, array in qtensor.parts.items()}
    return replace(qtensor, shape=(0, *qtensor.shape[1:]), parts=parts)
