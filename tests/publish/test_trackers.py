"""Trackers see what the log holds."""

import pytest

from golf.contracts import Event, SpecError
from golf.publish import trackers
from golf.publish.submit import runs
from golf.publish.trackers import Tracking


class Kept:
    """A tracker that keeps what it is told."""

    package = "json"

    def __init__(self):
        self.name, self.recipe, self.rows, self.stopped = None, {}, [], 0

    def start(self, folder, name, recipe):
        self.name, self.recipe = name, recipe

    def numbers(self, values, step):
        self.rows.append((step, values))

    def stop(self):
        self.stopped += 1


def replay(tracking, events):
    for event in events:
        tracking(Event(event["event"], {name: value for name, value in event.items() if name != "event"}))
    tracking.close()


def test_curves_and_final_values(three, monkeypatch):
    monkeypatch.setitem(trackers.TRACKERS, "kept", Kept)
    run = runs.read(three / "1")
    tracking = Tracking("kept", run.path)
    replay(tracking, run.events)
    kept = tracking._tracker
    assert kept.name == "baseline-1" and kept.stopped == 1
    assert kept.recipe["train.matrix.lr"] == "0.025" and kept.recipe["quant.matrix"] == "GPTQ"
    losses = {step: values["train/loss"] for step, values in kept.rows if "train/loss" in values}
    assert losses == {event["step"]: event["loss"] for event in run.events if event["event"] == "step"}
    final = next(values for _, values in kept.rows if "score/sliding/bpb" in values)
    assert final["score/sliding/bpb"] == run.result.val_bpb
    assert next(values for _, values in kept.rows if "bytes/total" in values)["bytes/total"] == run.result.bytes_total


def test_a_run_that_never_began_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setitem(trackers.TRACKERS, "kept", Kept)
    tracking = Tracking("kept", tmp_path)
    replay(tracking, [{"event": "step", "step": 1, "loss": 2.0}])
    assert tracking._tracker.rows == [] and tracking._tracker.stopped == 0


def test_a_tracker_that_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(trackers.TensorBoard, "package", "no_such_package")
    with pytest.raises(SpecError, match=r"needs no_such_package: pip install"):
        Tracking("tensorboard", tmp_path)


def test_tensorboard_reads_it(three, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = runs.read(three / "1")
    replay(Tracking("tensorboard", tmp_path), run.events)
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    losses = {scalar.step: scalar.value for scalar in found.Scalars("train/loss")}
    wanted = {event["step"]: event["loss"] for event in run.events if event["event"] == "step"}
    assert losses == pytest.approx(wanted, rel=1e-6)
    assert found.Scalars("score/sliding/bpb")[0].value == pytest.approx(run.result.val_bpb, rel=1e-6)


def test_weights_and_biases_offline(three, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in ("WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    run = runs.read(three / "1")
    replay(Tracking("wandb", tmp_path / "run"), run.events)
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    assert file.stat().st_size > 0 and b"train/loss" in file.read_bytes()
