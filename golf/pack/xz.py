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
        return lzma.compress(stream.symbols.tobytes(), format=lzma.FORMAT_RAW, filters=FILTERS)

    def decode(self, data: bytes, count: int, dtype: np.dtype, alphabet: int, width: int) -> np.ndarray:
        size = count * dtype.itemsize
        reader = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=FILTERS)
        try:
            # One byte of room beyond the end shows a longer stream without decoding it.
            found = reader.decompress(data, max_length=size + 1)
        except lzma.LZMAError as error:
            raise ArtifactError(f"an xz stream does not decode ({error}); fetch the file again") from error
        if len(found) != size or not reader.eof or reader.unused_data:
            raise ArtifactError(f"an xz stream holds {len(found):,} bytes, not {size:,}; fetch the file again")
        return np.frombuffer(found, dtype=dtype)
