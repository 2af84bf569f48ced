"""Causal attention with grouped heads on torch's fused kernel, and the exclusive form (XSA)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# What `attend` does instead while a training step wants it (`golf.arch.pieces`).
chosen = None


def bias(starts_BT: Tensor | None, time: int, tail: int, like: Tensor) -> Tensor | None:
    """What to add to the scores of the last `tail` of `time` positions: 0 where a key may be seen, else -inf.

    starts_BT: true where a document begins; keys of an earlier document are then hidden. None: one document.
    like: gives device and type.
    Returns [B or 1, 1, tail, time], or None where plain causal attention says it all.
    Built once per forward for all blocks: given a bool mask, the kernel would make this anew in each.
    """
    if starts_BT is None and tail == time:
        return None
    place = torch.arange(time, device=like.device)
    seen = place <= place[time - tail :, None]
    if starts_BT is not None:
        document_BT = starts_BT.cumsum(1)
        seen = seen & (document_BT[:, None, :] == document_BT[:, time - tail :, None])
    return (
        torch.zeros(seen.shape, dtype=like.dtype, device=like.device)
        .masked_fill(~seen, -torch.inf)
        .view(-1, 1, tail, time)
    )


def within(keys: int, tail: int, span: int | None, device: torch.device) -> Tensor:
    """Bool [1, tail, keys]: whether one of the last `tail` positions sees a key, itself or one of the `span` - 1
    before it (None: all before it)."""
    place = torch.arange(keys, device=device)
    gap = place[keys - tail :, None] - place
    seen = gap >= 0 if span is None else (gap >= 0) & (gap < span)
    return seen[None]


def as_bias(seen_BTS: Tensor, like: Tensor) -> Tensor:
    """What `attend` adds to the scores, [B or 1, 1, T, S]: 0 where seen, else -inf; type and device of `like`."""
    shape = seen_BTS.shape
    return torch.zeros(shape, dtype=like.dtype, device=like.device).masked_fill(~seen_BTS, -torch.inf).unsqueeze(1)


def attend(q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k / sqrt(D)) v as [B, T, H, D]; query head h reads kv head h // (H / G).

    bias: see `bias`; None is plain causal attention with as many queries as keys. Or a function of q, k and v
        that attends in another way (`cache.Reading`).
    """
    if callable(bias):
        return bias(q_BTHD, k_BSGD, v_BSGD)
    if chosen:
        return chosen(q_BTHD, k_BSGD, v_BSGD, bias)
    q_BHTD, k_BGSD, v_BGSD = (part.transpose(1, 2) for part in (q_BTHD, k_BSGD, v_BSGD))
    group = q_BHTD.shape[1] // k_BGSD.shape[1]
    if group > 1 and bias is not None and bias.is_cuda:
        # The fused CUDA kernel that takes a bias knows no groups; copies are cheaper than the unfused one.
        k_BGSD, v_BGSD = (part.repeat_interleave(group, dim=1) for part in (k_BGSD, v_BGSD))
        group = 1
    y_BHTD = F.scaled_dot_product_attention(
        q_BHTD, k_BGSD, v_BGSD, attn_mask=bias, is_causal=bias is None, enable_gqa=group > 1
    )
    return y_BHTD.transpose(1, 2)


def exclude_self(y_BTHD: Tensor, v_BTGD: Tensor) -> Tensor:
    """XSA (arXiv 2603.09078): without each head output's part along the position's own value vector."""
    y_BTGFD = y_BTHD.unflatten(2, (v_BTGD.shape[2], -1))
    unit_BTG1D = F.normalize(v_BTGD, dim=-1, eps=1e-12).unsqueeze(3)
    along = (y_BTGFD * unit_BTG1D).sum(-1, keepdim=True)
    return (y_BTGFD - along * unit_BTG1D).flatten(2, 3)
