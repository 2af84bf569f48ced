"""Zstandard, called by explicit parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import zstandard

from golf.contracts import ArtifactError, SpecError, Stream

# Up to here both ways are tried and the smaller result is kept: the deep one takes a second per megabyte.
SHORT = 1 << 22
CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Zstd:
    """zstd with its search for matches spelled out.

    Level 22 alone takes matches from three bytes on, wherever they are. Among the codes of a fine grid these
    are accidents: where row deviations vary, they can cost 5 % over plain Huffman coding. From five bytes on,
    with one look per position, zstd is Huffman tables per 128 KB, smaller and several times as fast. But byte
    planes of floats and codes of about a bit do repeat, and want level 22 as it comes.
    """

    name: ClassVar[str] = "zstd"

    level: int = 22
    min_match: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.level <= 22:
            raise SpecError(f"level={self.level} is outside 1..22; 22 packs best")
        if not 3 <= self.min_match <= 7:
            raise SpecError(f"min_match={self.min_match} bytes is outside 3..7; 5 suits codes")

    def encode(self, stream: Stream) -> bytes:
        data = stream.symbols.tobytes()
        shallow = self._compress(data, min_match=self.min_match, search_log=1)
        return min(shallow, self.deep(data), key=len) if len(data) <= SHORT else shallow

    def deep(self, data: bytes) -> bytes:
        """The way for text and floats."""
        return self._compress(data, min_match=3)

    def _compress(self, data: bytes, **search: int) -> bytes:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            self.level, source_size=len(data), write_content_size=True, **search
        )
        return zstandard.ZstdCompressor(compression_params=parameters).compress(data)

    def decode(self, data: bytes, count: int, dtype: np.dtype, alphabet: int, width: int) -> np.ndarray:
        return np.frombuffer(inflate(data, count * dtype.itemsize), dtype=dtype)


def inflate(data: bytes, size: int) -> bytes:
    """Exactly `size` bytes, taken as they come, so that memory follows the data and not what a header claims.
    Raises ArtifactError when there are more or fewer, or the data is not zstd."""
    pieces, held = [], 0
    if frame_size(data) == size:
        try:
            with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
                while held <= size and (piece := reader.read(CHUNK)):
                    pieces.append(piece)
                    held += len(piece)
        except zstandard.ZstdError as error:
            raise ArtifactError(f"a zstd stream does not decode ({error}); fetch the file again") from error
        if held == size:
            return b"".join(pieces)
    raise ArtifactError(f"a zstd stream does not hold the {size:,} bytes it should; fetch the file again")


def frame_size(data: bytes) -> int:
    """What the frame claims to hold, in bytes; nothing is allocated for it."""
    try:
        return zstandard.get_frame_parameters(data).content_size
    except zstandard.ZstdError as error:
        raise ArtifactError(f"a zstd stream has no header ({error}); fetch the file again") from error
