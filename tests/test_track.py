"""Tracks: decimal megabytes, clocks, and a near name for a typo."""

import pytest

from golf import track
from golf.contracts import SpecError


def test_the_challenge_cap_is_decimal():
    assert track.find("10min_16mb").cap_bytes == 16_000_000 != 16 * 2**20


def test_unknown_track_names_the_nearest():
    with pytest.raises(SpecError, match="did you mean '10min_16mb'"):
        track.find("10min_16MB")


def test_overruns_name_the_clock_and_the_excess():
    limits = track.find("10min_16mb")
    assert limits.overruns(600.0, 600.0) == []
    (sentence,) = limits.overruns(600.03, 12.0)
    assert sentence.startswith("training took 600.0 s, 0.0 s over the 600 s")
    assert track.find("non_record_16mb").overruns(1e9, 1e9) == []
