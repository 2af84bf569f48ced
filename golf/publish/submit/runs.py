"""Run folders on disk: which there are, what happened in them, and the log another person greps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.contracts import DataError, Event, RunResult
from golf.events import lines
from golf.publish.files import read_result

EVENTS, RESULT, SEEDS = "events.jsonl", "result.json", "results.json"
PROGRESS = ("score", "data", "fetch")  # how far a stage has come, several times a second


@dataclass(frozen=True)
class Run:
    """One finished seed."""

    path: Path
    result: RunResult
    events: Sequence[dict[str, Any]]

    def event(self, kind: str, **values: Any) -> dict[str, Any]:
        """The last event of a kind with these values; empty when there is none."""
        wanted = {"event": kind, **values}.items()
        return next((event for event in reversed(self.events) if wanted <= _plain(event).items()), {})

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe as plain values; empty when the log does not hold it."""
        return self.event("model").get("recipe", {})


def _plain(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if isinstance(value, str | int | float)}


def find(folders: Iterable[Path]) -> list[Path]:
    """The folders of single seeds among and right below `folders`, in the order of their seeds' numbers.

    Raises DataError for a folder that holds no finished run.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        below = [folder] if (folder / RESULT).is_file() else sorted(p.parent for p in folder.glob(f"*/{RESULT}"))
        if not below:
            raise DataError(f"{folder} holds no finished run; give OUT or OUT/<seed> of `golf run`")
        found |= dict.fromkeys(below)
    return sorted(found, key=lambda path: (len(path.name), path.name))


def read(folder: Path) -> Run:
    """A finished seed. Raises DataError when its result or its events are missing or malformed."""
    return Run(folder, read_result(folder), events(folder / EVENTS))


def events(file: Path) -> list[dict[str, Any]]:
    """The events of a run; a last line cut off by a kill is left out. Raises DataError for other damage."""
    if not file.is_file():
        raise DataError(f"{file} is missing; without it nobody can see what the run did")
    found, rows = [], file.read_bytes().splitlines(keepends=True)
    for number, row in enumerate(rows, 1):
        try:
            event = json.loads(row)
        except ValueError as error:
            if number == len(rows) and not row.endswith(b"\n"):
                break
            raise DataError(f"{file}:{number} is not JSON: {error}") from error
        if not isinstance(event, dict) or "event" not in event:
            raise DataError(f"{file}:{number} is no event: {str(event)[:40]}")
        found.append(event)
    return found


def logged(folder: Path) -> dict[str, str]:
    """What another run of a seed needs and only its log holds: the hash of the code, and the clock where the seed ended
    by its own."""
    facts = {}
    for event in events(folder / EVENTS) if (folder / EVENTS).is_file() else ():
        if event["event"] == "model":
            facts["code_sha256"] = event["code_sha256"]
        elif event["event"] == "clock" and not event["replayed"]:
            facts["clock"] = event["seconds"]
    return facts


def same(runs: Sequence[Run], what: str, values: Iterable[Any]) -> Any:
    """The one value that all runs share. Raises DataError when they differ."""
    values = list(values)
    for run, value in zip(runs, values):
        if value != values[0]:
            raise DataError(
                f"{run.path} has another {what} ({str(value)[:16]}) than {runs[0].path} ({str(values[0])[:16]}); one "
                "submission is one recipe, one code and one corpus"
            )
    return values[0]


def log(run: Run) -> str:
    """Everything that happened in a run, as lines; those that readers of the challenge's logs look for are spelled
    their way, the rest as `event: <kind> {values}`. Progress is left out: it says nothing afterwards. Folders of the
    machine are scrubbed."""
    text = "\n".join(_log_lines(run)) + "\n"
    for folder, short in ((str(run.path.resolve()), "."), (str(run.path), "."), (str(Path.home()), "~")):
        if len(folder) > 1:
            text = text.replace(f"{folder}/", f"{short}/")
    return text


def _log_lines(run: Run) -> Iterator[str]:
    written: list[str] = []
    spell = lines(written.append)
    for event in run.events:
        kind, values = event["event"], {k: v for k, v in event.items() if k != "event"}
        if kind in PROGRESS:
            continue
        written.clear()
        spell(Event(kind, values))
        yield from written or [f"event: {kind} {json.dumps(values)}"]
        yield from _challenge(run, kind, values)


def _challenge(run: Run, kind: str, values: dict[str, Any]) -> Iterator[str]:
    """Lines in the challenge's own spelling, behind those of golf."""
    result = run.result
    if kind == "corpus":
        yield f"train_shards: {values['train_shards']}"
        yield f"val_tokens:{result.tokens_scored}"
    elif kind == "model":
        yield f"recipe_values: {json.dumps(values['recipe'])}"
    elif kind == "train_end":
        clock = f"train_time:{values['seconds'] * 1000:.0f}ms step:{values['step']}"
        if values["stopped"] == "seconds":
            yield f"stopping_early: wallclock_cap {clock}"
    elif kind == "final" and values["what"] == "unquantized":
        score = f"val_loss:{values['loss']:.8f} val_bpb:{values['bpb']:.8f}"
        yield f"step:{result.steps} {score} (averaged weights before quantization)"
