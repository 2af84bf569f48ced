"""Shingles find what was copied wherever it lies, nothing else, whatever the blocks."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from golf.eval.validity import splits
from golf.eval.validity.verdict import Status

BOS = 1


def documents(count, length, seed):
    draw = np.random.default_rng(seed)
    return [draw.integers(4, 1000, length + int(draw.integers(40))).astype(np.uint16) for _ in range(count)]


def stream(texts):
    return np.concatenate([np.concatenate([[BOS], text]) for text in texts]).astype(np.uint16)


def verdict(val, train, pieces=1):
    return splits.disjoint(splits.split_documents(stream(val), BOS), np.array_split(stream(train), pieces))


def test_rolling_hashes_are_a_function_of_the_passage():
    words, tokens = splits.weights(), documents(1, 500, 0)[0]
    hashes = splits.rolling(tokens, words)
    assert len(hashes) == len(tokens) - splits.SHINGLE + 1
    for place in (0, 17, len(hashes) - 1):
        alone = splits.rolling(tokens[place : place + splits.SHINGLE], words)
        assert alone.shape == (1,) and alone[0] == hashes[place]
    assert len(np.unique(hashes)) == len(hashes)


@pytest.mark.parametrize("pieces", [1, 7, 400])
def test_a_copied_document_is_found_across_borders(pieces, monkeypatch):
    monkeypatch.setattr(splits, "BLOCK", 100)
    val, train = documents(9, 200, 1), documents(20, 300, 2)
    assert verdict(val, train, pieces).status is Status.PASS
    found = verdict(val, [*train[:11], np.concatenate([train[11], val[4]]), *train[12:]], pieces)
    assert found.status is Status.FAIL and found.evidence["documents"] == [4]
    at = found.evidence["train_position"]
    np.testing.assert_array_equal(stream([*train[:11], np.concatenate([train[11], val[4]])])[at : at + 32], val[4][:32])


def test_a_document_with_every_fortieth_word_changed_is_found():
    val, train = documents(5, 400, 3), documents(5, 400, 4)
    disguised = val[2].copy()
    disguised[20::96] = 7
    assert verdict(val, [*train, disguised]).status is Status.FAIL


def test_one_quotation_is_told_and_no_copy():
    val, train = documents(5, 1000, 5), documents(5, 400, 6)
    train[1][100:180] = val[3][64:144]
    found = verdict(val, train)
    assert found.status is Status.PASS and found.evidence["shared"] == 2


def test_fewer_shingles_are_kept_of_many_and_still_find(monkeypatch):
    monkeypatch.setattr(splits, "KEPT", 64)
    val, train = documents(40, 400, 7), documents(10, 400, 8)
    held = splits.shingles(splits.split_documents(stream(val), BOS), splits.weights())
    assert held.every > 1 and len(held.hashes) < 200
    assert verdict(val, train).status is Status.PASS
    assert verdict(val, [*train, *val[:20]]).status is Status.FAIL


def test_ids_beyond_16_bits():
    """Copies are found, documents that differ in upper halves alone are two, and narrow ones are hashed as before."""
    wide = [text.astype(np.uint32) + 100_000 for text in documents(9, 200, 11)]
    other = [text.astype(np.uint32) + 150_000 for text in documents(20, 300, 12)]

    def streams(texts, pieces):
        return np.array_split(np.concatenate([np.concatenate([[BOS], each]) for each in texts]).astype("<u4"), pieces)

    cut = list(splits.split_documents(streams(wide, 1)[0], BOS, 150))
    assert all(text.dtype == np.uint32 and np.array_equal(text, right) for (_, text), right in zip(cut, wide))
    assert splits.disjoint(cut, streams(other, 7)).status is Status.PASS
    found = splits.disjoint(cut, streams([*other, wide[4]], 7))
    assert found.status is Status.FAIL and found.evidence["documents"] == [4]

    alike = [(0, wide[0]), (1, wide[0] + 65_536)]
    assert not [*splits.repeated(alike, 200_000)]
    assert [each.status for each in splits.repeated([*alike, (2, wide[0])], 200_000)] == [Status.FAIL]
    assert splits.digest(np.array([1, 2], np.int64), 65_536) == hashlib.sha256(b"\1\0\2\0").hexdigest()
    assert splits.digest(np.array([1, 1 << 16]), 65_537) == hashlib.sha256(b"\1\0\0\0\0\0\1\0").hexdigest()


@pytest.mark.parametrize("block", [3, 50, 10_000])
def test_documents_of_a_stream(block):
    texts = [*documents(5, 30, 9), np.empty(0, np.uint16), *documents(2, 3, 10)]
    found = list(splits.split_documents(stream(texts), BOS, block))
    assert [len(text) for _, text in found] == [len(text) for text in texts]
    for (place, text), right in zip(found, texts):
        np.testing.assert_array_equal(text, right)
        np.testing.assert_array_equal(stream(texts)[place : place + len(text)], right)


def test_what_comes_before_the_first_bos_is_a_document():
    found = list(splits.split_documents(np.array([5, 6, BOS, 7]), BOS))
    assert [(place, text.tolist()) for place, text in found] == [(0, [5, 6]), (3, [7])]
