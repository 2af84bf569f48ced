"""LZMA from the standard library: the codec that is always there."""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from golf.contracts import ArtifactError, Stream

# No context from the byte before (lc) or from the position (lp, pb): codes have none, and each only dilutes
# the statistics. Raw, because the container knows the length and has the checksum. The dictionary is fixed
# here, not read from the file, and small: there is nothing to match far back.
FILTERS = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20, "lc": 0, "lp": 0, "pb": 0, "nice_len": 273}]


@dataclass(frozen=True, kw_only=True)
class Xz:
    """Raw LZMA2 with lc=0 lp=0 pb=0."""

    name: ClassVar[str] = "xz"

    def encode(self, stream: Stream) -> bytes:
        return deflate(stream.symbols.tobytes())

    def decode(self, data: bytes, count: int, dtype: np.dtype, alphabet: int, width: int) -> np.ndarray:
        return array(data, count, dtype)


def deflate(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_RAW, filters=FILTERS)


def inflate(data: bytes, limit: int) -> bytes:
    """What `deflate` was given. Raises ArtifactError when that is over `limit` bytes or the data is no LZMA2."""
    reader = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=FILTERS)
    try:
        # One byte of room beyond the end shows a longer stream without decoding it.
        found = reader.decompress(data, limit + 1)
    except lzma.LZMAError as error:
        raise ArtifactError(f"an xz stream does not decode ({error}); fetch the file again") from error
    if len(found) > limit or not reader.eof or reader.unused_data:
        raise ArtifactError(f"an xz stream is not whole, or over {limit:,} bytes; fetch the file again")
    return found


def array(data: bytes, count: int, dtype: np.dtype) -> np.ndarray:
    """What `deflate` was given, as so many numbers. Raises ArtifactError when it is not."""
    size = count * dtype.itemsize
    found = inflate(data, size)
    if len(found) != size:
        raise ArtifactError(f"an xz stream holds {len(found):,} bytes, not {size:,}; fetch the file again")
    return np.frombuffer(found, dtype)
