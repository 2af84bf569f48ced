"""What a training run is told: frozen values, checked where they are made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import nn

from golf.contracts import SpecError


def _check(fine: bool, what: str, value: object, bound: str) -> None:
    if not fine:
        raise SpecError(f"{what}={value} is out of range; give {bound}")


@dataclass(frozen=True, kw_only=True)
class Muon:
    """Orthogonalized momentum for hidden matrices. Defaults are those of the 11-layer, 512-wide records.

    momentum_start, momentum_steps: momentum rises linearly from the one to `momentum` over the other.
    row_normalize: scale every row of the momentum to length 1 first (MuonEq-R).
    coefficients: of the Newton-Schulz polynomial; "polar" is Polar Express (arXiv 2505.16932).
    """

    lr: float = 0.025
    momentum: float = 0.99
    momentum_start: float = 0.92
    momentum_steps: int = 1500
    weight_decay: float = 0.04
    row_normalize: bool = False
    coefficients: Literal["classic", "polar"] = "polar"
    iterations: int = 5

    def __post_init__(self) -> None:
        _check(self.lr >= 0, "Muon.lr", self.lr, "0 or more")
        _check(0 <= self.momentum < 1, "Muon.momentum", self.momentum, "a share in [0, 1)")
        _check(0 <= self.momentum_start < 1, "Muon.momentum_start", self.momentum_start, "a share in [0, 1)")
        _check(self.momentum_steps >= 0, "Muon.momentum_steps", self.momentum_steps, "0 steps or more")
        _check(self.weight_decay >= 0, "Muon.weight_decay", self.weight_decay, "0 or more")
        _check(
            self.coefficients in ("classic", "polar"),
            "Muon.coefficients",
            self.coefficients,
            "classic or polar",
        )
        _check(self.iterations >= 1, "Muon.iterations", self.iterations, "1 or more")


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay, for everything that is not a hidden matrix."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self.lr >= 0, "AdamW.lr", self.lr, "0 or more")
        _check(all(0 <= beta < 1 for beta in self.betas), "AdamW.betas", self.betas, "two shares in [0, 1)")
        _check(self.eps > 0, "AdamW.eps", self.eps, "a number above 0")
        _check(self.weight_decay >= 0, "AdamW.weight_decay", self.weight_decay, "0 or more")


class Schedule(Protocol):
    """How the learning rate moves, where the plain rise and fall of TrainSpec will not do."""

    def scale(self, step: int, progress: float) -> float:
        """Share of the peak after `step` finished steps, at a share `progress` of the budget."""
        ...

    def tiny(self) -> Schedule:
        """The same course for a run of a few steps."""
        ...


class Attention(Protocol):
    """Another way to compute attention while training, for machines that torch's fused kernel does not suit."""

    def on(self, device: torch.device) -> AbstractContextManager[None]:
        """Models that run inside attend in this way, if it is one for this kind of device."""
        ...


class Rehearses(Protocol):
    """A plan of quantization that can round while the model trains."""

    def fake_quantizer(self, model: nn.Module) -> Callable[[bool], None]:
        """A switch between the model's weights and what export would leave of them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of training from `begin`, a share of the budget, to where the next one begins.

    It names everything that is on while it lasts; whatever it does not name is off.
    on: further switches by name, those of the model family among them (a loop, say).
    seq_len: context length, in the place of TrainSpec's; tokens per step and per forward pass stay the same.
    """

    begin: float
    fake_quant: bool = False
    on: tuple[str, ...] = ()
    seq_len: int | None = None

    def __post_init__(self) -> None:
        _check(0 <= self.begin < 1, "Stage.begin", self.begin, "a share of the budget in [0, 1)")
        _check(self.seq_len is None or self.seq_len >= 1, "Stage.seq_len", self.seq_len, "1 token or more")

    @property
    def switches(self) -> frozenset[str]:
        named = {"fake_quant": self.fake_quant, context(self.seq_len): self.seq_len is not None}
        return frozenset(self.on) | {name for name, on in named.items() if on}

    def rehearsal(self, plan: Rehearses, model: nn.Module) -> Callable[[bool], None]:
        """The switch of late QAT on the plan's own grids. It is asked of a stage, so that one-file scripts of recipes
        without stages leave out all of it."""
        return plan.fake_quantizer(model)


def context(seq_len: int | None) -> str:
    """The name under which a context length is switched on."""
    return f"seq_len={seq_len}"


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How to train, whatever the model is.

    seconds: wall clock of the loop, time reserved for calibration included; a hard stop.
    steps: with it the schedule follows the step count, and the same seed gives the same weights.
    batch_tokens: per optimizer step, over all ranks.  rows: sequences in one forward pass of one rank.
    ema: highest decay of the averaged weights; early on it is lower, so that no start-up weight lingers.
    matrix: hidden matrices under Muon or AdamW; the other roles are AdamW's.
    warmup, warmdown: shares of the budget in which the learning rate rises / falls linearly.
    min_lr: floor of the fall, as a share of the peak.  grad_clip: largest global gradient norm; 0 for none.
    schedule: another course of the learning rate, in the place of these three (`golf.train.curves`).
    explode: the run stops when the smoothed loss exceeds this many times the first loss.
    attention: another way to compute it, such as `golf.arch.pieces`; None: torch's fused kernel.
    compile: "auto" compiles where it pays and says what it chose.
    warmup_steps: untimed visits to every graph of the schedule, undone before the clock starts.
    """

    seconds: float | None = None
    steps: int | None = None
    batch_tokens: int = 786_432
    seq_len: int = 2048
    rows: int = 48
    ema: float = 0.997
    stages: tuple[Stage, ...] = ()
    matrix: Muon | AdamW = Muon()
    embed: AdamW = AdamW(lr=0.035, weight_decay=0.04)
    head: AdamW = AdamW(lr=0.035, weight_decay=0.04)
    control: AdamW = AdamW(lr=0.025)
    warmup: float = 0.0
    warmdown: float = 0.6
    min_lr: float = 0.0
    schedule: Schedule | None = None
    grad_clip: float = 0.3
    explode: float = 2.0
    attention: Attention | None = None
    compile: Literal["auto", "on", "off"] = "auto"
    warmup_steps: int = 2
    checkpoint_seconds: float = 60.0
    log_every: int = 10

    def __post_init__(self) -> None:
        if self.seconds is None and self.steps is None:
            raise SpecError("TrainSpec has neither seconds nor steps, so it would never end; give one of them")
        _check(self.seconds is None or self.seconds > 0, "TrainSpec.seconds", self.seconds, "more than 0 s")
        _check(self.steps is None or self.steps >= 1, "TrainSpec.steps", self.steps, "1 step or more")
        _check(self.seq_len >= 1, "TrainSpec.seq_len", self.seq_len, "1 token or more")
        _check(self.rows >= 1, "TrainSpec.rows", self.rows, "1 row or more")
        self.accumulation(world=1)
        _check(0 <= self.ema < 1, "TrainSpec.ema", self.ema, "a decay in [0, 1); 0 keeps the last weights")
        for length in self.lengths:
            _check(
                self.longest % length == 0 == self.rows * self.seq_len % self.longest,
                "Stage.seq_len",
                length,
                f"lengths that divide the longest ({self.longest}), which divides rows x seq_len "
                f"({self.rows * self.seq_len})",
            )
        begins = [stage.begin for stage in self.stages]
        if begins != sorted(set(begins)):
            raise SpecError(f"TrainSpec.stages begin at {begins}; give them in rising order, each begin once")
        _check(0 <= self.warmup < 1, "TrainSpec.warmup", self.warmup, "a share in [0, 1)")
        _check(0 <= self.warmdown <= 1, "TrainSpec.warmdown", self.warmdown, "a share in [0, 1]")
        _check(self.warmup + self.warmdown <= 1, "warmup + warmdown", self.warmup + self.warmdown, "at most 1")
        _check(0 <= self.min_lr <= 1, "TrainSpec.min_lr", self.min_lr, "a share of the peak in [0, 1]")
        linear = {name: getattr(self, name) for name in ("warmup", "warmdown", "min_lr")}
        if self.schedule and linear != {name: getattr(TrainSpec, name) for name in linear}:
            raise SpecError(f"TrainSpec has a schedule beside {linear}; set what it should do in train.schedule")
        _check(self.grad_clip >= 0, "TrainSpec.grad_clip", self.grad_clip, "0 (off) or more")
        _check(self.explode > 1, "TrainSpec.explode", self.explode, "a factor above 1")
        _check(self.compile in ("auto", "on", "off"), "TrainSpec.compile", self.compile, "auto, on or off")
        _check(self.warmup_steps >= 0, "TrainSpec.warmup_steps", self.warmup_steps, "0 steps or more")
        if self.stages and not self.warmup_steps:
            raise SpecError("TrainSpec.warmup_steps=0 leaves the stages unvisited before the clock; give 1 or more")
        _check(
            self.checkpoint_seconds >= 0,
            "TrainSpec.checkpoint_seconds",
            self.checkpoint_seconds,
            "0 s or more",
        )
        _check(self.log_every >= 1, "TrainSpec.log_every", self.log_every, "1 step or more")

    @property
    def lengths(self) -> set[int]:
        """Every context length of the schedule, in tokens."""
        return {self.seq_len} | {stage.seq_len for stage in self.stages if stage.seq_len is not None}

    @property
    def longest(self) -> int:
        """What the data come in: rows of this many tokens, cut into shorter ones where a stage wants them."""
        return max(self.lengths)

    def accumulation(self, world: int) -> int:
        """Forward passes of each rank in one optimizer step. SpecError when the batch does not split."""
        chunk = self.rows * self.seq_len * world
        if self.batch_tokens < chunk or self.batch_tokens % chunk:
            nearest = max(1, round(self.batch_tokens / chunk)) * chunk
            raise SpecError(
                f"batch_tokens={self.batch_tokens} does not split into rows={self.rows} x "
                f"seq_len={self.seq_len} x {world} ranks; nearest that does: {nearest}"
            )
        return self.batch_tokens // chunk
