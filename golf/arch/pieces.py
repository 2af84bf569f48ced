"""Attention for training on a CPU: plain matrix products, a piece of the queries at a time.

torch's fused kernel saves memory by working in small tiles and by making the weights of attention again on the way
back. A CPU without wide vector units spends more on that than on the products. Here the heads that share keys lie in
the same matrix, a piece of the queries leaves out the keys behind it, and the weights are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from golf.arch import attention
from golf.arch.attention import as_bias, within
from golf.arch.checks import at_least


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """count: pieces of a sequence. The share of the products that masks throw away is 1 / (count + 1).

    Memory: T * T * (1 + 1 / count) / 2 floats for each head of each sequence in each layer.
    """

    count: int = 8

    def __post_init__(self) -> None:
        at_least(1, "Pieces.count", self.count)

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Inside, `attention.attend` does this if `device` is a CPU. Meets `golf.train.spec.Attention`."""
        attention.chosen = self.attend if device.type == "cpu" else None
        try:
            yield
        finally:
            attention.chosen = None

    def attend(self, q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, bias: Tensor | None) -> Tensor:
        """`attention.attend`, where a bias hides at least the keys behind a query; the queries are the last T places.

        N counts sequences times groups, Q the queries of a piece times the heads of a group.
        """
        (batch, time, _, width), (keys, groups) = q_BTHD.shape, k_BSGD.shape[1:3]
        if bias is None:
            bias = as_bias(within(keys, time, None, q_BTHD.device), q_BTHD)
        q_NTRD = (q_BTHD * width**-0.5).unflatten(2, (groups, -1)).transpose(1, 2).flatten(0, 1)
        k_NDS, v_NSD = k_BSGD.permute(0, 2, 3, 1).flatten(0, 1), v_BSGD.transpose(1, 2).flatten(0, 1)
        size, parts = -(-time // self.count), []
        for begin in range(0, time, size):
            end = min(begin + size, time)
            seen = keys - time + end
            scores_NQS = q_NTRD[:, begin:end].flatten(1, 2) @ k_NDS[..., :seen]
            scores_BGQRS = scores_NQS.view(batch, groups, end - begin, -1, seen) + bias[:, :, begin:end, None, :seen]
            parts.append(scores_BGQRS.softmax(-1).view_as(scores_NQS) @ v_NSD[:, :seen])
        y_BGTRD = torch.cat(parts, dim=1).view(batch, groups, time, -1, width)
        return y_BGTRD.transpose(1, 2).flatten(2, 3)
