"""Validation text that a submission's files carry is found, packed or not; files without it are not blamed."""

from __future__ import annotations

import base64
import bz2
import io
import lzma
import zlib

import numpy as np
import pytest
import zstandard

from golf.eval.validity import carried
from golf.eval.validity.verdict import Status

TEXT = " ".join(f"the {number}th row keeps its scale of {number * 7919 % 1000}" for number in range(200)).encode()
TOKENS = np.random.default_rng(0).integers(4, 1000, 3000).astype(np.uint16)


def zipped(data):
    file = io.BytesIO()
    np.savez_compressed(file, data=np.frombuffer(data, np.uint8))
    return file.getvalue()


def inside_a_source(data):
    return b"import zlib\nTABLE = " + repr(base64.b85encode(zlib.compress(data))).encode() + b"\n"


def behind_others(data):
    return b"\x00" * 99 + zstandard.compress(b"a header") + bz2.compress(data)


@pytest.mark.parametrize("pack", [inside_a_source, behind_others, bytes, zlib.compress, lzma.compress, zipped])
@pytest.mark.parametrize("what", [TEXT[1000:2200], TOKENS[100:300].tobytes(), b"x" + TOKENS[100:300].tobytes()])
def test_it_is_found(pack, what):
    noise = np.random.default_rng(1).bytes(5000)
    found = carried.carried({"weights": pack(noise + what + noise)}, TEXT, TOKENS)
    assert found.status is Status.FAIL and found.evidence["file"] == "weights"


def test_weights_are_weights():
    noise = np.random.default_rng(2).bytes(50_000)
    files = {"weights": noise, "code": TEXT[:200] + noise, "packed": zlib.compress(noise)}
    assert carried.carried(files, TEXT, TOKENS).status is Status.PASS


@pytest.mark.parametrize("width", ["<i4", "<i8", "<f4"])
def test_tokens_of_every_width(width):
    file = io.BytesIO()
    np.savez_compressed(file, counts=TOKENS[100:300].astype(width))
    assert carried.carried({"weights.npz": file.getvalue()}, TEXT, TOKENS).status is Status.FAIL
    numbers = f"TABLE = {TOKENS[100:300].tolist()}\n".encode()
    assert carried.carried({"table.py": numbers}, TEXT, TOKENS).status is Status.FAIL


def test_a_bomb_is_not_unpacked_whole(monkeypatch):
    monkeypatch.setattr(carried, "MOST", 1 << 20)
    bomb = zlib.compress(bytes(50 << 20))
    assert max(map(len, carried.insides(bomb))) <= (1 << 20) + (1 << 16)
