"""Entropy coding of codes: golf's rans against general compressors, ideals and an entropy-coding library.

    python benchmarks/codecs.py [ARTIFACT.golf ...] [--codes CODES.npz ...] [--large]

Each line is the whole of one source of codes, in the streams the container makes of them: one for each role, alphabet
and width. Without a source, synthetic ones: six-bit codes whose rows differ, and codes whose rows and columns do.
--large adds a speed test at the shapes of PR 1361, 26 M codes, by processor seconds. Every size is of bytes that were
decoded again, except for the ideals. Peers that are not installed are left out (brotli, constriction; zpaq, a program).

    ideal     what rans would take if its shares of 2^16 were spent to the last fraction of a bit: its own model
    order 0   empirical entropy of each stream, its histogram for free
    ans       constriction's ANS with rounded Gaussians at the deviations rans wrote down, those for free
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zstandard

from golf.contracts import QTensor, Stream
from golf.pack import rans
from golf.pack.container import load
from golf.pack.rans import Rans
from golf.pack.streams import kind_of
from golf.pack.xz import Xz
from golf.pack.zstd import Zstd

TARGETS = {"over ideal": 0.003, "decode, seconds": 6.0}


def synthetic(columns: float, rows: float = 0.45, seed: int = 0) -> list[Stream]:
    """2,000 rows of 1,000 six-bit codes, deviations log-normal around 5.5 by row and around 1 by column."""
    random = np.random.default_rng(seed)
    spread = np.exp(random.normal(np.log(5.5), rows, (2000, 1)) + random.normal(0, columns, 1000))
    codes = np.clip(np.round(random.normal(size=(2000, 1000)) * spread), -31, 31).astype(np.int8)
    return [Stream(codes.ravel(), 63, 1000, (2000,))]


def of_artifact(tensors: dict[str, QTensor]) -> list[Stream]:
    """The integer streams of an artifact, as the container makes them."""
    kinds: dict = {}
    for name, tensor in tensors.items():
        for part in tensor.alphabets:
            kinds.setdefault(kind_of(name, tensor, part), []).append(tensor.parts[part])
    return [
        Stream(
            np.concatenate([a.ravel() for a in arrays]), k.alphabet, k.width, tuple(a.size // k.width for a in arrays)
        )
        if k.width
        else Stream(np.concatenate([a.ravel() for a in arrays]), k.alphabet)
        for k, arrays in kinds.items()
    ]


def as_tensors(file: Path) -> dict[str, QTensor]:
    with np.load(file) as arrays:
        return {n: QTensor(a.shape, "codes", {"codes": a}, {"codes": 256**a.itemsize}) for n, a in arrays.items()}


def checked(codec: Rans | Zstd | Xz, stream: Stream) -> int:
    data = codec.encode(stream)
    found = codec.decode(data, stream.symbols.size, stream.symbols.dtype, stream.alphabet, stream.width)
    assert np.array_equal(found, stream.symbols)
    return len(data)


def ideal(stream: Stream) -> float:
    head, _, shares, rest = rans.plan(stream)
    return len(head + rest) + sum(float((16 - np.log2(size)).sum()) for size, _ in shares) / 8


def order_0(stream: Stream) -> float:
    counts = np.unique(stream.symbols, return_counts=True)[1]
    return float(counts @ np.log2(stream.symbols.size / counts)) / 8


def ans(stream: Stream) -> float:
    import constriction

    _, layout, _, _ = rans.plan(stream)
    matrix = np.repeat(np.arange(len(layout.heights)), layout.heights)
    level = (layout.base[matrix] + layout.rows)[:, None] + layout.columns.reshape(-1, layout.width)[matrix]
    limit = int(np.abs(stream.symbols.astype(np.int64)).max()) + 1
    model = constriction.stream.model.QuantizedGaussian(-limit, limit)
    coder = constriction.stream.stack.AnsCoder()
    deviation = np.exp2((level.clip(0, 95) - 24) / 8).ravel()
    coder.encode_reverse(stream.symbols.astype(np.int32), model, np.zeros(deviation.size), deviation)
    return coder.get_compressed().nbytes


def brotli(stream: Stream) -> int:
    import brotli

    data = brotli.compress(stream.symbols.tobytes(), quality=11, lgwin=24)
    assert brotli.decompress(data) == stream.symbols.tobytes()
    return len(data)


def zpaq(stream: Stream) -> int:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "codes").write_bytes(stream.symbols.tobytes())
        subprocess.run(["zpaq", "add", "out.zpaq", "codes", "-m5", "-t1"], cwd=folder, check=True, capture_output=True)
        return Path(folder, "out.zpaq").stat().st_size


def zstd_22(stream: Stream) -> int:
    return len(zstandard.ZstdCompressor(level=22).compress(stream.symbols.tobytes()))


PEERS = {
    "rans": lambda stream: checked(Rans(), stream),
    "ideal": ideal,
    "ans": ans,
    "order 0": order_0,
    "golf's zstd": lambda stream: checked(Zstd(), stream),
    "zstd -22": zstd_22,
    "brotli -11": brotli,
    "golf's xz": lambda stream: checked(Xz(), stream),
    "zpaq -m5": zpaq,
}


def compare(sources: dict[str, list[Stream]]) -> None:
    peers = dict(PEERS)
    for peer, module in {"ans": "constriction", "brotli -11": "brotli"}.items():
        try:
            __import__(module)
        except ImportError:
            del peers[peer]
    if not shutil.which("zpaq"):
        del peers["zpaq -m5"]
    print(f"{'bytes, and as multiples of rans':32s} {'codes':>10s}", *(f"{peer:>19s}" for peer in peers))
    for source, streams in sources.items():
        streams = [stream for stream in streams if stream.symbols.size]
        sizes = {peer: sum(size(stream) for stream in streams) for peer, size in peers.items()}
        count = sum(stream.symbols.size for stream in streams)
        cells = (f"{round(size):11,d} ({size / sizes['rans']:.3f})" for size in sizes.values())
        print(f"{source[-32:]:32s} {count:10,d}", *(f"{cell:>19s}" for cell in cells))
        over = sizes["rans"] / sizes["ideal"] - 1
        target = TARGETS["over ideal"]
        print(f"  over the ideal of its own model {over:.3%}, target {target:.1%}, ratio {over / target:.2f}")


def large() -> Iterator[Stream]:
    """The matrices of PR 1361, coarse, rows and columns of somewhat different deviation."""
    random = np.random.default_rng(0)
    for width, heights in (512, [512, 256, 256, 512, 1536] * 11), (1536, [512] * 11):
        rows, columns = np.exp(random.normal(0, 0.15, (sum(heights), 1))), np.exp(random.normal(0, 0.15, width))
        codes = random.standard_normal((sum(heights), width), np.float32) * 2.2 * rows * columns
        yield Stream(np.round(codes).astype(np.int8).ravel(), 255, width, tuple(heights))


def race() -> None:
    count, writing, reading, size = 0, 0.0, 0.0, 0
    for stream in large():
        begin = time.process_time()
        data = Rans().encode(stream)
        middle = time.process_time()
        found = Rans().decode(data, stream.symbols.size, stream.symbols.dtype, stream.alphabet, stream.width)
        writing, reading = writing + middle - begin, reading + time.process_time() - middle
        assert np.array_equal(found, stream.symbols)
        count, size = count + found.size, size + len(data)
    target = TARGETS["decode, seconds"]
    print(
        f"{count:,} codes in {size:,} bytes: encode {writing:.2f} s, decode {reading:.2f} s, target {target:.1f}, "
        f"ratio {reading / target:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="*", type=Path)
    parser.add_argument("--codes", nargs="*", type=Path, default=[], help="integer arrays, one for each matrix")
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    sources = {str(file): of_artifact(load(file.read_bytes())[1]) for file in options.artifacts}
    sources |= {str(file): of_artifact(as_tensors(file)) for file in options.codes}
    compare(sources or {"rows differ": synthetic(0.0), "rows and columns differ": synthetic(0.45)})
    if options.large:
        race()


if __name__ == "__main__":
    main()
