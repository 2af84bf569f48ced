"""Attention that leaves out what is hidden anyway, for reading text of many short documents on a CPU.

torch's fused kernel computes the scores of hidden keys too, and then adds minus infinity. In text where a document is
an eighth as long as the window, these are most of the work of attention, which is half the work of a small model.
Here a piece of the queries meets the keys from the first one that any of them sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from golf.arch import attention

# Queries of a piece: fewer meet fewer hidden keys, and make more calls.
PIECE = 128


@contextmanager
def on(device: torch.device) -> Iterator[None]:
    """Inside, `attention.attend` does this on a CPU."""
    attention.chosen = attend if device.type == "cpu" else None
    try:
        yield
    finally:
        attention.chosen = None


def attend(q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, bias: Tensor | None) -> Tensor:
    """`attention.attend`. A bias must hide the keys behind a query, and the queries are the last T places."""
    q_BHTD, k_BGSD, v_BGSD = (part.transpose(1, 2) for part in (q_BTHD, k_BSGD, v_BSGD))
    grouped = q_BHTD.shape[1] > k_BGSD.shape[1]
    if bias is None:
        y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BGSD, v_BGSD, is_causal=True, enable_gqa=grouped)
        return y_BHTD.transpose(1, 2)
    pieces = []
    for begin, end, first, last in spans(bias):
        keys = slice(first, last)
        y_BHTD = F.scaled_dot_product_attention(
            q_BHTD[:, :, begin:end],
            k_BGSD[:, :, keys],
            v_BGSD[:, :, keys],
            attn_mask=bias[:, :, begin:end, keys],
            enable_gqa=grouped,
        )
        pieces.append(y_BHTD.transpose(1, 2))
    return torch.cat(pieces, 1)


def spans(bias: Tensor, piece: int = PIECE) -> Iterator[tuple[int, int, int, int]]:
    """First query of a piece and the end of its queries, first of its keys and their end."""
    time, keys = bias.shape[2:]
    first_T = (bias[:, 0].numpy() > -torch.inf).argmax(-1).min(0)
    for begin in range(0, time, piece):
        end = min(begin + piece, time)
        yield begin, end, int(first_T[begin:end].min()), keys - time + end
