"""Numbers that are stated, against each other, logs and limits; the tests of significance against the rule book's."""

from __future__ import annotations

import math

import pytest

from golf.eval.validity import claims
from golf.eval.validity.claims import Seed
from golf.eval.validity.verdict import Status, failed, merge, passed, unchecked

LOG = (
    "source_sha256: {source}\nstep:10/20 train_loss:3.0 train_time:5.0s\nstep:20/20 train_loss:2.9 train_time:{time}\n"
    "stopping_early: wallclock_cap train_time:{time}\nTotal submission size: {size} bytes\n"
    "final_x_exact val_loss:{loss:.8f} val_bpb:{bpb:.8f} eval_time:100ms\n"
)
LOSS, TOKENS, BYTES = 2.5, 1000, 2400
BPB = LOSS / math.log(2) * TOKENS / BYTES


def seed(**values):
    known = {"val_loss": LOSS, "val_bpb": BPB, "tokens": TOKENS, "bytes": BYTES, "bytes_total": 9000}
    return Seed(**{"seed": 7, "train_seconds": 9.0} | known | values)


def log(**values):
    return LOG.format(**{"source": "a" * 64, "time": "9000ms", "size": "9000", "loss": LOSS, "bpb": BPB} | values)


def status(verdicts):
    return [verdict.status for verdict in verdicts]


def test_a_log_that_agrees():
    assert status(claims.logs([seed()], {7: log()}, "a" * 64)) == [Status.PASS]
    rounded = log().replace("train_time:9000ms", "train_time:9.0s\nstopping_early: wallclock_cap train_time:8969ms", 1)
    assert "8969ms" in rounded  # a step's line rounds to a tenth what the last line says in full
    assert status(claims.logs([seed(train_seconds=8.969)], {7: rounded}, "a" * 64)) == [Status.PASS]


@pytest.mark.parametrize(
    ("stated", "written", "says"),
    [
        ({"val_bpb": BPB - 0.001}, {}, "val_bpb"),
        ({"val_loss": LOSS - 0.001}, {}, "val_loss"),
        ({}, {"bpb": BPB - 0.001}, "val_bpb"),
        ({"val_bpb": BPB - 0.01}, {"bpb": BPB - 0.01}, "makes a loss of"),
        ({"bytes_total": 8999}, {}, "bytes in the results"),
        ({"train_seconds": 8.0}, {}, "8.0 s in the results, 9.0 s in the log"),
        ({}, {"time": "4.0s"}, "run backwards"),
        ({}, {"source": "b" * 64}, "is of source"),
        ({}, {"bpb": float("nan")}, "nan"),
    ],
)
def test_a_log_that_does_not(stated, written, says):
    (verdict,) = claims.logs([seed(**stated)], {7: log(**written)}, "a" * 64)
    assert verdict.status is Status.FAIL and says in verdict.why


def test_a_seed_without_a_log_and_no_logs_at_all():
    assert status(claims.logs([seed(), seed(seed=8)], {7: log()}, None)) == [Status.FAIL]
    assert status(claims.logs([seed()], {}, None)) == [Status.NOT_CHECKED]


@pytest.mark.parametrize(
    ("listed", "scored", "logged", "right"),
    [
        ([1, 2, 3], [1, 2, 3], [1, 2, 3], Status.PASS),
        ([1, 2, 3], [1, 2, 3], [], Status.PASS),
        ([1, 2, 3], [1, 2], [1, 2, 3], Status.FAIL),
        ([1, 2], [1, 2], [1, 2, 3], Status.FAIL),
        ([1, 2, 3], [1, 2, 3], [1, 2], Status.FAIL),
        ([1, 2], [1, 2], [1, 2], Status.FAIL),
        ([1, 1, 2], [1, 1, 2], [], Status.FAIL),
    ],
)
def test_seeds(listed, scored, logged, right):
    assert claims.seeds(listed, scored, logged, True).status is right


def test_significance_is_that_of_the_rule_book():
    """The record of March 25 against that of March 23: 0.004645 better, t 11.83, p .0004, with the margin .0095."""
    old, new = [1.11921, 1.11998, 1.11923], [1.11508, 1.11437, 1.11467]
    gain, any_gain = claims.welch(old, new, 0.0)
    assert gain == pytest.approx(0.0048, abs=3e-4) and any_gain < 0.001
    verdict = claims.significance(old, new, 41052, 100000, record=True)
    assert verdict.status is Status.PASS and verdict.evidence["p_margin"] > verdict.evidence["p"]
    small = claims.significance(old, [score - 0.0005 for score in old], 41052, 100000, record=True)
    assert small.status is Status.FAIL


def test_clocks():
    assert claims.clock("T1", "training", {1: 599.9, 2: 600.0}, 600).status is Status.PASS
    late = claims.clock("T1", "training", {1: 599.9, 2: 601.15}, 600)
    assert late.status is Status.FAIL and late.evidence["numbers"] == [601.15, 600]
    assert claims.clock("T1", "training", {}, 600).status is Status.NOT_CHECKED
    assert claims.train_seconds(log()) == [5.0, 9.0, 9.0]


def test_merged_verdicts_lose_no_fail_and_leave_no_gap():
    found = merge([passed("C1a", "one"), passed("C1a", "two"), failed("B1", "bad"), passed("B1", "good"),
                   unchecked("S4", "slow")])  # fmt: skip
    by_check = {verdict.check: verdict for verdict in found}
    assert by_check["C1a"].why == "one; two"
    assert by_check["B1"].status is Status.FAIL
    assert by_check["T3"].status is Status.NOT_CHECKED and by_check["T3"].why
    assert len(found) == 35
