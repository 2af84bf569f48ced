"""Which token comes next: penalties, then temperature, then the least likely cut off, then a draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from golf.contracts import SpecError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn. The defaults draw from the model's own distribution.

    temperature: divides the logits; 0 always takes the likeliest.  top_k: only the k likeliest, 0 all of them.
    top_p: only the likeliest that together have this probability.
    repetition_penalty: divides positive logits of tokens that were there already, multiplies negative ones
        (arXiv 1909.05858).  no_repeat: no run of this many tokens comes twice, 0 allows it.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise SpecError(f"temperature={self.temperature} must be at least 0; 0 is greedy, 1 the model's own")
        if self.top_k < 0 or self.no_repeat < 0:
            raise SpecError(f"top_k={self.top_k} and no_repeat={self.no_repeat} cannot be negative; 0 is off")
        if not 0 < self.top_p <= 1:
            raise SpecError(f"top_p={self.top_p} must be above 0 and at most 1, which is off")
        if not 0 < self.repetition_penalty < float("inf"):
            raise SpecError(f"repetition_penalty={self.repetition_penalty} must be above 0; 1 is off")

    def pick(self, logits_V: Tensor, seen: Sequence[int], draw: float) -> int:
        """The next token behind those in `seen`; `draw` in 0..1 decides among what is left, by falling probability."""
        logits_V = self.penalized(logits_V.detach().cpu().double(), seen)
        if not self.temperature:
            return int(logits_V.argmax())
        chances_N, order_N = self.left(logits_V / self.temperature)
        place = torch.searchsorted(chances_N.cumsum(0), draw * chances_N.sum(), right=True)
        return int(order_N[min(int(place), len(order_N) - 1)])

    def penalized(self, logits_V: Tensor, seen: Sequence[int]) -> Tensor:
        """Logits with what the text so far forbids at -inf and what it discourages made smaller."""
        logits_V = logits_V.clone()
        if self.repetition_penalty != 1 and seen:
            known = torch.tensor(sorted(set(seen)))
            there = logits_V[known]
            by = self.repetition_penalty
            logits_V[known] = torch.where(there > 0, there / by, there * by)
        ban = banned(seen, self.no_repeat) if self.no_repeat else set()
        if len(ban) < len(logits_V):  # where every token would repeat something, repeating is all there is
            logits_V[sorted(ban)] = -torch.inf
        return logits_V

    def left(self, logits_V: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of the tokens that are not cut off, falling, and the tokens."""
        keep = min(self.top_k or len(logits_V), len(logits_V))
        top_N, order_N = logits_V.sort(descending=True, stable=True)
        chances_N = torch.softmax(top_N[:keep], 0)
        before_N = chances_N.cumsum(0) - chances_N
        count = max(1, int((before_N < self.top_p).sum()))
        return chances_N[:count], order_N[:count]


def banned(seen: Sequence[int], length: int) -> set[int]:
    """Tokens that would complete a run of `length` tokens that is in `seen` already."""
    head = tuple(seen[len(seen) - length + 1 :]) if length > 1 else ()
    if len(head) < length - 1:
        return set()
    runs = range(len(seen) - length + 1)
    return {seen[at + length - 1] for at in runs if tuple(seen[at : at + length - 1]) == head}
