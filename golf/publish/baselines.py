"""What general compressors reach on the same validation text: the numbers a newcomer can compare with."""

from __future__ import annotations

import bz2
import json
import lzma
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import zstandard

from golf.host import write_atomic

# Text before the validation text that a compressor may learn from. 16 MB is within the windows of xz and zstd.
PRIOR_BYTES = 16_000_000
BZ2_BLOCK = 900_000  # bzip2 forgets everything at a block's end


@dataclass(frozen=True)
class Baseline:
    """bits per byte alone, and with the end of the training text as dictionary or prefix."""

    name: str
    alone: float
    primed: float

    @property
    def bpb(self) -> float:
        return min(self.alone, self.primed)


def compressors(text: bytes, prior: bytes) -> list[Baseline]:
    """xz, zstd and bzip2 at their strongest settings on `text`; `prior` ends where the training text ends."""
    prior = prior[-PRIOR_BYTES:]
    short = prior[-max(BZ2_BLOCK - len(text), 0) :] if len(text) < BZ2_BLOCK else b""
    # Compressors leave the interpreter lock alone, and the two long ones take half of the time side by side.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = {
            "xz -9e": (pool.submit(_after, _xz, prior, text), pool.submit(_xz, text)),
            "zstd -22": (pool.submit(_zstd, text, prior), pool.submit(_zstd, text)),
            "bz2 -9": (pool.submit(_after, _bz2, short, text), pool.submit(_bz2, text)),
        }
    bits = 8 / len(text)
    return [
        Baseline(name, alone=bits * len(alone.result()), primed=bits * len(primed.result()))
        for name, (primed, alone) in sizes.items()
    ]


def cached(folder: Path, key: str, texts: Callable[[], tuple[bytes, bytes]]) -> list[Baseline]:
    """The compressors' scores on a corpus, computed once per corpus hash. `texts` gives validation text and prior."""
    path = folder / "baselines" / f"{key}.json"
    if path.is_file():
        return [Baseline(**entry) for entry in json.loads(path.read_bytes())]
    found = compressors(*texts())
    write_atomic(path, json.dumps([asdict(entry) for entry in found]).encode())
    return found


def tail(texts: Iterable[bytes], limit: int = PRIOR_BYTES) -> bytes:
    """The last `limit` bytes of a sequence of texts, without holding them all."""
    kept = bytearray()
    for text in texts:
        kept += text
        if len(kept) > 2 * limit:
            del kept[:-limit]
    return bytes(kept[-limit:])


def _after(compress: Callable[[bytes], bytes], prior: bytes, text: bytes) -> bytes:
    """The end of the compressed stream, as long as what `text` adds behind `prior`."""
    whole = compress(prior + text)
    return whole[len(compress(prior)) :]


def _xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)


def _bz2(data: bytes) -> bytes:
    return bz2.compress(data, 9)


def _zstd(data: bytes, prior: bytes = b"") -> bytes:
    window = min(max((len(data) + len(prior)).bit_length(), 10), 27)
    parameters = zstandard.ZstdCompressionParameters.from_level(22, window_log=window, enable_ldm=True)
    dictionary = zstandard.ZstdCompressionDict(prior, zstandard.DICT_TYPE_RAWCONTENT) if prior else None
    return zstandard.ZstdCompressor(compression_params=parameters, dict_data=dictionary).compress(data)
