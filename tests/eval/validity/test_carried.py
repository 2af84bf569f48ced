"""Validation text that a submission's files carry is found, packed or not; files without it are not blamed."""

from __future__ import annotations

import io
import lzma
import zlib

import numpy as np
import pytest

from golf.eval.validity import splits
from golf.eval.validity.verdict import Status

TEXT = " ".join(f"the {number}th row keeps its scale of {number * 7919 % 1000}" for number in range(200)).encode()
TOKENS = np.random.default_rng(0).integers(4, 1000, 3000).astype(np.uint16)


def zipped(data):
    file = io.BytesIO()
    np.savez_compressed(file, data=np.frombuffer(data, np.uint8))
    return file.getvalue()


@pytest.mark.parametrize("pack", [bytes, zlib.compress, lzma.compress, zipped])
@pytest.mark.parametrize("what", [TEXT[1000:2200], TOKENS[100:300].tobytes(), b"x" + TOKENS[100:300].tobytes()])
def test_it_is_found(pack, what):
    noise = np.random.default_rng(1).bytes(5000)
    found = splits.carried({"weights": pack(noise + what + noise)}, TEXT, TOKENS)
    assert found.status is Status.FAIL and found.evidence["file"] == "weights"


def test_weights_are_weights():
    noise = np.random.default_rng(2).bytes(50_000)
    files = {"weights": noise, "code": TEXT[:200] + noise, "packed": zlib.compress(noise)}
    assert splits.carried(files, TEXT, TOKENS).status is Status.PASS
