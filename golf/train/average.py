"""The averaged weights: what is evaluated, calibrated and exported."""

from __future__ import annotations

import torch
from torch import Tensor

from golf.train.schedule import ema_decay


class Average:
    """Exponential moving average of floating tensors, in float32, all of them in one pass.

    decay: the highest it gets; `schedule.ema_decay` lowers it early in the run.
    """

    def __init__(self, live: list[Tensor], decay: float) -> None:
        self._live, self._decay = live, decay
        self.shadow = [tensor.detach().to(torch.float32, copy=True) for tensor in live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the live tensors after `step` earlier updates."""
        torch._foreach_lerp_(self.shadow, [tensor.float() for tensor in self._live], 1.0 - ema_decay(step, self._decay))
