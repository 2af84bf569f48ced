"""What each tensor takes of the streams it shares with others, in bits; for reports."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from golf.contracts import QTensor, Stream
from golf.pack import rans
from golf.pack.streams import TYPES, Kind, kind_of

# Symbols from which on a stream is always coded by rans.
SHORT = 1 << 16


def streams(qtensors: Mapping[str, QTensor]) -> list[tuple[Kind, dict[str, np.ndarray]]]:
    """The whole numbers that share a stream in an artifact, by tensor, in order; streams of nothing are left out."""
    found: dict[Kind, dict[str, list[np.ndarray]]] = {}
    for name, qtensor in qtensors.items():
        for part, array in qtensor.parts.items():
            kind = kind_of(name, qtensor, part)
            if kind.alphabet and array.size:
                found.setdefault(kind, {}).setdefault(name, []).append(array.ravel())
    return [(kind, {name: np.concatenate(parts) for name, parts in named.items()}) for kind, named in found.items()]


def spent(kind: Kind, arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Bits of each tensor in a stream coded by rans: those of its symbols, and its share of what comes before and
    behind them. Of a short stream, which may be coded otherwise, every symbol takes the same."""
    symbols = np.concatenate(list(arrays.values())).astype(TYPES[kind.type], copy=False)
    heights = tuple(array.size // kind.width for array in arrays.values()) if kind.width else ()
    stream = Stream(symbols, kind.alphabet, kind.width, heights)
    if symbols.size < SHORT:
        bits = 8 * len(rans.Rans().encode(stream)) / symbols.size
        return {name: bits * array.size for name, array in arrays.items()}
    head, layout, found, rest = rans.plan(stream)
    bits_R, begin, left = np.zeros(symbols.size // layout.width), 0, 0
    for sizes, _ in found:  # a few columns of the rows that are coded side by side, or a piece of a lone column
        bits = 16 - np.log2(sizes.reshape(1, -1) if layout.width == 1 else sizes)
        bits_R[begin : begin + bits.shape[1]] += bits.sum(axis=0)
        left = (left + len(bits)) % layout.width
        begin += 0 if left else bits.shape[1]
    bits_R += (8 * len(head + rest) + 48 * layout.lanes) / len(bits_R)
    ends = np.cumsum([array.size // layout.width for array in arrays.values()])
    return {name: float(part_R.sum()) for name, part_R in zip(arrays, np.split(bits_R, ends[:-1]))}
