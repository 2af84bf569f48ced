import random

import pytest

from golf.train.clock import MARGIN, Clock


class FakeTime:
    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


def alone(value):
    return value


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("every", [1, 7])
def test_clock_never_overruns_and_wastes_little(seed, every):
    """Steps vary by 5 % around a second; whatever the seed, the loop ends before the limit, close to it."""
    now, rng = FakeTime(), random.Random(seed)
    clock = Clock(60.0, alone, now)
    clock.expect(1.0)
    clock.start()
    steps = 0
    while clock.fits(clock.step_seconds):
        now.seconds += rng.uniform(0.95, 1.0)
        clock.tick()
        steps += 1
        if steps % every == 0 or clock.seconds_left < 2 * every * clock.step_seconds:
            clock.read()
    assert clock.read() <= 60.0
    assert clock.elapsed > 60.0 - 2 * 1.0 * MARGIN


def test_before_any_step_nothing_is_known_of_steps():
    now = FakeTime()
    clock = Clock(10.0, alone, now)
    assert clock.elapsed == clock.step_seconds == clock.projected == 0 and clock.seconds_left == 10
    now.seconds += 4.0
    assert clock.read() == 4.0 and clock.step_seconds == 0, "waiting is no step"


def test_a_slow_step_makes_the_clock_careful():
    now = FakeTime()
    clock = Clock(10.0, alone, now)
    clock.start()
    for seconds in (1.0, 3.0, 1.0, 1.0, 1.0):
        now.seconds += seconds
        clock.tick()
        clock.read()
    assert clock.elapsed == 7.0
    assert not clock.fits(clock.step_seconds)  # 3 s of 1.05 would end at 10.15


def test_time_goes_on_where_an_earlier_session_stopped():
    now = FakeTime()
    clock = Clock(10.0, alone, now)
    now.seconds += 50.0  # set-up is not charged
    clock.start(elapsed=8.0)
    now.seconds += 1.0
    assert clock.read() == 9.0
    assert clock.seconds_left == 1.0


def test_saving_is_charged_but_is_no_step():
    now = FakeTime()
    clock = Clock(None, alone, now)
    clock.start()
    now.seconds += 1.0
    clock.tick()
    clock.read()
    now.seconds += 5.0
    assert clock.read() == 6.0
    assert clock.step_seconds == pytest.approx(MARGIN)
    assert clock.fits(1e9)


def test_ranks_agree_on_the_slowest():
    now, others = FakeTime(), [4.0]
    clock = Clock(10.0, lambda value: max(value, *others), now)
    clock.start()
    now.seconds += 1.0
    clock.tick()
    assert clock.read() == 4.0
    assert clock.step_seconds == pytest.approx(4.0 * MARGIN)


def test_between_readings_the_time_is_projected():
    now = FakeTime()
    clock = Clock(100.0, alone, now)
    clock.expect(2.0)
    clock.start()
    clock.tick()
    clock.tick()
    assert clock.projected == 4.0 and clock.seconds_left == 96.0
    now.seconds += 5.0
    assert clock.read() == clock.projected == 5.0
