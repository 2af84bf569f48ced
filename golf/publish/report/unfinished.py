"""The page of a run that was interrupted or still goes on: what its log holds so far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.publish.board import lineage
from golf.publish.files import EVENTS, RESULT
from golf.publish.render import render
from golf.publish.report.figures import Plots
from golf.publish.submit import runs


@dataclass(frozen=True)
class Unfinished:
    """A run folder with a log and no result."""

    path: Path
    label: str
    events: list[dict[str, Any]]

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == "step"]

    @property
    def recipe(self) -> dict[str, Any]:
        return next((event["recipe"] for event in reversed(self.events) if event["event"] == "model"), {})

    @property
    def stopped(self) -> str:
        """How far it came, in words."""
        last = self.steps[-1] if self.steps else None
        trained = any(event["event"] == "train_end" for event in self.events)
        if trained:
            return "Training has ended; quantizing, packing and scoring have not."
        if last is None:
            return "No step of training is in its log."
        return f"Step {last['step']:,} is the last in its log, {100 * last['progress']:.0f} % of training."


def is_unfinished(path: Path) -> bool:
    """Whether a folder has a run's log and no result."""
    return (path / EVENTS).is_file() and not (path / RESULT).is_file()


def read(path: Path, label: str) -> Unfinished:
    """The run of such a folder. Raises DataError for a damaged log; a last line cut off by a kill is left out."""
    return Unfinished(path, label, runs.events(path / EVENTS))


def page(run: Unfinished) -> str:
    """Its curves so far and its recipe, as an HTML document that needs nothing else."""
    curves = Plots([run]).curves() if run.steps else []
    captions = [(part, lineage.caption(spec)) for part, spec in run.recipe.items() if isinstance(spec, dict)]
    return render("unfinished.html.j2", run=run, curves=curves, captions=captions)


def values(run: Unfinished) -> dict[str, Any]:
    """The same as plain values, for --json."""
    return {"run": str(run.path), "unfinished": run.stopped, "steps": run.steps}
