"""Reading on with a U-Net. Kept apart: training and scoring by windows do not need it.

Keys are kept before rotation, since the rotary base follows the length of the whole. The other state is the last
token (bigrams) and its normed embedding (smear gate); skips and the first residual belong to one token each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from golf.arch.cache import Cache, Reading
from golf.arch.layers import tail_of

if TYPE_CHECKING:  # it imports this module, when it reads on
    from golf.arch.unet import UNet


def open_cache(model: UNet, rows: int, window: int | None) -> Cache:
    """Nothing read yet. Blocks keep keys before rotation, those of the last `window` tokens or all."""
    return Cache(rows, [window] * model.spec.layers, raw=True)


def read_on(model: UNet, ids_BT: Tensor, cache: Cache, tail: int | None) -> Tensor:
    """The normed state [B, tail or T, C] that meets the head. Raises DataError, ValueError for a tail not in 1..T.

    Where the base changes with the new length, what earlier blocks made of the old tokens changes too: nothing
    less than reading all of them again gives what a forward over the whole gives.
    """
    cache.check(ids_BT)
    spec, time, window = model.spec, ids_BT.shape[1], cache.spans[0]
    tail = tail_of(tail, time)
    before, whole_BS = cache.notes.get("ids"), ids_BT
    if before is not None:
        whole_BS = torch.cat([before, ids_BT], dim=1)
    if window is None and cache.seen and whole_BS.shape[1] > spec.rope_length:
        fresh = open_cache(model, cache.rows, None)
        state_BTC = read_on(model, whole_BS, fresh, tail)
        cache.seen, cache.blocks, cache.notes = fresh.seen, fresh.blocks, fresh.notes
        return state_BTC

    # One token more than is read, where there is one: bigram and smear gate look back by one.
    ids_BU = whole_BS[:, -time - 1 :]
    starts_BU = model.starts(ids_BU)
    entry_BUC = model.entry(ids_BU, starts_BU)
    if cache.seen:
        entry_BUC = torch.cat([cache.notes["entry"], entry_BUC[:, 1:]], dim=1)
    x_BUC = entry_BUC if model.smear is None else model.smear(entry_BUC, starts_BU)
    keys = cache.kept + time
    turn = model.rope(keys, window or keys, ids_BT.device)
    starts_BT = starts_BU[:, -time:] if spec.documents else None
    reading = Reading(cache, time, turn=turn, starts_BT=starts_BT)
    still = tuple(table[:time, :, :0] for table in turn)
    state_BTC = model.through(ids_BT, x_BUC[:, -time:], still, reading, reading, tail)
    reading.finish(ids=whole_BS if window is None else ids_BT[:, -1:].clone(), entry=entry_BUC[:, -1:].clone())
    return state_BTC
