"""The plan: which method each tensor gets, by its role; and the way back from stored parts to weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor, nn

from golf.contracts import ArtifactError, DivergedError, Hessians, QTensor, Role, SpecError, named_hooks
from golf.host import Host
from golf.quant import hessian
from golf.quant.gptq import GPTQ
from golf.quant.grid import FP16
from golf.quant.nearest import Keep, RoundNearest

if TYPE_CHECKING:
    from golf.quant.fit import Fitted


Switch = Callable[[bool], None]
LATE_QAT = "fake_quant"  # the switch's name among a stage's


class Method(Protocol):
    """How tensors become codes and back. `name` is its key in METHODS and is written into every QTensor."""

    name: ClassVar[str]
    needs_hessian: ClassVar[bool]

    def quantize(
        self, weights: Mapping[str, Tensor], hessians: Mapping[str, Tensor], multiplier: float
    ) -> dict[str, QTensor]: ...

    def as_exported(self, W: Tensor) -> Tensor:
        """What late QAT puts in the place of W: on the export's grid, with a straight-through gradient."""
        ...

    @staticmethod
    def dequantize(qtensor: QTensor) -> Tensor:
        """float32 weights. Raises ArtifactError when the parts are not what the method stores."""
        ...


METHODS = {
    "gptq": "golf.quant.gptq:GPTQ",
    "nearest": "golf.quant.nearest:RoundNearest",
    "keep": "golf.quant.nearest:Keep",
    "waterfill": "golf.quant.waterfill:Waterfill",
    "trellis": "golf.quant.trellis:Trellis",
}


def method(name: str) -> type[Method]:
    """The class behind a name from a file, imported on first use. Raises ArtifactError for an unknown one."""
    if name not in METHODS:
        raise ArtifactError(f"method {name!r} is none of {', '.join(METHODS)}; read the file with a newer golf")
    module, _, attribute = METHODS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Training text for the Hessians: `sequences` of the training length over all ranks, `rows` of them at once."""

    sequences: int = 64
    rows: int = 8

    def __post_init__(self) -> None:
        if self.sequences < 1 or self.rows < 1:
            raise SpecError(f"calibration needs sequences={self.sequences} and rows={self.rows} of at least 1")

    def batches(self, world: int) -> int:
        """Batches of `rows` that each of `world` ranks reads; together at least `sequences`."""
        return -(-self.sequences // (self.rows * world))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A method for each role. Tensors with fewer than `small` elements are stored as CONTROL ones are: their
    scales and their share of the header would outweigh what a grid saves.

    A plan collects what its methods need to know, and fits: `collect` and `fit`, as QuantSpec spells them.
    """

    matrix: Method
    head: Method
    embed: Method
    control: Method
    calibration: Calibration
    small: int

    def __post_init__(self) -> None:
        if self.small < 0:
            raise SpecError(f"small={self.small} elements cannot be negative; 0 puts every matrix on a grid")

    def method(self, role: Role, elements: int) -> Method:
        by_role = {
            Role.MATRIX: self.matrix,
            Role.HEAD: self.head,
            Role.EMBED: self.embed,
            Role.CONTROL: self.control,
        }
        return self.control if elements < self.small else by_role[role]

    def rehearse(
        self, model: nn.Module, batches: Callable[[], Iterable[Tensor]], cap: int | None, train: Any, host: Host
    ) -> dict[str, Switch]:
        """The switch of late QAT, if a stage of `train` has it. A plan may aim at the `cap` in bytes: each call of
        `batches` reads this rank's share of the calibration text anew, `train` says when the switch is on and how long
        training may take."""
        for stage in train.stages:
            if LATE_QAT in stage.switches:
                return {LATE_QAT: stage.rehearsal(self, model)}
        return {}

    def fake_quantizer(self, model: nn.Module) -> Switch:
        """On, every hooked layer computes with the weight that export would leave; off, with its own."""
        return fake_quantizer(model, self)


@dataclass(frozen=True, kw_only=True)
class QuantSpec(Plan):
    """Scales from the weights, codes by Hessians: GPTQ where a tensor meets inputs as a matrix."""

    matrix: Method = field(default_factory=GPTQ)
    head: Method = field(default_factory=lambda: GPTQ(bits=8, k=20.0))
    embed: Method = field(default_factory=RoundNearest)
    control: Method = field(default_factory=Keep)
    calibration: Calibration = field(default_factory=Calibration)
    small: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.control.needs_hessian:
            raise SpecError("control tensors meet no inputs as a matrix; use Keep or RoundNearest for them")

    def collect(self, model: nn.Module, batches: Iterable[Tensor], *, host: Host) -> Hessians:
        """What `fit` needs to know of every tensor, from batches of ids [B, T] of calibration text."""
        return hessian.collect(model, batches, host=host)

    def fit(
        self, weights: Mapping[str, Tensor], roles: Mapping[str, Role], hessians: Mapping[str, Tensor], **bounds: Any
    ) -> Fitted:
        """Quantize under a cap: `golf.quant.fit.fit`."""
        from golf.quant import fit  # it builds on this module

        return fit.fit(weights, roles, hessians, self, **bounds)


def quantize(
    weights: Mapping[str, Tensor],
    roles: Mapping[str, Role],
    hessians: Mapping[str, Tensor],
    spec: Plan,
    multiplier: float = 1.0,
) -> dict[str, QTensor]:
    """Every tensor by the method of its role, in the order of `weights`; the multiplier widens every grid's step.

    Raises SpecError when weights and roles name different tensors, DivergedError for weights float16 cannot
    bound, HessianError naming the tensor whose Hessian is missing or unusable.
    """
    if weights.keys() != roles.keys():
        odd = sorted(weights.keys() ^ roles.keys())
        raise SpecError(f"{len(odd)} names are not both weights and roles ({odd[0]} first); give each weight one role")
    groups: dict[Method, dict[str, Tensor]] = {}
    for name, W in weights.items():
        if W.numel() and not W.detach().abs().max() <= FP16.max:
            raise DivergedError(f"{name} holds a weight that is not finite or above {FP16.max:,.0f}; retrain it")
        groups.setdefault(spec.method(roles[name], W.numel()), {})[name] = W.detach().float()
    found = {}
    for chosen, members in groups.items():
        found |= chosen.quantize(members, hessians, multiplier)
    return {name: replace(found[name], role=roles[name].value) for name in weights}


def dequantize(qtensors: Mapping[str, QTensor]) -> dict[str, Tensor]:
    """float32 weights on the CPU. Raises ArtifactError for an unknown method or parts that do not fit it."""
    return {name: method(qtensor.method).dequantize(qtensor) for name, qtensor in qtensors.items()}


def fake_quantizer(model: nn.Module, spec: Plan) -> Switch:
    """A switch for late QAT: on, every hooked layer computes with the weight that export would leave; off, with its
    own. The hooks are pure functions of the weight, so a compiled graph takes them in when it is traced anew."""
    roles = model.roles()

    def switch(on: bool) -> None:
        for name, layer in named_hooks(model):
            layer.fake = spec.method(roles[name], layer.weight.numel()).as_exported if on else None

    return switch
