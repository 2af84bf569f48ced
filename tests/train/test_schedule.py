import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.train.schedule import ema_decay, lr_scale, momentum, switch_sets, switches_at
from golf.train.spec import Muon, Stage, TrainSpec


def test_learning_rate_rises_stays_and_falls_to_its_floor():
    spec = TrainSpec(steps=1, warmup=0.1, warmdown=0.4, min_lr=0.25)
    points = {0.0: 0.0, 0.05: 0.5, 0.1: 1.0, 0.6: 1.0, 0.7: 0.75, 0.8: 0.5, 0.9: 0.25, 0.95: 0.25, 1.0: 0.25}
    assert {at: pytest.approx(lr_scale(0, at, spec)) for at in points} == points


def test_without_a_floor_it_ends_at_zero_and_without_warmdown_it_never_falls():
    assert lr_scale(0, 1.0, TrainSpec(steps=1, warmdown=0.6)) == 0
    assert lr_scale(0, 1.0, TrainSpec(steps=1, warmdown=0.0)) == 1


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 1))
def test_learning_rate_is_a_share(at, warmup, warmdown, floor):
    spec = TrainSpec(steps=1, warmup=warmup, warmdown=warmdown, min_lr=floor)
    assert 0 <= lr_scale(0, at, spec) <= 1
    assert lr_scale(0, warmup, spec) == 1 or warmup == 1 - warmdown  # the peak, where warm-up visits train


def test_momentum_rises_linearly_then_stays():
    spec = Muon(momentum=0.99, momentum_start=0.92, momentum_steps=1500)
    assert [round(momentum(step, spec), 6) for step in (0, 750, 1500, 9000)] == [0.92, 0.955, 0.99, 0.99]
    assert momentum(0, Muon(momentum=0.95, momentum_steps=0)) == 0.95


def test_average_forgets_the_start_of_a_short_run():
    kept = 1.0
    for step in range(300):
        kept *= ema_decay(step, 0.997)
    assert kept < 1e-6 < 0.4 < 0.997**300
    assert ema_decay(10_000, 0.997) == 0.997 and ema_decay(5, 0.0) == 0.0


def test_stages_hold_until_the_next_one_begins():
    stages = (
        Stage(begin=0.3, on=("loop",)),
        Stage(begin=0.8, fake_quant=True, on=("loop",)),
        Stage(begin=0.9),
    )
    seen = [switches_at(at, stages) for at in (0.0, 0.29, 0.3, 0.79, 0.8, 0.9, 1.0)]
    none, loop, both = frozenset(), frozenset({"loop"}), frozenset({"loop", "fake_quant"})
    assert seen == [none, none, loop, loop, both, none, none]
    assert switch_sets(stages) == [none, loop, both]
    assert switch_sets((Stage(begin=0.0, on=("loop",)),)) == [loop]
    assert switch_sets(()) == [none]
