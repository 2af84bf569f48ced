"""A clock that is played back answers what was noted, and nothing else."""

import pytest

from golf.contracts import DataError
from golf.host import Host
from golf.publish.submit import clock


def test_seconds_are_replayed_and_flags_are_not(tmp_path):
    first, file = clock.noting(Host()), tmp_path / "clock.txt"
    assert [first.largest(value) for value in (0.1234567, 0.0, 2.5, 1.0)] == [0.123457, 0.0, 2.5, 1.0]
    file.write_text(clock.spell(first.agreed))
    second = clock.replaying(Host(), file)
    assert [second.largest(value) for value in (9.0, 1.0, 8.0, 0.0)] == [0.123457, 1.0, 2.5, 0.0]
    assert second.agreed == first.agreed
    with pytest.raises(DataError, match="has run out"):
        second.largest(7.0)


def test_what_is_no_clock_is_said(tmp_path):
    (tmp_path / "clock.txt").write_text("1.5 noon")
    with pytest.raises(DataError, match="clock.txt holds no clock of a run: .*noon"):
        clock.replaying(Host(), tmp_path / "clock.txt")
