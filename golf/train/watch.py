"""Reading the figures of finished steps: the loss for the log, and the stop when it runs away."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from golf.contracts import DivergedError
from golf.train.banks import Bank
from golf.train.spec import TrainSpec

# The loss is smoothed over about this many steps before it counts as exploded: a few early spikes are usual.
SMOOTHED = 10
STATE = ("loss", "grad_norm", "smooth", "first", "supervised")


class Watch:
    """Collects what steps return and looks at it when somebody is willing to wait for the device."""

    def __init__(self, spec: TrainSpec, banks: list[Bank]) -> None:
        self._spec, self._banks = spec, banks
        self._pending: list[tuple[int, float, Tensor]] = []
        self.loss, self.grad_norm, self.smooth, self.first = math.nan, math.nan, math.nan, math.nan
        self.supervised = 0  # targets so far, over all ranks

    def add(self, step: int, lr_scale: float, stats: Tensor) -> None:
        """Note a step's figures without reading them."""
        self._pending.append((step, lr_scale, stats))

    def read(self) -> None:
        """Read what is pending. Raises DivergedError at the first step whose loss or gradients ran away."""
        if not self._pending:
            return
        rows = torch.stack([stats for *_, stats in self._pending]).tolist()
        for (step, lr_scale, _), (share, loss, *squares) in zip(self._pending, rows):
            self._look(step, lr_scale, loss, squares)
            self.supervised += round(share * self._spec.batch_tokens)
        self._pending.clear()

    def _look(self, step: int, lr_scale: float, loss: float, squares: list[float]) -> None:
        if math.isnan(self.first):
            self.first = self.smooth = loss
        self.loss, self.grad_norm = loss, math.sqrt(sum(squares)) if math.isfinite(sum(squares)) else math.inf
        self.smooth += (loss - self.smooth) / SMOOTHED
        exploded = self.smooth > self._spec.explode * self.first
        if math.isfinite(loss) and math.isfinite(self.grad_norm) and not exploded:
            return
        broken = [index for index, square in enumerate(squares) if not math.isfinite(square)]
        worst = broken[0] if broken else max(range(len(squares)), key=squares.__getitem__)
        bank = self._banks[worst]
        lr = getattr(self._spec, bank.role.value).lr * lr_scale
        what = f"exploded to {self.smooth:.4g}, from {self.first:.4g} at first," if exploded else f"is {loss:.4g}"
        raise DivergedError(
            f"the loss {what} at step {step} with learning rate {lr:.4g}; the worst gradients are in group "
            f"{bank.label!r} (norm {math.sqrt(squares[worst]):.4g}): lower TrainSpec.{bank.role.value}.lr"
        )

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in STATE}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Forget what is pending and take up what `state` returned."""
        self._pending.clear()
        for name in STATE:
            setattr(self, name, state[name])
