"""Text that is tokens already, in a NumPy file: for models whose tokenizer is not there, or none that golf reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from golf.contracts import DataError


def sample(path: Path, *, vocab: int, count: int, rows: int, seq_len: int, seed: int) -> Iterator[Tensor]:
    """`count` windows of the ids in an .npy file (all there are, if fewer), in random order: int64 [at most rows,
    seq_len] a batch. Rows of an array of more axes are read one behind the other.

    Raises DataError for a file that holds anything but integers, too few of them, or one outside 0..vocab-1.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as token ids ({error}); write them with numpy.save") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iu":
        raise DataError(f"{path} holds {getattr(found, 'dtype', 'several arrays')}; token ids are one integer array")
    ids = found.reshape(-1)
    windows = len(ids) // seq_len
    if not windows:
        raise DataError(f"{path} holds {len(ids):,} token ids, a window takes {seq_len:,}; give more")
    order = np.random.default_rng(seed).permutation(windows)[:count]
    for first in range(0, len(order), rows):
        batch = np.stack([ids[at * seq_len : (at + 1) * seq_len] for at in order[first : first + rows]])
        low, high = int(batch.min()), int(batch.max())
        if low < 0 or high >= vocab:
            wrong = low if low < 0 else high
            raise DataError(f"{path} holds token id {wrong}, outside 0..{vocab - 1}; use the model's own tokenizer")
        yield torch.from_numpy(batch.astype(np.int64))
