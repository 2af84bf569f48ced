"""Late QAT that knows its target: the last stage of training rounds on the steps that the squeeze would choose.

When the stage begins, curvature is measured once on a share of the calibration text, and the one step behind all steps
is chosen so that an ideal coder would meet the byte budget. The stage's forward passes round on what comes out, by
the arithmetic that export and read-back use. Export still measures the averaged weights afresh.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from golf.contracts import Role, SpecError, named_hooks
from golf.host import Host
from golf.quant import fisher
from golf.quant.apply import LATE_QAT, Switch
from golf.quant.fisher import Curvature
from golf.quant.grid import as_rows, fake_quant, power_step, to_codes
from golf.quant.squeeze import COARSEST, FINEST, Squeeze
from golf.quant.waterfill import WIDE, Waterfill, quarters

# The search for the step ends within this many octaves: an eighth of what steps are stored in.
CLOSE = 1 / 32
# Bits that an exponent of a row or column takes in the artifact, and a weight that is kept in float16.
EXPONENT_BITS, FLOAT_BITS = 3.0, 16.0
# Of the time that is left when the stage begins, measuring may take this share.
LARGEST_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Rehearsed(Squeeze):
    """`Squeeze`, whose steps late QAT rehearses.

    share: of the calibration text that is read when fake quantization goes on.
    """

    share: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise SpecError(f"share={self.share} of the calibration text is outside (0, 1]; 0.25 is quick")
        for method in (self.matrix, self.head, self.embed, self.control):
            if isinstance(method, Waterfill) and type(method) is not Waterfill:
                raise SpecError(f"Rehearsed rounds to one grid and {method.name!r} to others; give it Waterfill")

    def rehearse(
        self, model: nn.Module, batches: Callable[[], Iterable[Tensor]], cap: int | None, train: Any, host: Host
    ) -> dict[str, Switch]:
        return {LATE_QAT: Rehearsal(self, model, batches, cap, train, host)}


class Rehearsal:
    """The switch. On for the first time, it measures and keeps what it found in buffers of the layers, which are part
    of checkpoints and of what warm-up puts back, but not of the weights. So a visit during warm-up measures as a
    rehearsal of its own, and a run that is resumed within the stage goes on with the steps it had.

    The steps themselves are tensors that are overwritten in place: a compiled graph reads them where they are.
    Raises SpecError when no stage of `train` rounds, or when measuring takes too much of the time the stage has.
    """

    def __init__(
        self,
        spec: Rehearsed,
        model: nn.Module,
        batches: Callable[[], Iterable[Tensor]],
        cap: int | None,
        train: Any,
        host: Host,
    ) -> None:
        begins = [stage.begin for stage in train.stages if stage.fake_quant]
        if not begins:
            raise SpecError("Rehearsed has no stage to rehearse in; give one fake_quant=True, or use Squeeze")
        self._limit = None if train.seconds is None else LARGEST_SHARE * train.seconds * (1 - begins[0])
        self._spec, self._model, self._batches, self._cap, self._host = spec, model, batches, cap, host
        self._roles, self._layers = model.roles(), dict(named_hooks(model))
        self._steps: dict[str, Tensor] = {}
        self._fakes = {name: self._fake(name, layer) for name, layer in self._layers.items()}
        model.register_buffer("rehearsed", torch.zeros((), dtype=torch.int8, device=host.device), persistent=False)

    def __call__(self, on: bool) -> None:
        if on and not self._model.rehearsed:
            self._measure()
        for name, layer in self._layers.items():
            if on and name in self._steps:
                self._steps[name].copy_(power_step(layer.rehearsed_rows[:, None] + layer.rehearsed_columns.int()))
            layer.fake = self._fakes[name] if on else None

    def _fake(self, name: str, layer: Any) -> Callable[[Tensor], Tensor]:
        """What stands in for the weight of a layer; where steps are measured, it reads them from one tensor."""
        method = self._spec.method(self._roles[name], layer.weight.numel())
        if not isinstance(method, Waterfill):
            return method.as_exported
        steps_RK = self._steps[name] = torch.ones_like(layer.weight, requires_grad=False)
        for axis, size in zip(("rows", "columns"), steps_RK.shape):
            exponents = torch.zeros(size, dtype=torch.int8, device=steps_RK.device)
            layer.register_buffer(f"rehearsed_{axis}", exponents, persistent=False)
        return lambda W: fake_quant(W, steps_RK, WIDE)

    @torch.no_grad()
    def _measure(self) -> None:
        """Fill the layers' buffers. All ranks take what rank 0 finds."""
        begin = time.monotonic()
        count = ceil(self._spec.share * self._spec.calibration.batches(self._host.world))
        known = fisher.collect(self._model, islice(self._batches(), count), host=self._host).by_name
        chosen = None
        if self._host.is_main:
            weights = {name: W.detach() for name, W in self._model.named_parameters()}
            octaves = 0.0 if self._cap is None else reach(weights, self._roles, known, self._spec, self._cap)
            chosen = aim(weights, self._roles, known, self._spec, octaves)
            chosen = {name: [part.to("cpu", torch.int8) for part in chosen[name]] for name in self._steps}
        for name, (rows, columns) in self._host.share(chosen).items():
            self._layers[name].rehearsed_rows.copy_(rows)
            self._layers[name].rehearsed_columns.copy_(columns)
        self._model.rehearsed.fill_(1)
        seconds = self._host.largest(time.monotonic() - begin)
        if self._limit is not None and seconds > self._limit:
            raise SpecError(
                f"measuring what to rehearse takes {seconds:.1f} s and may take {self._limit:.1f} s, half of what the "
                "stage has; begin it earlier or lower quant.share"
            )


def aim(
    weights: Mapping[str, Tensor],
    roles: Mapping[str, Role],
    known: Mapping[str, Curvature],
    spec: Squeeze,
    octaves: float,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Exponents of rows [R] and columns [K] of each tensor that is water-filled, `octaves` from the spec's steps."""
    found = {}
    for name, W in weights.items():
        method = spec.method(roles[name], W.numel())
        if isinstance(method, Waterfill):
            W_RK = as_rows(W).double()
            rows, columns = quarters(W_RK, known[name], method.step * 2.0**octaves)
            found[name] = (rows, torch.zeros_like(W_RK[0]) if columns is None else columns)
    return found


def reach(
    weights: Mapping[str, Tensor],
    roles: Mapping[str, Role],
    known: Mapping[str, Curvature],
    spec: Squeeze,
    cap: int,
) -> float:
    """Octaves from the spec's steps at which an ideal coder would need `cap` bytes, or as near as steps go."""
    low, high = FINEST, COARSEST
    while high - low > CLOSE:
        middle = (low + high) / 2
        aimed = aim(weights, roles, known, spec, middle)
        bits = sum(rate(W, aimed[name]) if name in aimed else FLOAT_BITS * W.numel() for name, W in weights.items())
        low, high = (middle, high) if bits > 8 * cap else (low, middle)
    return high


def rate(W: Tensor, exponents: tuple[Tensor, Tensor]) -> float:
    """Bits of a tensor's codes and exponents, were each code normal with the variance of its row and column."""
    rows, columns = exponents
    codes_RK = to_codes(as_rows(W).float(), power_step(rows[:, None] + columns), WIDE)
    square_RK = codes_RK.square()
    # A column's share is only worth knowing where many rows have it in common.
    column_K = square_RK.mean(dim=0) if columns.any() else torch.ones_like(codes_RK[0])
    variance_RK = square_RK.mean(dim=1, keepdim=True) * column_K / column_K.mean().clamp(min=1e-9)
    sigma_RK = variance_RK.clamp(min=1e-4).sqrt()
    edges = (codes_RK.abs() - 0.5) / sigma_RK, (codes_RK.abs() + 0.5) / sigma_RK
    # Through the upper tail, where the difference of two small numbers keeps its digits.
    share_RK = (torch.special.erfc(edges[0] / 2**0.5) - torch.special.erfc(edges[1] / 2**0.5)) / 2
    return -share_RK.clamp(min=1e-9).log2().sum().item() + EXPONENT_BITS * (len(rows) + len(columns))
