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


def three_bytes(tokens):
    return tokens.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()


def two_planes(tokens):
    return (tokens & 0xFFFF).astype("<u2").tobytes() + (tokens >> 16).astype(np.uint8).tobytes()


def numbers(tokens):
    return f"TABLE = {tokens.tolist()}\n".encode()


WIDE = np.random.default_rng(3).integers(60_000, 150_000, 3000).astype(np.uint32)


@pytest.mark.parametrize("before", [b"", b"x", b"xyz"])
@pytest.mark.parametrize("form", [np.ndarray.tobytes, three_bytes, two_planes])
def test_ids_beyond_16_bits(form, before):
    noise = np.random.default_rng(4).bytes(9999)
    files = {"weights": before + form(WIDE[100:300])}
    assert carried.carried(files, TEXT, WIDE).status is Status.FAIL
    assert carried.carried({"weights": before + noise}, TEXT, WIDE).status is Status.PASS


@pytest.mark.parametrize("form", ["<i8", "<f4", "<f8", numbers])
def test_ids_beyond_16_bits_as_other_numbers(form):
    data = form(WIDE[100:300]) if callable(form) else WIDE[100:300].astype(form).tobytes()
    assert carried.carried({"table.py": data}, TEXT, WIDE).status is Status.FAIL


def test_zeros_are_no_passage_of_a_text_whose_first_token_is_a_letter():
    tokens = np.concatenate([TOKENS, np.zeros(200, np.uint16)])
    assert carried.carried({"weights": bytes(1000)}, TEXT, tokens).status is Status.PASS


def test_a_bomb_is_not_unpacked_whole(monkeypatch):
    monkeypatch.setattr(carried, "MOST", 1 << 20)
    bomb = zlib.compress(bytes(50 << 20))
    assert max(map(len, carried.insides(bomb))) <= (1 << 20) + (1 << 16)
