"""A codec that remembers: a search for the size of a whole packs most of its streams many times over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from golf.contracts import Codec, Stream

Each = Callable[[Callable[[Stream], bytes], Iterable[Stream]], list[bytes]]


@dataclass(frozen=True)
class Remembered:
    """`codec`, asked once for each stream; what it said is kept."""

    codec: Codec
    _known: dict[tuple, bytes] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.codec.name

    def encode(self, stream: Stream) -> bytes:
        key = _key(stream)
        if key not in self._known:
            self._known[key] = self.codec.encode(stream)
        return self._known[key]

    def prepare(self, streams: Sequence[Stream], each: Each) -> None:
        """Encode what has not been asked yet, all of it by `each`, which may do so side by side: the longest first."""
        new = {_key(stream): stream for stream in sorted(streams, key=lambda stream: -stream.symbols.size)}
        new = {key: stream for key, stream in new.items() if key not in self._known}
        self._known.update(zip(new, each(self.codec.encode, new.values())))

    def decode(self, data: bytes, count: int, dtype: np.dtype, alphabet: int, width: int) -> np.ndarray:
        return self.codec.decode(data, count, dtype, alphabet, width)


def _key(stream: Stream) -> tuple:
    symbols = np.ascontiguousarray(stream.symbols)
    return blake2b(symbols.data).digest(), symbols.dtype, stream.alphabet, stream.width, stream.heights
