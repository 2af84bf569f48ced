"""Zstandard, called by explicit parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import zstandard

from golf.contracts import ArtifactError, SpecError, Stream

# Up to here both match lengths are tried and the smaller result is kept; that costs a second per megabyte.
SHORT = 1 << 22
CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Zstd:
    """zstd with the shortest match stated.

    Level 22 alone looks for matches of three bytes. Among 6-bit codes these are accidents: where row
    deviations vary, they cost 3 % more than plain Huffman coding does. Without them level 22 is Huffman
    tables per 128 KB, which is right for codes. Byte planes of floats, and codes of less than two bits, do
    have such matches.
    """

    name: ClassVar[str] = "zstd"

    level: int = 22
    min_match: int = 6

    def __post_init__(self) -> None:
        if not 1 <= self.level <= 22:
            raise SpecError(f"level={self.level} is outside 1..22; 22 packs best")
        if not 3 <= self.min_match <= 7:
            raise SpecError(f"min_match={self.min_match} bytes is outside 3..7; 6 suits codes")

    def encode(self, stream: Stream) -> bytes:
        data = stream.symbols.tobytes()
        matches = {3, self.min_match} if len(data) <= SHORT else {self.min_match}
        return min((self.compress(data, match) for match in sorted(matches)), key=len)

    def compress(self, data: bytes, match: int) -> bytes:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            self.level, source_size=len(data), min_match=match, write_content_size=True, write_dict_id=False
        )
        return zstandard.ZstdCompressor(compression_params=parameters).compress(data)

    def decode(self, data: bytes, count: int, dtype: np.dtype, alphabet: int, width: int) -> np.ndarray:
        return np.frombuffer(inflate(data, count * dtype.itemsize), dtype=dtype)


def inflate(data: bytes, size: int) -> bytes:
    """Exactly `size` bytes, taken as they come, so that memory follows the data and not what a header claims.
    Raises ArtifactError when there are more or fewer, or the data is not zstd."""
    claimed = frame_size(data)
    pieces, held = [], 0
    try:
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
            while claimed == size and held <= size and (piece := reader.read(CHUNK)):
                pieces.append(piece)
                held += len(piece)
    except zstandard.ZstdError as error:
        raise ArtifactError(f"a zstd stream does not decode ({error}); fetch the file again") from error
    if held != size:
        raise ArtifactError(f"a zstd stream does not hold the {size:,} bytes it should; fetch the file again")
    return b"".join(pieces)


def frame_size(data: bytes) -> int:
    """What the frame claims to hold, in bytes; nothing is allocated for it."""
    try:
        return zstandard.get_frame_parameters(data).content_size
    except zstandard.ZstdError as error:
        raise ArtifactError(f"a zstd stream has no header ({error}); fetch the file again") from error
