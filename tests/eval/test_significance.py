"""Significance against scipy's own tests, the audits' published figures, and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from golf.contracts import SpecError
from golf.eval import significance
from golf.eval.significance import Sample, paired, power, sample, seeds_needed, welch, words

scores = st.lists(st.floats(0.5, 3.0).map(lambda value: round(value, 6)), min_size=2, max_size=8)


@settings(deadline=None)
@given(scores, scores, st.sampled_from([0.0, 0.003]))
def test_welch_is_scipys(old, new, margin):
    if min(np.std(old), np.std(new)) < 1e-6:  # scipy loses its digits there
        return
    ours = welch(sample(old), sample(new), margin)
    theirs = stats.ttest_ind(np.array(old) - margin, new, equal_var=False, alternative="greater")
    assert ours.t == pytest.approx(theirs.statistic, rel=1e-6, abs=1e-9)
    assert ours.df == pytest.approx(theirs.df, rel=1e-6)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-5, abs=1e-12)


def test_paired_is_scipys():
    old, new = {1: 1.12, 2: 1.13, 3: 1.111}, {1: 1.117, 2: 1.1255, 3: 1.1101}
    ours = paired(old, new, 0.001)
    theirs = stats.ttest_rel([old[s] - 0.001 for s in old], [new[s] for s in old], alternative="greater")
    assert (ours.t, ours.df, ours.p) == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue))
    with pytest.raises(SpecError, match="same seeds"):
        paired(old, {1: 1.0, 2: 1.0})


# What public audits of two records computed: means and standard deviations of three seeds each.
RECORD_549 = Sample(1.11937967, 0.00058078, 3)
RECORD_1019 = sample([1.11508120, 1.11437394, 1.11475014])


def test_the_audits_figures_come_out():
    better = welch(RECORD_549, RECORD_1019)
    assert better.delta == pytest.approx(0.004645, abs=1e-6)
    assert (better.t, better.df) == pytest.approx((11.83, 3.31), abs=0.02)
    assert round(better.p, 4) == 0.0004
    assert round(welch(RECORD_549, RECORD_1019, 0.00296).p, 4) == 0.0095


def test_the_margin_in_bits_per_byte():
    """0.005 nats a token at 0.41052 tokens a byte (sp1024) are 0.00296 bits per byte."""
    assert significance.margin_bpb(41_052, 100_000) == pytest.approx(0.00296, abs=5e-6)
    assert significance.margin_bpb(26_834, 100_000) == pytest.approx(0.00194, abs=5e-6)


def test_no_spread_leaves_the_sign():
    flat, lower = Sample(1.5, 0.0, 3), Sample(1.4, 0.0, 3)
    assert welch(flat, lower).p == 0.0
    assert welch(lower, flat).p == 1.0
    assert welch(flat, flat).p == 0.5


@pytest.mark.parametrize("bad", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_what_is_no_sample_is_refused(bad):
    with pytest.raises(SpecError):
        sample(bad)


def test_power_is_what_simulation_finds():
    draw, trials = np.random.default_rng(0), 4000
    old, new = draw.normal(1.002, 0.001, (trials, 5)), draw.normal(1.0, 0.001, (trials, 5))
    found = np.mean(stats.ttest_ind(old, new, axis=1, equal_var=False, alternative="greater").pvalue < 0.01)
    # Welch's degrees of freedom vary with the sample; the formula takes those of the true variances.
    assert power(0.002, 0.001, 0.001, 5) == pytest.approx(found, abs=0.06)


def test_seeds_needed_are_the_fewest():
    count = seeds_needed(0.001, 0.0006, 0.0004)
    assert power(0.001, 0.0006, 0.0004, count) >= 0.8 > power(0.001, 0.0006, 0.0004, count - 1)
    assert seeds_needed(0.001, 0.0, 0.0) == 2
    assert seeds_needed(0.001, 0.5, 0.5) is None
    assert seeds_needed(0.001, 0.0001, 0.0001, margin=0.002) is None


def test_plain_words():
    both = [welch(RECORD_549, RECORD_1019, margin) for margin in (0.0, 0.00296)]
    text = words(both, RECORD_549, RECORD_1019)
    assert "0.00464 bits per byte below the old" in text
    assert "better at all (Welch t(3.31) = 11.83" in text and "better by the margin of 0.00296" in text
    assert "not better" in words([welch(RECORD_1019, RECORD_549)], RECORD_1019, RECORD_549)
    near = Sample(1.1140, 0.0006, 3)
    text = words([welch(RECORD_1019, near, margin) for margin in (0.0, 0.00296)], RECORD_1019, near)
    assert "seeds a side show it with 80% chance" in text
    assert "the difference itself is too small" in text
