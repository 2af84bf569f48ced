"""Attention for training on a CPU: plain matrix products, a piece of the queries at a time.

torch's fused kernel saves memory by working in small tiles and by making the weights of attention again on the way
back. A CPU without wide vector units spends more on that than on the products. Here the heads that share keys lie in
the same matrix, a piece of the queries leaves out the keys behind it, and the weights are kept. It pays where heads
share keys and contexts are long: with a key for each head and 256 tokens the fused kernel is as fast. And it pays on
one thread alone: threads that sleep between so many small products take several times as long as the fused kernel.

N counts sequences times groups of heads, Q queries times heads of a group, S keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from golf.arch import attention
from golf.arch.attention import as_bias, within
from golf.arch.checks import at_least


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """rows: of the matrix of a piece, a query of all heads that share keys taking as many of them as there are heads.

    Memory: somewhat more than T * T / 2 floats for each head of each sequence in each layer.
    """

    rows: int = 64

    def __post_init__(self) -> None:
        at_least(1, "Pieces.rows", self.rows)

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Inside, `attention.attend` does this on one thread of a CPU. Meets `golf.train.spec.Attention`."""
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        attention.chosen = self.attend if alone else None
        try:
            yield
        finally:
            attention.chosen = None

    def attend(self, q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, bias: Tensor | None) -> Tensor:
        """`attention.attend`. A bias must hide the keys behind a query, and the queries are the last T places."""
        return forth(q_BTHD, k_BSGD, v_BSGD, bias, self.rows)[0]


# One node of a compiled graph each way: spelled out in it, the pieces of all layers would take minutes to compile.
@torch.library.custom_op("golf::attend_in_pieces", mutates_args=())
def forth(q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, bias: Tensor | None, rows: int) -> list[Tensor]:
    """What attention gives, [B, T, H, D], and the weights [N, Q, S] of every piece."""
    batch, time, heads, width = q_BTHD.shape
    keys, groups = k_BSGD.shape[1:3]
    q_NQD, k_NSD, v_NSD = (_stack(part, groups) for part in (q_BTHD * width**-0.5, k_BSGD, v_BSGD))
    y_NQD, weights = torch.empty_like(q_NQD), []
    for begin, end, seen in pieces(time, keys, rows * groups // heads):
        own = slice(begin * heads // groups, end * heads // groups)
        part_NQS = q_NQD[:, own] @ k_NSD[:, :seen].mT
        scores_BGTRS = part_NQS.view(batch, groups, end - begin, -1, seen)
        if bias is None:  # all keys before the piece are seen
            last = within(end - begin, end - begin, None, q_BTHD.device)
            scores_BGTRS[..., begin - end :] += as_bias(last, q_BTHD)[:, :, :, None]
        else:
            scores_BGTRS += bias[:, :, begin:end, None, :seen]
        torch.softmax(part_NQS, -1, out=part_NQS)
        torch.bmm(part_NQS, v_NSD[:, :seen], out=y_NQD[:, own])
        weights.append(part_NQS)
    return [_unstack(y_NQD, q_BTHD, groups), *weights]


@torch.library.custom_op("golf::attend_in_pieces_back", mutates_args=())
def back(
    grad_BTHD: Tensor, q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, y_BTHD: Tensor, weights: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v. Along the scores it is weight x (its own gradient - their mean)."""
    groups, width = k_BSGD.shape[2:]
    stacks = (q_BTHD * width**-0.5, k_BSGD, v_BSGD, grad_BTHD, y_BTHD)
    q_NQD, k_NSD, v_NSD, grad_NQD, y_NQD = (_stack(part, groups) for part in stacks)
    mean_NQ1 = (grad_NQD * y_NQD).sum(-1, keepdim=True)
    to_q_NQD = torch.empty_like(q_NQD)
    to_k_NDS, to_v_NDS = (torch.zeros_like(part.mT, memory_format=torch.contiguous_format) for part in (k_NSD, v_NSD))
    row = 0
    for part_NQS in weights:
        own, seen = slice(row, row + part_NQS.shape[1]), part_NQS.shape[2]
        to_v_NDS[..., :seen].baddbmm_(grad_NQD[:, own].mT, part_NQS)
        to_scores_NQS = grad_NQD[:, own] @ v_NSD[:, :seen].mT
        to_scores_NQS.sub_(mean_NQ1[:, own]).mul_(part_NQS)
        torch.bmm(to_scores_NQS, k_NSD[:, :seen], out=to_q_NQD[:, own])
        to_k_NDS[..., :seen].baddbmm_(q_NQD[:, own].mT, to_scores_NQS)
        row = own.stop
    to_q_NQD *= width**-0.5
    return (
        _unstack(to_q_NQD, q_BTHD, groups),
        _unstack(to_k_NDS.mT, k_BSGD, groups),
        _unstack(to_v_NDS.mT, v_BSGD, groups),
    )


def pieces(time: int, keys: int, size: int) -> list[tuple[int, int, int]]:
    """(first query, end of the queries, number of keys before that end) of pieces of up to `size` queries."""
    size = max(1, size)
    ends = ((begin, min(begin + size, time)) for begin in range(0, time, size))
    return [(begin, end, keys - time + end) for begin, end in ends]


def _stack(x_BTHD: Tensor, groups: int) -> Tensor:
    """The heads of a group under each other: [N, Q, D]."""
    return x_BTHD.unflatten(2, (groups, -1)).transpose(1, 2).reshape(len(x_BTHD) * groups, -1, x_BTHD.shape[3])


def _unstack(x_NQD: Tensor, like_BTHD: Tensor, groups: int) -> Tensor:
    batch, time, _, width = like_BTHD.shape
    return x_NQD.reshape(batch, groups, time, -1, width).transpose(1, 2).reshape(like_BTHD.shape).contiguous()


@forth.register_fake
def _(q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, bias: Tensor | None, rows: int) -> list[Tensor]:
    (batch, time, heads, _), (keys, groups) = q_BTHD.shape, k_BSGD.shape[1:3]
    sizes = [(end - begin, seen) for begin, end, seen in pieces(time, keys, rows * groups // heads)]
    weights = [q_BTHD.new_empty(batch * groups, size * heads // groups, seen) for size, seen in sizes]
    return [q_BTHD.new_empty(q_BTHD.shape), *weights]


@back.register_fake
def _(grad_BTHD: Tensor, q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, y_BTHD: Tensor, weights: list[Tensor]) -> Any:
    return tuple(part.new_empty(part.shape) for part in (q_BTHD, k_BSGD, v_BSGD))


def _keep(**call: Any) -> None:  # torch names what it passes, and a bundle shortens names of parameters
    call["ctx"].save_for_backward(*call["inputs"][:3], *call["output"])


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Tensor | None, ...]:
    q_BTHD, k_BSGD, v_BSGD, y_BTHD, *weights = ctx.saved_tensors
    return *back(grads[0], q_BTHD, k_BSGD, v_BSGD, y_BTHD, weights), None, None


forth.register_autograd(_backward, setup_context=_keep)
