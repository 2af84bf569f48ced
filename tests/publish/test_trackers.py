"""Trackers see what the log holds."""

import json
import os
import struct
import subprocess
import sys
import time

import pytest

from golf import cli
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


TRACKIO = """
import sys
from pathlib import Path
from golf.contracts import Event
from golf.publish.submit import runs
from golf.publish.trackers import Tracking

tracking = Tracking("trackio", Path(sys.argv[2]) / "1")
for event in runs.read(Path(sys.argv[1])).events:
    tracking(Event(event["event"], {name: value for name, value in event.items() if name != "event"}))
tracking.close()

"""
READ = "import sys; from trackio.cli import main; sys.argv[0] = 'trackio'; main()"


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


def test_the_command_offers_every_tracker():
    assert set(cli.TRACKER.choices) == set(trackers.TRACKERS)


def steps(run):
    return {event["step"]: event["loss"] for event in run.events if event["event"] == "step"}


def log_records(data):
    """Whole records of a LevelDB log, which a .wandb file is behind its first seven bytes."""
    place, record = 0, b""
    while place + 7 <= len(data):
        left = 32768 - (place + 7) % 32768  # blocks count from the beginning of the file
        if left < 7:
            place += left
            continue
        size, kind = struct.unpack_from("<HB", data, place + 4)
        if place + 7 + size > len(data):
            return
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or its last piece
            yield record
            record = b""


def losses(file):
    """Training loss by step in a .wandb file."""
    from wandb.proto import wandb_internal_pb2

    found = {}
    for data in log_records(file.read_bytes()[7:]):
        items = wandb_internal_pb2.Record.FromString(data).history.item
        row = {item.key or "".join(item.nested_key): json.loads(item.value_json) for item in items}
        if "train/loss" in row:
            found[row["_step"]] = row["train/loss"]
    return found


def test_weights_and_biases_offline(three, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in ("WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    run = runs.read(three / "1")
    replay(Tracking("wandb", tmp_path / "run"), run.events)
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    for _ in range(300):  # what it started writes the file, and is not always done when the run is finished
        if len(found := losses(file)) == len(steps(run)):
            break
        time.sleep(0.1)
    assert found == pytest.approx(steps(run))


def test_trackio_on_this_machine(three, tmp_path):
    """In a process of its own, which reads its folder from the environment when it is imported."""
    pytest.importorskip("trackio")
    there = os.environ | {"TRACKIO_DIR": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}

    def python(*words):
        done = subprocess.run([sys.executable, "-c", *words], env=there, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert python(TRACKIO, str(three / "1"), str(tmp_path / "run")) == ""  # stdout may be a result as JSON
    wanted = "get metric --project golf --run run-1 --metric train/loss --json"
    found = {row["step"]: row["value"] for row in json.loads(python(READ, *wanted.split()))["values"]}
    assert found == pytest.approx(steps(runs.read(three / "1")))
