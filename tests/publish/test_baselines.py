"""What general compressors reach: a prior that helps is used, one that does not is not, and it is computed once."""

import bz2
import lzma
import random

import pytest

from golf.publish import baselines

WORDS = "the byte budget of a model is spent where a bit buys most".split()


def prose(seed, words):
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) + str(draw.randrange(40)) for _ in range(words)).encode()


def test_alone_is_the_plain_compressor():
    text = prose(0, 3000)
    found = {entry.name: entry for entry in baselines.compressors(text, b"")}
    assert found["xz -9e"].alone == 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text)
    assert found["bz2 -9"].alone == 8 * len(bz2.compress(text, 9)) / len(text)
    assert set(found) == {"xz -9e", "zstd -22", "bz2 -9"}


def test_a_prior_that_holds_the_text_makes_it_nearly_free():
    text = prose(1, 2000)
    for entry in baselines.compressors(text, prose(2, 2000) + text):
        if entry.name != "bz2 -9":  # blocks are sorted, not searched, so a copy is cheap but never free
            assert entry.primed < 0.1 * entry.alone
        assert entry.bpb == min(entry.primed, entry.alone)


def test_bzip2_gets_no_prior_where_its_block_is_full():
    text = prose(3, 200_000)
    assert len(text) > baselines.BZ2_BLOCK
    entry = baselines.compressors(text[: baselines.BZ2_BLOCK], prose(4, 100))[2]
    assert entry.primed == pytest.approx(entry.alone, rel=1e-3)


def test_cached_computes_once(tmp_path):
    calls = []

    def texts():
        calls.append(1)
        return prose(5, 500), prose(6, 500)

    first = baselines.cached(tmp_path, "key", texts)
    assert baselines.cached(tmp_path, "key", texts) == first and calls == [1]


def test_tail_keeps_the_end():
    parts = [bytes([n]) * 7 for n in range(50)]
    assert baselines.tail(parts, limit=30) == b"".join(parts)[-30:]
    assert baselines.tail([], limit=30) == b""
