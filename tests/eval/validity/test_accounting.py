"""Bytes against text, for tokenizers that are right and tables that are not."""

from __future__ import annotations

import numpy as np
import pytest

from golf.contracts import ByteTable
from golf.eval.validity import accounting
from golf.eval.validity.accounting import Document, Piece
from golf.eval.validity.verdict import Status

PIECES = [
    Piece("<pad>", "control"), Piece("<s>", "control"), Piece("<unk>", "unknown"), Piece("<0xC3>", "byte"),
    Piece("<0xA9>", "byte"), Piece("▁", "text"), Piece("▁the", "text"), Piece("a▁b", "text"), Piece("日", "text"),
]  # fmt: skip


def table(**changes):
    spelled = [piece.spells() for piece in PIECES]
    arrays = [np.array(column) for column in zip(*spelled)]
    claimed = ByteTable(arrays[0].astype(np.int64), arrays[1].astype(bool), arrays[2].astype(bool))
    for name, (token, value) in changes.items():
        getattr(claimed, name)[token] = value
    return claimed


def test_pieces_spell_what_they_spell():
    assert [piece.spells()[0] for piece in PIECES] == [0, 0, 0, 1, 1, 0, 3, 3, 3]
    assert accounting.table(table(), PIECES, (), 0).status is Status.PASS


@pytest.mark.parametrize(
    "changes",
    [{"bytes_V": (4, 6)}, {"bytes_V": (6, 4)}, {"bytes_V": (1, 3)}, {"opens_V": (7, True)}, {"boundary_V": (3, True)},
     {"bytes_V": (7, 5)}],
)  # fmt: skip
def test_a_wrong_entry_is_named(changes):
    verdict = accounting.table(table(**changes), PIECES, (), 0)
    assert verdict.status is Status.FAIL and verdict.evidence["tokens"] == [next(iter(changes.values()))[0]]


def test_other_tables():
    assert accounting.table(table(), PIECES, (), 3).status is Status.FAIL
    assert accounting.table(table(), PIECES[:-1], (), 0).status is Status.FAIL
    without = [Piece("x", "text") if piece.text == "▁" else piece for piece in PIECES]
    assert "alone" in accounting.table(table(bytes_V=(5, 1), opens_V=(5, False)), without, (), 0).why
    assert accounting.table(table(bytes_V=(8, 0)), PIECES, (8,), 0).status is Status.PASS


def test_documents_are_counted_one_by_one():
    right = Document(np.array([6, 3, 4, 5, 8]), "the\u00e9 日", "the\u00e9 日")
    verdict, facts = accounting.documents(table(), 1, [right, right], None)
    assert verdict.status is Status.PASS and (facts["table"], facts["documents"], facts["tokens"]) == (18, 2, 11)
    assert accounting.documents(table(), 1, [right], 9)[0].status is Status.PASS
    assert accounting.documents(table(), 1, [right], 10)[0].status is Status.FAIL
    short = Document(right.tokens, "the\u00e9日", None)
    verdict, _ = accounting.documents(table(), 1, [right, short], None)
    assert verdict.status is Status.FAIL and verdict.evidence["numbers"] == [9, 8]
    folded = Document(right.tokens, "the\u00e9 日", "ＴＨＥ\u00e9  日")
    verdict, facts = accounting.documents(table(), 1, [folded], None)
    assert verdict.status is Status.FAIL and facts["listed"][0]["why"]


def test_transforms():
    same = accounting.transform(lambda text: text[::-1], lambda text: text[::-1], ["abc"])
    assert same.status is Status.PASS
    lossy = accounting.transform(str.lower, lambda text: text, [])
    assert lossy.status is Status.FAIL


def test_bytes_and_tokens_are_one_distribution():
    first = accounting.first_bytes(PIECES, after_boundary=False)
    assert first.tolist() == [256, 256, 256, 0xC3, 0xA9, 0x20, 0x20, ord("a"), "日".encode()[0]]
    assert accounting.first_bytes(PIECES, after_boundary=True)[6] == ord("t")
    row = np.log(np.array([0.02, 0.02, 0.06, 0.1, 0.1, 0.2, 0.2, 0.2, 0.1]))
    spelled = np.full(256, -np.inf)
    for byte, mass in ((0xC3, 0.1), (0xA9, 0.1), (0x20, 0.4), (ord("a"), 0.2), (0xE6, 0.1)):
        spelled[byte] = np.log(mass / 0.9)
    assert accounting.byte_marginals([(1, row, spelled, first)]).status is Status.PASS
    spelled[0x20] += 0.1
    assert accounting.byte_marginals([(1, row, spelled, first)]).status is Status.FAIL
