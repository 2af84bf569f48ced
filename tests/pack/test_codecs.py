"""Every codec returns what it was given, refuses everything else, and zstd is called so that it pays."""

from __future__ import annotations

import lzma

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from golf.contracts import ArtifactError, SpecError, Stream
from golf.pack.codecs import CODECS, codec
from golf.pack.xz import Xz
from golf.pack.zstd import Zstd

STREAMS = {
    "empty": Stream(np.zeros(0, np.int8), 63, 8),
    "one": Stream(np.array([-31], np.int8), 63, 1),
    "single symbol": Stream(np.full(70_000, 5, np.int8), 63, 700),
    "skewed": Stream((np.random.default_rng(0).random(40_000) < 0.01).astype(np.int8), 3, 400),
    "full alphabet": Stream(np.arange(-127, 128, dtype=np.int8).repeat(40), 255, 255),
    "int16": Stream(np.random.default_rng(1).integers(-500, 501, 9_000).astype("<i2"), 1001, 90),
    "raw": Stream(np.random.default_rng(2).integers(0, 256, 9_001).astype(np.uint8), 0, 0),
}


def round_trip(coder, stream: Stream) -> np.ndarray:
    data = coder.encode(stream)
    return coder.decode(data, stream.symbols.size, stream.symbols.dtype, stream.alphabet, stream.width)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_codec_round_trips(name, stream):
    found = round_trip(codec(name), stream)
    assert found.dtype == stream.symbols.dtype
    assert np.array_equal(found, stream.symbols)


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(st.sampled_from([np.int8, "<i2", np.uint8]), st.integers(0, 3000)),
    st.sampled_from(sorted(CODECS)),
)
def test_any_symbols_round_trip(symbols, name):
    alphabet = 0 if symbols.dtype == np.uint8 else 256**symbols.dtype.itemsize
    assert np.array_equal(round_trip(codec(name), Stream(symbols, alphabet)), symbols)


@pytest.mark.parametrize("name", CODECS)
def test_encoding_is_deterministic(name):
    for stream in STREAMS.values():
        assert codec(name).encode(stream) == codec(name).encode(stream)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("count", [0, 1, 8_999, 9_002, 10**15])
def test_any_other_count_is_refused(name, count):
    stream = STREAMS["raw"]
    data = codec(name).encode(stream)
    with pytest.raises(ArtifactError):
        codec(name).decode(data, count, stream.symbols.dtype, 0, 0)


@pytest.mark.parametrize("name", CODECS)
def test_damaged_data_is_refused_or_read_alike(name):
    stream, random = Stream(STREAMS["skewed"].symbols[:1_000], 3, 100), np.random.default_rng(0)
    data = codec(name).encode(stream)
    for _ in range(80):
        place = int(random.integers(len(data)))
        damaged = random.choice(["cut", "flip", "grow"])
        bad = {
            "cut": data[:place],
            "flip": data[:place] + bytes([data[place] ^ int(random.integers(1, 256))]) + data[place + 1 :],
            "grow": data[:place] + random.bytes(int(random.integers(1, 9))) + data[place:],
        }[damaged]
        try:
            found = codec(name).decode(bad, stream.symbols.size, stream.symbols.dtype, 3, 100)
        except ArtifactError:
            continue
        assert found.shape == stream.symbols.shape
        # Without a checksum a flip may decode to other symbols; that is the container's to notice.
        assert damaged != "cut" or np.array_equal(found, stream.symbols)


def test_a_bomb_is_stopped_at_the_size_it_should_have():
    zeros = bytes(1 << 24)
    bombs = {
        "zstd": zstandard.ZstdCompressor(write_content_size=False).compress(zeros),
        "xz": Xz().encode(Stream(np.zeros(1 << 24, np.uint8), 0)),
    }
    for name, bomb in bombs.items():
        assert len(bomb) < 1 << 17
        with pytest.raises(ArtifactError):
            codec(name).decode(bomb, 1000, np.dtype(np.uint8), 0, 0)


def test_an_unknown_codec_is_refused():
    with pytest.raises(ArtifactError, match="'zpaq'"):
        codec("zpaq")


def codes(rows: int, deviation: np.ndarray | float, limit: int = 31) -> Stream:
    normal = np.random.default_rng(3).normal(size=(rows, 1000))
    symbols = np.clip(np.round(normal * deviation), -limit, limit).astype(np.int8)
    return Stream(symbols.ravel(), 2 * limit + 1, 1000)


def entropy_bytes(stream: Stream) -> float:
    share = np.unique(stream.symbols, return_counts=True)[1] / stream.symbols.size
    return -(share * np.log2(share)).sum() * stream.symbols.size / 8


@pytest.mark.slow
def test_zstd_by_parameters_beats_the_level_alone():
    """Six-bit codes with one step a tensor, so that row deviations vary: level 22 alone falls into the trap
    of 3-byte matches on these, though not on all their like; stated parameters never do."""
    random = np.random.default_rng(0)
    spread = np.exp(random.normal(np.log(5.5), 0.45, (2000, 1)))
    symbols = np.clip(np.round(random.normal(size=(2000, 1000)) * spread), -31, 31).astype(np.int8)
    stream, data = Stream(symbols.ravel(), 63, 1000), symbols.tobytes()
    ours = len(Zstd().encode(stream))
    assert ours < 0.98 * len(zstandard.ZstdCompressor(level=22).compress(data))
    assert ours < 1.002 * len(zstandard.ZstdCompressor(level=1).compress(data))
    assert ours < 1.015 * entropy_bytes(stream)


def test_zstd_comes_near_the_entropy_of_rows_with_their_own_scale():
    stream = codes(700, 31 / 12.85)
    assert len(Zstd().encode(stream)) < entropy_bytes(stream) * 1.02


def test_zstd_keeps_the_deep_search_where_it_pays():
    for stream in (codes(300, 0.35, limit=1), Stream(np.tile(np.random.default_rng(0).bytes(500), 4), 0)):
        symbols = np.frombuffer(stream.symbols, np.uint8) if isinstance(stream.symbols, bytes) else stream.symbols
        stream = Stream(symbols, stream.alphabet, stream.width)
        assert len(Zstd().encode(stream)) <= len(zstandard.ZstdCompressor(level=22).compress(symbols.tobytes())) + 4


def test_xz_without_contexts_beats_the_preset_on_codes():
    stream = codes(300, 31 / 12.85)
    assert len(Xz().encode(stream)) < len(lzma.compress(stream.symbols.tobytes(), preset=9 | lzma.PRESET_EXTREME))


@pytest.mark.parametrize("wrong", [{"level": 0}, {"level": 23}, {"min_match": 2}, {"min_match": 8}], ids=str)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(SpecError):
        Zstd(**wrong)
