import hashlib
import math

import pytest
import torch
from train_toy import Counting, Toy, quantizer, spec

from golf.contracts import BudgetError, DivergedError, SpecError
from golf.host import Host
from golf.train import checkpoint, engine
from golf.train.clock import Clock
from golf.train.engine import Loop, fit
from golf.train.job import Job
from golf.train.spec import AdamW, Muon, Stage


class Events(list):
    """A sink that keeps what it is told."""

    def __call__(self, event):
        self.append((event.kind, event.values))

    def of(self, kind):
        return [values for name, values in self if name == kind]


def run(events=None, seed=1, model=None, stream=None, dropout=0.0, given=None, **changes):
    torch.manual_seed(seed)
    model = model or Toy(dropout)
    options = dict(host=Host(), sink=events if events is not None else Events(), seed=seed, switches={})
    return model, fit(model, stream or Counting(), spec(**changes), **options | (given or {}))


def digest(tensors):
    whole = hashlib.sha256()
    for name in sorted(tensors):
        whole.update(name.encode() + tensors[name].detach().contiguous().numpy().tobytes())
    return whole.hexdigest()


def test_training_learns_and_hands_on_the_average():
    events = Events()
    model, trained = run(events, steps=60, ema=0.9)
    steps = events.of("step")
    assert trained.steps == 60 and trained.stopped == "steps" and trained.tokens == 60 * 64
    assert steps[-1]["loss"] < 0.7 * steps[0]["loss"]
    assert [values["step"] for values in steps] == list(range(1, 61))
    assert set(steps[0]) == {
        *("step", "loss", "lr", "grad_norm", "tokens_per_second", "seconds", "progress", "seconds_left")
    }
    assert steps[-1]["progress"] == 1.0 and steps[-1]["seconds_left"] == 0.0
    assert (events[0][0], events[-1][0]) == ("warmup", "train_end")
    fresh = Toy()
    fresh.load_state_dict(trained.average)
    ids, targets = Counting(1, 2).next()
    assert fresh.loss(ids, targets) < 0.8 * Toy().loss(ids, targets)
    assert not torch.equal(fresh.table, model.table)
    assert trained.average["ticks"].dtype == torch.int64


def test_average_covers_floating_buffers():
    model = Toy()

    class Drifting(Counting):
        def next(self):
            model.drift += 1
            return super().next()

    _, trained = run(model=model, stream=Drifting(), ema=0.5, steps=4)
    assert 0 < trained.average["drift"][0] < model.drift[0]


def test_tied_names_share_their_average():
    model = Toy()
    model.head = model.up  # the same parameter under a second name
    _, trained = run(model=model)
    assert torch.equal(trained.average["head.weight"], trained.average["up.weight"])
    assert "head.weight" in trained.average


def test_the_same_seed_gives_the_same_bits():
    averages = [digest(run(seed=seed, dropout=0.2)[1].average) for seed in (1, 1, 2)]
    assert averages[0] == averages[1] != averages[2]


def test_accumulation_changes_nothing_but_the_rounding():
    class Double(Counting):
        def next(self):
            pairs = [super(Double, self).next() for _ in range(2)]
            return torch.cat([ids for ids, _ in pairs]), torch.cat([targets for _, targets in pairs])

    _, one = run(stream=Double(), rows=8, batch_tokens=64)
    _, two = run(stream=Counting(), rows=4, batch_tokens=64)
    for name in one.average:
        torch.testing.assert_close(one.average[name], two.average[name], rtol=1e-3, atol=1e-4)


# -------------------------------------------------------------------------------------------- the schedule


def test_steps_set_the_schedule():
    events = Events()
    run(events, steps=10, warmdown=0.5, min_lr=0.3)
    assert [round(values["lr"], 3) for values in events.of("step")] == [1] * 6 + [0.8, 0.6, 0.4, 0.3]


def test_stages_switch_on_time_and_are_released():
    events, calls = Events(), []
    model = Toy()
    fake = quantizer(model)

    def flip(on):
        calls.append(on)
        fake(on)

    stages = (Stage(begin=0.2, on=("double",)), Stage(begin=0.5, fake_quant=True, on=("double",)))
    run(events, model=model, steps=10, stages=stages, given={"switches": {"fake_quant": flip}})
    told = [(values["step"], values["on"]) for values in events.of("stage")]
    assert told == [(2, ["double"]), (5, ["double", "fake_quant"])]
    assert model.double, "the family's switch stays as training left it"
    assert model.up.fake is None, "a switch that was handed in is off again"
    # reset; on in warm-up, off and on for its check, off after it; on at half time, released
    assert calls == [False, True, False, True, False, True, False]


class Shapes(Toy):
    def __init__(self):
        super().__init__()
        self.shapes = []

    def loss(self, ids, targets):
        self.shapes.append(tuple(ids.shape))
        return super().loss(ids, targets)


def test_stages_change_the_context_at_constant_tokens_a_step():
    events, model = Events(), Shapes()
    stages = (Stage(begin=0.2, seq_len=4), Stage(begin=0.5, seq_len=8), Stage(begin=0.8))
    _, trained = run(events, model=model, steps=10, seq_len=2, rows=16, stages=stages)
    assert trained.tokens == 10 * 64
    told = [(values["step"], values["on"]) for values in events.of("stage")]
    assert told == [(2, ["seq_len=4"]), (5, ["seq_len=8"]), (8, [])]
    # Two passes a step; before the loop each length is visited once, and once more to see that it matters.
    assert model.shapes[:9] == [*[(16, 2)] * 2, *[(8, 4)] * 2, *[(4, 8)] * 2, (16, 2), (8, 4), (4, 8)]
    assert model.shapes[9:] == [*[(16, 2)] * 4, *[(8, 4)] * 6, *[(4, 8)] * 6, *[(16, 2)] * 4]


def test_a_shorter_context_is_the_same_tokens_cut():
    """The model whose loss looks at one token alone cannot tell the lengths apart, and that is refused."""

    class Alone(Toy):
        def forward(self, ids, tail=None):
            return super().forward(ids.reshape(-1, 1)).reshape(*ids.shape, -1)

    with pytest.raises(SpecError, match="switching seq_len=8 leaves the loss at"):
        run(model=Alone(), steps=4, seq_len=4, rows=8, stages=(Stage(begin=0.5, seq_len=8),))


def test_unknown_switches_are_refused():
    with pytest.raises(SpecError, match="no switch 'loop'"):
        run(stages=(Stage(begin=0.5, on=("loop",)),))


def test_a_switch_that_changes_nothing_is_refused():
    with pytest.raises(SpecError, match="switching fake_quant leaves the loss at"):
        run(stages=(Stage(begin=0.5, fake_quant=True),), given={"switches": {"fake_quant": lambda on: None}})


# --------------------------------------------------------------------------------------------- the warm-up


def loop(dropout=0.0, **changes):
    torch.manual_seed(3)
    given, host = spec(**changes), Host()
    model = Toy(dropout)
    job = Job(model, Counting(), given, host, {"fake_quant": quantizer(model)})
    return Loop(job, given, Clock(None, host.largest), Events())


def test_warm_up_leaves_no_trace():
    """T3: parameters, average, optimizer state, data position and random generators, before and after."""
    work = loop(dropout=0.3, warmup_steps=3, stages=(Stage(begin=0.5, fake_quant=True),))
    for step in range(2):  # not from the fresh state only
        work.job.advance(1 - step / 10)
    tensors, meta = work.capture()
    before, told = digest(tensors), repr(meta)
    work.warm_up()
    tensors, meta = work.capture()
    assert digest(tensors) == before and repr(meta) == told
    assert work.job.on == frozenset()


def test_warm_up_changes_no_result():
    results = [digest(run(dropout=0.2, warmup_steps=visits)[1].average) for visits in (0, 1, 4)]
    assert len(set(results)) == 1


def test_capture_sees_every_tensor_a_step_changes():
    """The hash above would be worth nothing if it left something out."""
    work = loop()
    before = {name: tensor.clone() for name, tensor in work.capture()[0].items()}
    work.job.advance(1.0)
    after = work.capture()[0]
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {"model.ticks", "model.drift", "average.drift", "rng.0"}
    kinds = {name.split(".")[0] for name in before}
    assert kinds == {"model", "average", "momentum", "first", "second", "rng"}


# ----------------------------------------------------------------------------------------------- the clock


class Ticking:
    """A clock that moves a second for every batch read."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


class Slow(Counting):
    def __init__(self, time, seconds=1.0):
        super().__init__()
        self.time, self.seconds = time, seconds

    def next(self):
        self.time.seconds += self.seconds
        return super().next()


def timed(monkeypatch, seconds, reserve=0.0, given=None, **changes):
    time = Ticking()
    monkeypatch.setattr(engine.time, "monotonic", time)
    monkeypatch.setattr(engine, "Clock", lambda limit, agree: Clock(limit, agree, time))
    options = {"reserve_seconds": reserve} | (given or {})
    return run(stream=Slow(time), seconds=seconds, batch_tokens=32, given=options, **changes)[1]


def test_the_budget_is_not_overrun_and_the_reserve_kept(monkeypatch):
    trained = timed(monkeypatch, 30.0, reserve=8.0, steps=None)
    assert trained.stopped == "seconds"
    assert 30.0 - 8.0 - 2.1 < trained.seconds <= 30.0 - 8.0
    assert trained.steps == trained.seconds  # warm-up's seconds are not among them


def test_progress_follows_the_clock(monkeypatch):
    events = Events()
    timed(monkeypatch, 12.0, reserve=2.0, steps=None, warmdown=1.0, given={"sink": events})
    assert [round(values["lr"], 6) for values in events.of("step")][:4] == [1.0, 0.9, 0.8, 0.7]


def test_seconds_stop_a_run_of_too_many_steps(monkeypatch):
    trained = timed(monkeypatch, 10.0, steps=1000)
    assert trained.stopped == "seconds" and trained.seconds <= 10.0


def test_a_step_too_long_for_the_budget_is_told_before_it_runs(monkeypatch):
    with pytest.raises(BudgetError, match=r"a step takes about 1\.05 s"):
        timed(monkeypatch, 0.9, steps=None)
    with pytest.raises(BudgetError, match="leaves nothing"):
        timed(monkeypatch, 3.0, reserve=3.0)


def test_the_time_a_switch_takes_is_no_steps(monkeypatch):
    """Or the run would end early, keeping as long free for its last step."""
    model = Toy()
    fake = quantizer(model)

    def slow(on):
        engine.time.monotonic.seconds += 5.0 * on
        fake(on)

    stages, given = (Stage(begin=0.7, fake_quant=True),), {"switches": {"fake_quant": slow}}
    trained = timed(monkeypatch, 30.0, given=given, model=model, steps=None, stages=stages)
    assert trained.steps == 24 and 28.9 < trained.seconds <= 30.0


# ---------------------------------------------------------------------------------------------- divergence


class Poisoned(Toy):
    """The gradient of the gain becomes NaN in the third training step."""

    calls = 0

    def loss(self, ids, targets):
        self.calls += 1
        poison = math.nan if self.calls > 5 else 0.0
        return super().loss(ids, targets) + (self.gain * poison).sum().nan_to_num(0.0)


def test_a_nan_stops_the_run_and_names_the_group():
    with pytest.raises(DivergedError, match=r"at step 3 with learning rate 0\.01; .* group 'control'") as error:
        run(model=Poisoned(), warmup_steps=0, control=AdamW(lr=0.01), warmdown=0.0)
    assert "lower TrainSpec.control.lr" in str(error.value)


def test_an_exploding_loss_stops_the_run():
    with pytest.raises(DivergedError, match=r"exploded to .* at step \d+ with learning rate"):
        run(steps=200, warmup_steps=0, matrix=Muon(lr=5.0), head=AdamW(lr=5.0), warmdown=0.0)


def test_a_diverged_run_leaves_the_last_sound_checkpoint(tmp_path):
    path = tmp_path / "state.safetensors"
    with pytest.raises(DivergedError):
        run(model=Poisoned(), warmup_steps=0, checkpoint_seconds=0, given={"checkpoint": path})
    tensors, meta = checkpoint.load(path)
    assert meta["step"] == 2
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
