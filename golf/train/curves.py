"""Courses of the learning rate beyond a linear rise and fall: warmup-stable-decay, cosine, one behind another."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal, Self

from golf.contracts import SpecError
from golf.train.spec import Schedule


@dataclass(frozen=True, kw_only=True)
class _Curve(ABC):
    """A linear warm-up to `peak`, then a fall to `floor` times the peak.

    warmup_steps, warmup: how long it rises, as a count of steps or as a share of the budget (one of them).
    peak: share of the learning rates in TrainSpec.  floor: share of the peak that is left at the end.
    """

    warmup_steps: int = 0
    warmup: float = 0.0
    peak: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.warmup_steps < 0 or not 0 <= self.warmup < 1:
            raise SpecError(
                f"{name} warms up over {self.warmup_steps} steps or a share of {self.warmup}; give 0 steps or more, "
                "or a share in [0, 1)"
            )
        if self.warmup_steps and self.warmup:
            raise SpecError(f"{name} has warmup_steps={self.warmup_steps} and warmup={self.warmup}; give one of them")
        if self.peak <= 0 or not 0 <= self.floor <= 1:
            raise SpecError(
                f"{name} has peak={self.peak} and floor={self.floor}; give a peak above 0 and a floor in [0, 1]"
            )

    def scale(self, step: float, progress: float) -> float:
        """Share of the peak after `step` finished steps, at a share `progress` of the budget."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if progress < self.warmup:
            return self.peak * progress / self.warmup
        # As many steps as these have taken this share of the budget: exact where the budget is counted in steps.
        rise = self.warmup or (self.warmup_steps * progress / step if step else 0.0)
        return self.peak * (self.floor + (1 - self.floor) * self._left(progress, rise))

    def tiny(self) -> Self:
        return replace(self, warmup_steps=min(self.warmup_steps, 1))

    @abstractmethod
    def _left(self, progress: float, rise: float) -> float:
        """What is left of the fall, from 1 to 0; the warm-up took a share `rise` of the budget."""


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(_Curve):
    """A warm-up, a plateau up to the share `decay_from` of the budget, a fall.

    shape: of the fall. "linear", or "sqrt": 1 - sqrt(t), steep at first (arXiv 2405.18392).
    """

    decay_from: float = 0.8
    shape: Literal["linear", "sqrt"] = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.warmup <= self.decay_from < 1:
            raise SpecError(
                f"WarmupStableDecay.decay_from={self.decay_from} is out of range; give a share of the budget from "
                f"the end of the warm-up ({self.warmup}) to below 1"
            )
        if self.shape not in ("linear", "sqrt"):
            raise SpecError(f"WarmupStableDecay.shape={self.shape!r} is unknown; give linear or sqrt")

    def _left(self, progress: float, rise: float) -> float:
        fallen = min(max((progress - self.decay_from) / (1 - self.decay_from), 0.0), 1.0)
        return 1 - (fallen if self.shape == "linear" else math.sqrt(fallen))


@dataclass(frozen=True, kw_only=True)
class Cosine(_Curve):
    """A warm-up, then half a period of a cosine down to the floor (arXiv 1608.03983, without restarts)."""

    def _left(self, progress: float, rise: float) -> float:
        fallen = min(max((progress - rise) / (1 - rise), 0.0), 1.0) if rise < 1 else 1.0
        return (1 + math.cos(math.pi * fallen)) / 2


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Schedules one behind the other: (begin, schedule) pairs, begins being shares of the budget.

    Each takes the stretch up to the next one's begin for the whole of its budget.
    """

    parts: tuple[tuple[float, Schedule], ...]

    def __post_init__(self) -> None:
        begins = [begin for begin, _ in self.parts]
        if not begins or begins[0] != 0 or begins != sorted(set(begins)) or begins[-1] >= 1:
            raise SpecError(f"Chain.parts begin at {begins}; begin at 0 and rise, each below 1")

    def scale(self, step: float, progress: float) -> float:
        """Share of the peak after `step` finished steps, at a share `progress` of the budget."""
        index = max(place for place, (begin, _) in enumerate(self.parts) if begin <= progress)
        begin, schedule = self.parts[index]
        end = self.parts[index + 1][0] if index + 1 < len(self.parts) else 1.0
        steps = step * (progress - begin) / progress if progress else step
        return schedule.scale(steps, (progress - begin) / (end - begin))

    def tiny(self) -> Chain:
        return Chain(parts=tuple((begin, schedule.tiny()) for begin, schedule in self.parts))
