import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.contracts import DataError
from golf.data import shards


def raw(tokens, magic=20240520, version=1, count=None):
    """A shard spelled by hand from the format's description."""
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(tokens) if count is None else count
    return header.tobytes() + np.array(tokens, "<u2").tobytes()


def test_golden_bytes(tmp_path):
    (path,) = shards.write(tmp_path / "x_train_%06d.bin", [np.array([1, 500, 65535])])
    assert path.name == "x_train_000000.bin"
    assert path.read_bytes() == raw([1, 500, 65535])
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 65535), max_size=20), min_size=1, max_size=8).filter(any),
    st.integers(1, 25),
    st.data(),
)
def test_write_then_read_gives_the_same_tokens(tmp_path_factory, arrays, shard_tokens, data):
    folder = tmp_path_factory.mktemp("shards")
    flat = list(itertools.chain.from_iterable(arrays))
    paths = shards.write(folder / "x_val_%06d.bin", (np.array(a, np.uint16) for a in arrays), shard_tokens)
    assert shards.find(folder, "val") == paths
    assert [len(shards.read(path)) for path in paths[:-1]] == [shard_tokens] * (len(paths) - 1)
    tokens = shards.Tokens(paths, vocab=65536)
    assert len(tokens) == len(flat) and tokens[:].tolist() == flat
    cut = slice(data.draw(st.integers(-30, 200)), data.draw(st.integers(-30, 200)))
    assert tokens[cut].tolist() == flat[cut] and tokens[cut].dtype == np.uint16
    at = data.draw(st.integers(-len(flat), len(flat) - 1))
    assert tokens[at] == flat[at]


def test_a_slice_inside_one_shard_is_not_copied(tmp_path):
    tokens = shards.Tokens(shards.write(tmp_path / "x_val_%06d.bin", [np.arange(100)], 50))
    assert np.shares_memory(tokens[10:20], tokens.shards[0])
    assert tokens[40:60].tolist() == list(range(40, 60))
    with pytest.raises(ValueError, match="step=2"):
        tokens[::2]
    with pytest.raises(IndexError):
        tokens[100]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes, less than its 1024-byte header"),
        (raw([1, 2])[:1000], "1000 bytes"),
        (raw([1, 2], magic=7), "begins with 7, version 1, none of"),
        (raw([1, 2], version=2), "begins with 20240520, version 2, none of"),
        (raw([1, 2])[:-1], "1,027 bytes, but its 2 tokens need 1,028"),
        (raw([1, 2]) + b"x", "1,029 bytes, but its 2 tokens need 1,028"),
        (raw([], count=0), "declares 0 tokens"),
        (raw([1], count=-5), "declares -5 tokens"),
        (raw([1], count=2**31 - 1), "1,026 bytes, but its 2,147,483,647 tokens"),
    ],
)
def test_malformed_shards_are_refused(tmp_path, content, words):
    path = tmp_path / "bad.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        shards.read(path)
    assert str(path) in str(caught.value) and ";" in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1023 + 20), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_a_token(tmp_path_factory, at, flip):
    """Within the three numbers of the header every change is noticed; behind it the count still holds."""
    path = tmp_path_factory.mktemp("flip") / "x.bin"
    data = bytearray(raw(range(10)))
    data[at] ^= flip
    path.write_bytes(bytes(data))
    if at < 12:
        with pytest.raises(DataError):
            shards.read(path)
    else:
        assert len(shards.read(path)) == 10


def test_ids_beyond_the_vocabulary_name_the_place(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "CHECK_TOKENS", 4)
    path = tmp_path / "x.bin"
    path.write_bytes(raw([5] * 9 + [6]))
    assert len(shards.read(path, vocab=7)) == 10
    with pytest.raises(DataError, match="token id 6 at position 9, beyond the vocabulary of 6"):
        shards.read(path, vocab=6)
    tokens = shards.Tokens([path], vocab=6)
    assert tokens[:9].tolist() == [5] * 9
    with pytest.raises(DataError, match="token id 6"):
        tokens[8:]


def test_sidecars_and_other_files_are_left_out(tmp_path):
    names = [
        "f_val_000001.bin",
        "f_val_000000.bin",
        "f_val_bytes_000000.bin",
        "f_train_000000.bin",
        "f_val_0.txt",
    ]
    for name in names:
        (tmp_path / name).write_bytes(raw([1]))
    assert [path.name for path in shards.find(tmp_path, "val")] == ["f_val_000000.bin", "f_val_000001.bin"]
    assert [path.name for path in shards.find(tmp_path, "train")] == ["f_train_000000.bin"]
    with pytest.raises(DataError, match=r"no \*_test_\*\.bin shards"):
        shards.find(tmp_path, "test")


def test_nothing_half_written_stays(tmp_path):
    def failing():
        yield np.arange(5)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        shards.write(tmp_path / "x_train_%06d.bin", failing(), 3)
    assert [path.name for path in tmp_path.iterdir()] == ["x_train_000000.bin"]  # complete when the disk was full
    assert shards.read(tmp_path / "x_train_000000.bin").tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"70000 do not fit"):
        shards.write(tmp_path / "y_train_%06d.bin", [np.array([1, 70000])])
    with pytest.raises(DataError, match="no tokens to write"):
        shards.write(tmp_path / "y_train_%06d.bin", [np.array([], np.uint16)])
    with pytest.raises(DataError, match="does not exist"):
        shards.read(tmp_path / "y_train_000000.bin")
