"""The values that cross rooms: byte counting, adding up scores, the ledger's arithmetic."""

import math

import numpy as np
import pytest

from golf.contracts import BudgetError, ByteLedger, ByteTable, Score


def test_scores_add_up():
    whole = Score(nats=10.0, tokens=4, bytes=8) + Score(nats=2.0, tokens=1, bytes=4)
    assert whole == Score(nats=12.0, tokens=5, bytes=12)
    assert whole.bpb == pytest.approx(12 / math.log(2) / 12)
    # The identity between loss and bits per byte.
    assert whole.bpb * math.log(2) * whole.bytes / whole.tokens == pytest.approx(whole.loss)


def test_a_marker_counts_a_space_only_behind_a_token_that_is_no_boundary():
    # 0: control, 1: "▁a", 2: "b"
    table = ByteTable(np.array([0, 1, 1]), np.array([False, True, False]), np.array([True, False, False]))
    prev, next = np.array([0, 1, 2, 1]), np.array([1, 1, 1, 0])
    assert table.count(prev, next).tolist() == [1, 2, 2, 0]


def test_ledger_counts_a_trained_tokenizer_and_shows_a_stock_one():
    counted = ByteLedger(code=10, blob=80, cap=100, tokenizer=10)
    counted.check()
    assert counted.total == 100 and counted.headroom == 0
    shown = ByteLedger(code=10, blob=80, cap=100, tokenizer_shown=400)
    assert shown.headroom == 10


def test_one_byte_over_the_cap_is_refused_with_numbers():
    with pytest.raises(BudgetError, match=r"101 bytes, 1 over the 100 cap .*coarsen a grid"):
        ByteLedger(code=21, blob=80, cap=100).check()
