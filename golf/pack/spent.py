"""What each tensor takes of the streams it shares with others, in bits; for reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from golf.contracts import QTensor, Stream
from golf.pack import rans
from golf.pack.streams import TYPES, Kind, kind_of

# Symbols from which on a stream is always coded by rans.
SHORT = 1 << 16


@dataclass(frozen=True)
class Shared:
    """A stream of whole numbers as an artifact has it, and how many symbols of it are each tensor's, in order."""

    stream: Stream
    sizes: dict[str, int]


def streams(qtensors: Mapping[str, QTensor]) -> list[Shared]:
    """All that have any symbols."""
    found: dict[Kind, dict[str, np.ndarray]] = {}
    for name, qtensor in qtensors.items():
        for part, array in qtensor.parts.items():
            kind = kind_of(name, qtensor, part)
            if kind.alphabet and array.size:
                found.setdefault(kind, {})[name] = array.ravel()
    return [_shared(kind, arrays) for kind, arrays in found.items()]


def _shared(kind: Kind, arrays: Mapping[str, np.ndarray]) -> Shared:
    sizes = {name: array.size for name, array in arrays.items()}
    symbols = np.concatenate(list(arrays.values())).astype(TYPES[kind.type], copy=False)
    heights = tuple(size // kind.width for size in sizes.values()) if kind.width else ()
    return Shared(Stream(symbols, kind.alphabet, kind.width, heights), sizes)


def spent(shared: Shared) -> dict[str, float]:
    """Bits of each tensor in a stream coded by rans: those of its symbols, and its share of what comes before and
    behind them. Of a short stream, which may be coded otherwise, every symbol takes the same."""
    stream, symbols = shared.stream, shared.stream.symbols
    if symbols.size < SHORT:
        bits = 8 * len(rans.Rans().encode(stream)) / symbols.size
        return {name: bits * size for name, size in shared.sizes.items()}
    head, layout, found, rest = rans.plan(stream)
    bits_R, begin, left = np.zeros(symbols.size // layout.width), 0, 0
    for sizes, _ in found:  # a few columns of the rows that are coded side by side, or a piece of a lone column
        bits = 16 - np.log2(sizes.reshape(1, -1) if layout.width == 1 else sizes)
        bits_R[begin : begin + bits.shape[1]] += bits.sum(axis=0)
        left = (left + len(bits)) % layout.width
        begin += 0 if left else bits.shape[1]
    bits_R += (8 * len(head + rest) + 48 * layout.lanes) / len(bits_R)
    ends = np.cumsum([size // layout.width for size in shared.sizes.values()])
    return {name: float(part_R.sum()) for name, part_R in zip(shared.sizes, np.split(bits_R, ends[:-1]))}
