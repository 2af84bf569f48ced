"""A codec that remembers: a search for the size of a whole packs most of its streams many times over."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from golf.contracts import Codec, Stream


@dataclass(frozen=True)
class Remembered:
    """`codec`, asked once for each stream; what it said is kept."""

    codec: Codec
    _known: dict[tuple, bytes] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.codec.name

    def encode(self, stream: Stream) -> bytes:
        symbols = np.ascontiguousarray(stream.symbols)
        key = blake2b(symbols.data).digest(), symbols.dtype, stream.alphabet, stream.width, stream.heights
        if key not in self._known:
            self._known[key] = self.codec.encode(stream)
        return self._known[key]

    def decode(self, data: bytes, count: int, dtype: np.dtype, alphabet: int, width: int) -> np.ndarray:
        return self.codec.decode(data, count, dtype, alphabet, width)
