"""The schedule as functions of progress: a share of the budget in [0, 1], or a count of finished steps."""

from __future__ import annotations

from golf.train.spec import Muon, Stage, TrainSpec


def lr_scale(step: int, progress: float, spec: TrainSpec) -> float:
    """Share of the peak learning rate: the spec's schedule, or a linear rise, a plateau, a linear fall to `min_lr`."""
    if spec.schedule:
        return spec.schedule.scale(step, progress)
    if progress < spec.warmup:
        return progress / spec.warmup
    if progress > 1 - spec.warmdown:
        return max((1 - progress) / spec.warmdown, spec.min_lr)
    return 1.0


def momentum(step: int, spec: Muon) -> float:
    """Muon's momentum for the step after `step` finished ones."""
    share = min(step / spec.momentum_steps, 1.0) if spec.momentum_steps else 1.0
    return spec.momentum_start + share * (spec.momentum - spec.momentum_start)


def ema_decay(step: int, highest: float) -> float:
    """Decay of the average at its `step`-th update (from 0).

    Early on it looks back over about a tenth of the steps so far: with a fixed 0.997 the initial weights
    would still make up 40 % of the average after 300 steps.
    """
    return min(highest, (1 + step) / (10 + step))


def switches_at(progress: float, stages: tuple[Stage, ...]) -> frozenset[str]:
    """What is on: the switches of the last stage that has begun, none before the first."""
    begun = [stage.switches for stage in stages if stage.begin <= progress]
    return begun[-1] if begun else frozenset()


def switch_sets(stages: tuple[Stage, ...]) -> list[frozenset[str]]:
    """Every set of switches the schedule passes through, in order, each once."""
    return list(dict.fromkeys(switches_at(begin, stages) for begin in (0.0, *(stage.begin for stage in stages))))
