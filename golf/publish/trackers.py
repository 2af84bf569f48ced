"""Sinks for the trackers that people have: what the log holds anyway, where they are used to look at it.

`events.jsonl` stays the record of a run; a tracker sees the same numbers. Nothing leaves the machine: TensorBoard keeps
files, Weights & Biases is started offline (`wandb sync` sends what it wrote), and trackio has a database of its own
(`trackio show --project golf` opens it).
"""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from golf.contracts import Event, SpecError
from golf.publish.board import lineage

PROJECT = "golf"
# Event kinds with numbers worth a curve or a final value, and what they are called there.
CURVES, FINALS = {"step": "train"}, {"final": "score", "ledger": "bytes", "reserve": "reserve"}


class Tracker(Protocol):
    """A place for curves: numbers by step, the recipe, an end."""

    def start(self, folder: Path, name: str, recipe: Mapping[str, str]) -> None: ...

    def numbers(self, values: Mapping[str, float], step: int) -> None: ...

    def stop(self) -> None: ...


class TensorBoard:
    """Event files in the run's folder, under tensorboard/."""

    package = "tensorboard"

    def start(self, folder: Path, name: str, recipe: Mapping[str, str]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder / "tensorboard")
        rows = "\n".join(f"| {path} | {value} |" for path, value in recipe.items())
        self._writer.add_text("recipe", f"| field | value |\n|---|---|\n{rows}", 0)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def stop(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """An offline run in the run's folder, under wandb/."""

    package = "wandb"

    def start(self, folder: Path, name: str, recipe: Mapping[str, str]) -> None:
        import wandb

        quiet = wandb.Settings(silent=True)
        folder.mkdir(parents=True, exist_ok=True)
        about = {"project": PROJECT, "name": name, "config": dict(recipe)}
        self._run = wandb.init(**about, dir=folder, mode="offline", settings=quiet)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def stop(self) -> None:
        self._run.finish()


class Trackio:
    """A run in trackio's local database, below $TRACKIO_DIR or its cache. What it prints goes to stderr, because
    stdout may be somebody's JSON."""

    package = "trackio"

    def start(self, folder: Path, name: str, recipe: Mapping[str, str]) -> None:
        import trackio

        with contextlib.redirect_stdout(sys.stderr):
            about = {"project": PROJECT, "name": name, "config": dict(recipe)}
            self._run = trackio.init(**about, embed=False, auto_log_gpu=False, auto_log_cpu=False)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def stop(self) -> None:
        import trackio

        with contextlib.redirect_stdout(sys.stderr):
            trackio.finish()  # not the run's own: what is still open when Python ends says so on stdout


TRACKERS: dict[str, type[Any]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "trackio": Trackio}


class Tracking:
    """A sink that hands a run's numbers to a tracker. Rank 0 alone has one."""

    def __init__(self, name: str, folder: Path) -> None:
        """Raises SpecError when the tracker is not installed."""
        self._tracker: Tracker = TRACKERS[name]()
        package = self._tracker.package
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise SpecError(f"--tracker {name} needs {package}: pip install 'golf[track]'") from error
        self._folder, self._started, self._step = folder, False, 0

    def __call__(self, event: Event) -> None:
        kind, values = event.kind, event.values
        if kind == "model" and not self._started:
            name = f"{self._folder.parent.name}-{self._folder.name}"
            self._tracker.start(self._folder, name, dict(lineage.flat(values["recipe"])))
            self._started = True
        elif kind in CURVES:
            self._step = values["step"]
            self._numbers(CURVES[kind], values)
        elif kind in FINALS:
            what = f"{FINALS[kind]}/{values['what']}" if "what" in values else FINALS[kind]
            self._numbers(what, values)

    def _numbers(self, prefix: str, values: Mapping[str, Any]) -> None:
        numbers = {
            f"{prefix}/{name}": float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and name != "step" and math.isfinite(value)
        }
        if self._started:
            self._tracker.numbers(numbers, self._step)

    def close(self) -> None:
        if self._started:
            self._tracker.stop()
