import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import Events, run

from golf.contracts import SpecError
from golf.train.curves import Chain, Cosine, WarmupStableDecay
from golf.train.spec import TrainSpec


def course(schedule, total):
    """The scale of each step of a run of `total` steps."""
    return [schedule.scale(step, step / total) for step in range(total)]


def test_the_published_warmup_stable_decay():
    """2,000 warm-up steps, decay from 80 % to zero, over 20,345 steps, written out step by step."""
    total = 20_345
    expected = []
    for step in range(total):
        if step < 2000:
            expected.append((step + 1) / 2000)
        elif step <= 0.8 * total:
            expected.append(1.0)
        else:
            expected.append((total - step) / (0.2 * total))
    assert course(WarmupStableDecay(warmup_steps=2000, decay_from=0.8), total) == pytest.approx(expected, rel=1e-9)


def test_the_square_root_falls_faster_at_first():
    linear, root = WarmupStableDecay(decay_from=0.5), WarmupStableDecay(decay_from=0.5, shape="sqrt", floor=0.1)
    assert root.scale(0, 0.5) == 1 and root.scale(0, 1.0) == pytest.approx(0.1)
    assert root.scale(0, 0.625) == pytest.approx(0.1 + 0.9 * 0.5)
    assert root.scale(0, 0.625) < linear.scale(0, 0.625) == 0.75


def test_cosine_with_steps_of_warm_up():
    """The usual formula, which knows the number of steps; ours only their share."""
    total, rise, floor = 500, 40, 0.1
    expected = [
        (step + 1) / rise
        if step < rise
        else floor + (1 - floor) * (1 + math.cos(math.pi * (step - rise) / (total - rise))) / 2
        for step in range(total)
    ]
    assert course(Cosine(warmup_steps=rise, floor=floor), total) == pytest.approx(expected, rel=1e-9)


def test_a_share_of_warm_up_rises_linearly():
    cosine = Cosine(warmup=0.2, peak=0.5)
    assert [cosine.scale(0, at) for at in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0, 0.25, 0.5, 0.25, 0])


def test_a_chain_gives_each_its_own_budget():
    """Two runs, the second of 100 steps at a third of the rate, are one run of 1,100 with a chain."""
    first, second = Cosine(warmup_steps=50, floor=0.1), Cosine(warmup_steps=10, peak=1 / 3, floor=0.1)
    chain = Chain(parts=((0.0, first), (10 / 11, second)))
    assert course(chain, 1100) == pytest.approx(course(first, 1000) + course(second, 100), rel=1e-6)


curves = st.one_of(
    st.builds(Cosine, warmup_steps=st.integers(0, 90), peak=st.floats(0.1, 2), floor=st.floats(0, 1)),
    st.builds(WarmupStableDecay, warmup=st.floats(0, 0.5), decay_from=st.floats(0.5, 0.9), floor=st.floats(0, 1)),
)


@settings(deadline=None)
@given(curves, st.integers(1, 300))
def test_the_rate_stays_between_zero_and_the_peak(curve, total):
    scales = course(curve, total)
    assert all(0 <= scale <= curve.peak * (1 + 1e-12) for scale in scales)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Cosine(warmup_steps=5, warmup=0.1), "give one of them"),
        (lambda: Cosine(warmup_steps=-1), "-1 steps"),
        (lambda: Cosine(peak=0), "peak=0"),
        (lambda: Cosine(floor=1.5), "floor=1.5"),
        (lambda: WarmupStableDecay(decay_from=1.0), "decay_from=1.0"),
        (lambda: WarmupStableDecay(warmup=0.5, decay_from=0.3), "decay_from=0.3"),
        (lambda: WarmupStableDecay(shape="cubic"), "'cubic'"),
        (lambda: Chain(parts=()), "begin at"),
        (lambda: Chain(parts=((0.1, Cosine()),)), "begin at"),
        (lambda: Chain(parts=((0.0, Cosine()), (0.0, Cosine()))), "begin at"),
        (lambda: TrainSpec(steps=1, warmdown=0.3, schedule=Cosine()), "beside .*'warmdown': 0.3"),
    ],
)
def test_values_that_cannot_work_are_named(make, told):
    with pytest.raises(SpecError, match=told):
        make()


def test_training_follows_the_schedule_and_logs_it():
    events, schedule = Events(), WarmupStableDecay(warmup_steps=4, decay_from=0.6)
    run(events, steps=10, schedule=schedule, warmdown=0.6)
    assert [values["lr"] for values in events.of("step")] == course(schedule, 10)
