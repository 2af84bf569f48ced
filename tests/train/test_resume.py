"""A run that was killed and resumed ends in the bits of one that was not."""

import random
import signal
import time

import pytest
import torch
from test_engine import Events, digest, run
from train_toy import Toy, quantizer

from golf.contracts import CheckpointError
from golf.train import checkpoint, engine
from golf.train.curves import Cosine
from golf.train.spec import AdamW, Stage

STAGES = (Stage(begin=0.5, fake_quant=True), Stage(begin=0.8, on=("double",)))
COMMON = dict(steps=30, dropout=0.2, checkpoint_seconds=0, stages=STAGES)
LENGTHS = (Stage(begin=0.25, seq_len=4), Stage(begin=0.5, seq_len=8, fake_quant=True))
ANNEALED = dict(seq_len=2, rows=16, stages=LENGTHS, schedule=Cosine(warmup_steps=12), matrix=AdamW(lr=0.02))

class Stop(Exception):
    pass


def train(path, events=None, resume=True, **changes):
    torch.manual_seed(1)
    model = Toy(0.2)
    given = {
        "checkpoint": path,
        "resume": resume,
        "digest": "d",
        "switches": {"fake_quant": quantizer(model)},
    }
    return run(events, model=model, given=given, **COMMON | changes)[1]


def child(path, told):
    """What the killed process runs: slow enough steps that a kill hits every part of one."""
    told.send("ready")
    told.send(digest(train(path, **ANNEALED).average))


@pytest.fixture(scope="module")
def annealed(tmp_path_factory):
    return digest(train(tmp_path_factory.mktemp("annealed") / "state.safetensors", **ANNEALED).average)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return digest(train(tmp_path_factory.mktemp("whole") / "state.safetensors").average)


@pytest.mark.parametrize("stop", [1, 14, 15, 24, 29])
def test_a_run_stopped_at_any_step_resumes_to_the_same_bits(tmp_path, whole, stop):
    path, events = tmp_path / "state.safetensors", Events()

    def sink(event):
        if event.kind == "step" and event.values["step"] == stop:
            raise Stop

    with pytest.raises(Stop):
        train(path, sink)
    resumed = train(path, events)
    assert digest(resumed.average) == whole
    assert [values["step"] for values in events.of("resume")] == [stop - 1]
    assert resumed.steps == 30


@pytest.mark.parametrize("stop", [8, 15, 16, 23])
def test_stages_of_lengths_under_adamw_and_a_schedule_resume_to_the_same_bits(tmp_path, annealed, stop):
    path = tmp_path / "state.safetensors"

    def sink(event):
        if event.kind == "step" and event.values["step"] == stop:
            raise Stop

    with pytest.raises(Stop):
        train(path, sink, **ANNEALED)
    assert digest(train(path, **ANNEALED).average) == annealed


@pytest.mark.slow
def test_killed_at_random_moments(forks, tmp_path, annealed):
    """kill -9 wherever it hits, in stages of three context lengths, until one attempt gets through."""
    path, rng, kills, answer = tmp_path / "state.safetensors", random.Random(0), 0, None
    while answer is None:
        told, tell = forks.Pipe(duplex=False)
        process = forks.Process(target=child, args=(path, tell))
        process.start()
        tell.close()
        assert told.recv() == "ready"
        if kills < 5:
            time.sleep(rng.uniform(0.02, 0.3))
            process.kill()
            kills += 1
        process.join(120)
        answer = told.recv() if told.poll() and process.exitcode == 0 else None
        assert answer or process.exitcode == -signal.SIGKILL
    assert kills and answer == annealed
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_finished_run_is_not_trained_again(tmp_path, whole):
    path, events = tmp_path / "state.safetensors", Events()
    first = train(path)
    again = train(path, events)
    assert digest(again.average) == whole
    assert (again.steps, again.seconds, again.stopped, again.loss) == (30, first.seconds, "steps", first.loss)
    assert not events.of("step") and not events.of("warmup")


def test_without_resume_a_run_starts_over(tmp_path, whole):
    path, events = tmp_path / "state.safetensors", Events()
    train(path)
    assert digest(train(path, events, resume=False).average) == whole
    assert len(events.of("step")) == 30


def test_time_spent_before_the_stop_counts(tmp_path):
    path = tmp_path / "state.safetensors"
    train(path, steps=5)
    tensors, meta = checkpoint.load(path)
    checkpoint.save(path, tensors, meta | {"stopped": "", "elapsed": 1234.5})
    assert train(path, steps=7).seconds > 1234.5


@pytest.mark.parametrize("change", [{"digest": "other"}, {"seed": 2}], ids=str)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change):
    path = tmp_path / "state.safetensors"
    train(path, steps=2)
    torch.manual_seed(1)
    given = {"checkpoint": path, "resume": True, "digest": "d"} | change
    with pytest.raises(CheckpointError, match="this run has"):
        run(given=given)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    train(path, steps=2)
    tensors, meta = checkpoint.load(path)
    checkpoint.save(path, tensors | {"model.table": torch.zeros(2, 2)}, meta | {"stopped": ""})
    with pytest.raises(CheckpointError, match=r"lacks 'model.table' of shape \[32, 16\]"):
        train(path)


def test_checkpoints_are_spaced_by_their_seconds(tmp_path, monkeypatch):
    events = Events()
    train(tmp_path / "state.safetensors", events, checkpoint_seconds=1e6)
    assert [values["step"] for values in events.of("checkpoint")] == [0, 30]
    assert engine.fit.__doc__
