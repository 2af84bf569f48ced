"""golf's codec: read by a second, scalar reader; near the entropy of what it was given; nothing forged gets far."""

from __future__ import annotations

import base64
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.contracts import ArtifactError, Stream
from golf.pack import rans
from golf.pack.levels import CLASSES
from golf.pack.rans import Rans
from golf.pack.zstd import Zstd


def scaled(rows: int, columns: int, spread: float, matrices: int = 1, seed: int = 0) -> tuple[Stream, float]:
    """Codes whose deviation is a row's times a column's, and their ideal bytes when both are known."""
    random = np.random.default_rng(seed)
    deviation = 3 * np.exp(
        random.normal(0, spread, (matrices, rows, 1)) + random.normal(0, spread, (matrices, 1, columns))
    )
    codes = np.round(random.normal(size=deviation.shape) * deviation).clip(-32768, 32767).astype("<i2")
    erf = np.vectorize(math.erf)
    low, high = ((codes + half) / deviation / np.sqrt(2) for half in (-0.5, 0.5))
    share = np.maximum((erf(high) - erf(low)) / 2, 1e-12)
    return Stream(codes.ravel(), 65536, columns, (rows,) * matrices), float(-np.log2(share).sum() / 8)


def read_back(stream: Stream) -> np.ndarray:
    data = Rans().encode(stream)
    return Rans().decode(data, stream.symbols.size, stream.symbols.dtype, stream.alphabet, stream.width)


def scalar_decode(data: bytes, count: int, width: int) -> list[int]:
    """The format's description read by a loop over single symbols, in Python's integers."""
    lanes = max(1, count >> 14, min(64, count >> 13))
    low, span, matrices = int.from_bytes(data[1:2], signed=True), data[2] + 1, int.from_bytes(data[3:5], "little")
    sizes = [int.from_bytes(data[at : at + 4], "little") for at in (5, 9)]
    heights = [int.from_bytes(data[at : at + 4], "little") for at in range(13, 13 + 4 * matrices, 4)]
    at = 13 + 5 * matrices
    base = list(data[at - matrices : at])
    if sum(heights) == count:
        width = 1
    sides = []
    for size, number in zip(sizes, (sum(heights), matrices * width)):
        side = data[at : at + size]
        if side[:1] == b"\xff":  # LZMA2
            sides.append(Rans().decode(side, number, np.dtype("i1"), 81, 0).tolist())
        else:
            sides.append(scalar_decode(side, number, 0) if size else [0] * number)
        at += size
    rows, columns = sides
    owner = [n for n, height in enumerate(heights) for _ in range(height)]
    counted = [[int(w) for w in row] for row in rans.bells(low, span)]
    states = [int.from_bytes(data[at + 8 * n : at + 8 * n + 8], "little") for n in range(lanes)]
    at += 8 * lanes
    found, due, step = [[0] * width for _ in rows], 0, 0
    for begin in range(0, len(rows), lanes):
        left = 0
        while left < width:
            right, seen = min(width, left + 1 + step // 4), []
            if step >= due:
                due = step + step // 16
                shares = []
                for weights in counted:
                    edges, total, running = [], sum(weights) + span, 0
                    for n, weight in enumerate(weights):
                        edges.append(running * (65536 - span) // total + n)
                        running += weight + 1
                    shares.append([*edges, 65536])
            for column in range(left, right):
                for lane, row in enumerate(range(begin, min(begin + lanes, len(rows)))):
                    kind = base[owner[row]] + rows[row] + columns[owner[row] * width + column]
                    edges = shares[min(max(kind, 0), CLASSES - 1)]
                    slot = states[lane] % 65536
                    token = max(n for n in range(span) if edges[n] <= slot)
                    states[lane] = (edges[token + 1] - edges[token]) * (states[lane] // 65536) + slot - edges[token]
                    if states[lane] < 1 << 31:
                        states[lane] = (states[lane] << 32) + int.from_bytes(data[at : at + 4], "little")
                        at += 4
                    seen.append((min(max(kind, 0), CLASSES - 1), token))
                    found[row][column] = low + token
            for kind, token in seen:
                counted[kind][token] += 1024
            step, left = step + right - left, right
    assert all(state == 1 << 31 for state in states) and at == len(data)
    return [token for row in found for token in row]


@pytest.mark.parametrize("rows, columns, matrices", [(130, 80, 2), (3, 5, 1), (9000, 2, 1)])
def test_a_scalar_reader_finds_the_same(rows, columns, matrices):
    stream, _ = scaled(rows, columns, 0.4, matrices)
    stream = Stream(stream.symbols.clip(-63, 63), 127, columns, stream.heights)
    head, layout, shares, rest = rans.plan(stream)
    data = head + rans.code(shares, layout.lanes) + rest
    assert scalar_decode(data, stream.symbols.size, columns) == stream.symbols.tolist()


# The codes of the test below, as the first version of artifacts' format 2 wrote them.
GOLDEN = """
0P-6G000000384T02BZK015yA04pp1-~b;06aWBrK1q-3gbB;ZcS$>xu8%Y><q|*udlhXI6aWAKcC;He7&-3HS|Gf{`Kc0c=Z(+=
P@Yy?M6(m}XABfl%6J(fj@#>NJw1(Fk2Lv2#n<cDn=5u-JnYmUkKAk7iYl8O+n%zGjNTFWy9d_SGxE`-qtjz;W}|HFGC3fpwT~gP
Kt%c3Wzsq-rPje|P9c@Rn4v3{pV3|=4Fqs5R*RQqmDu0I<uA3{5<(OSKjtku;UJ4I`yJEDAfkQpE;O)Xfu%g*6o2CAUjjlhaNx?X
oYazfg`588OEv)#u!a;G0y`5!5Zz#N7o<nYR15~a-LQwv?|O2gT{B6Q$J0i0)lf0F9WnG5
"""


def test_streams_written_earlier_stay_readable():
    """Decoding is integer arithmetic alone: this holds on every machine, or the format has changed."""
    n = np.arange(480)
    codes = ((n * n % 97 % 11 - 5) * (1 + n % 16) // 6).astype(np.int8)
    data = base64.b85decode(GOLDEN.replace("\n", ""))
    assert np.array_equal(Rans().decode(data, 480, np.dtype("i1"), 255, 16), codes)


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0])
def test_rows_and_columns_cost_what_their_own_deviations_ask(spread):
    stream, ideal = scaled(512, 512, spread, 2)
    size = len(Rans().encode(stream))
    # Learning 2 x 1,024 deviations from the codes themselves costs bits as well, and so do tables of many widths.
    assert ideal * 0.999 < size < ideal * 1.003 + 2048 * 12 / 8 * (spread > 0)
    assert size < len(Zstd().encode(stream))


def test_a_library_with_the_true_deviations_is_a_byte_a_level_better_at_most():
    """constriction's ANS, given the true deviations, which ours has to find out and to write down."""
    constriction = pytest.importorskip("constriction")
    random = np.random.default_rng(4)
    deviation = 3 * np.exp(random.normal(0, 0.3, (400, 1)) + random.normal(0, 0.3, 300))
    codes = np.round(random.normal(size=deviation.shape) * deviation).astype(np.int32).ravel()
    model = constriction.stream.model.QuantizedGaussian(-200, 200)
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(codes, model, np.zeros(codes.size), deviation.ravel())
    ours = len(Rans().encode(Stream(codes.astype("<i2"), 65536, 300, (400,))))
    assert ours < 1.003 * coder.get_compressed().nbytes + 700


def test_odd_histograms_are_learned_to_the_end():
    """Only even symbols: no bell, so what is seen has to be taken in."""
    random = np.random.default_rng(5)
    codes = 2 * np.round(random.normal(size=400_000) * 9).clip(-30, 30).astype(np.int8)
    stream = Stream(codes, 127, 100, (4000,))
    share = np.unique(codes, return_counts=True)[1] / codes.size
    assert len(Rans().encode(stream)) < 1.006 * -(share @ np.log2(share)) * codes.size / 8


def test_the_estimate_is_the_size():
    for spread in (0.0, 0.5):
        stream, _ = scaled(300, 200, spread)
        assert abs(rans.cost(stream) / 8 / len(Rans().encode(stream)) - 1) < 0.001


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 40), st.lists(st.integers(0, 30), min_size=1, max_size=4), st.floats(0, 9)
)
def test_any_matrices_round_trip(seed, width, heights, octaves):
    random = np.random.default_rng(seed)
    codes = (
        random.normal(size=sum(heights) * width) * 2**octaves * random.exponential(size=sum(heights) * width)
    ).astype("<i2")
    stream = Stream(codes, 65536, width, tuple(heights))
    assert np.array_equal(read_back(stream), codes)


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros(200_000, np.int8),
        np.full(70_000, -128, np.int8),
        np.arange(-32768, 32768).astype("<i2"),
        np.tile(np.array([-32768, 32767], "<i2"), 40_000),
        np.arange(100_000).astype(np.int8),
        np.array([-32768], "<i2"),
    ],
    ids=["zeros", "constant", "every int16", "both ends", "every int8", "one"],
)
def test_adversarial_streams_round_trip(codes):
    for width, heights in (0, ()), (codes.size, (1,)), (1, (codes.size,)), (2, (codes.size // 2,)):
        assert np.array_equal(read_back(Stream(codes, 256**codes.itemsize, width, heights)), codes)


def test_two_million_alike_cost_next_to_nothing():
    stream = Stream(np.zeros(2_000_000, np.int8), 3, 1000, (2_000,))
    data = Rans().encode(stream)
    assert len(data) < 2_000
    assert not Rans().decode(data, 2_000_000, np.dtype("i1"), 3, 1000).any()


def test_forgeries_allocate_nothing_that_the_bytes_do_not_bear_out():
    stream, _ = scaled(64, 64, 0.4)
    head, layout, shares, rest = rans.plan(stream)
    data, random = head + rans.code(shares, layout.lanes) + rest, np.random.default_rng(0)
    for n in range(25):
        bad = bytearray(data)
        place = int(random.integers(len(head) if n % 2 else len(data)))
        bad[place] ^= int(random.integers(1, 256))
        tracemalloc.start()
        try:
            found = Rans().decode(
                bytes(bad[: int(random.integers(1, len(bad)))] if n % 5 == 0 else bad), 4096, np.dtype("<i2"), 65536, 64
            )
            assert found.shape == (4096,)
        except ArtifactError:
            pass
        assert tracemalloc.get_traced_memory()[1] < 24_000_000
        tracemalloc.stop()


@pytest.mark.parametrize("count", [0, 4032, 4095, 4097, 4160, 10**15])
def test_any_other_count_is_refused(count):
    stream, _ = scaled(64, 64, 0.4)
    with pytest.raises(ArtifactError):
        Rans().decode(Rans().encode(stream), count, np.dtype("<i2"), 65536, 64)
