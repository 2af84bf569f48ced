"""A run or a submission on disk: the names of its files, its result read back, the verdict of one check."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from golf.contracts import DataError, RunResult

SCRIPT, ARTIFACT, TOKENIZER = "train_gpt.py", "artifact.golf", "tokenizer.model"
EVENTS, RESULT, WEIGHTS = "events.jsonl", "result.json", "weights.safetensors"
RECORD_SEEDS = 3  # that a record needs


@dataclass(frozen=True)
class Verdict:
    """One check: what was looked at, whether it holds (None: cannot be told from what is there), and the two numbers
    or names behind that."""

    what: str
    ok: bool | None
    why: str


def read_result(run: Path) -> RunResult:
    """`result.json` of a run folder. Raises DataError when it is missing, malformed or lacks a field."""
    file = run / RESULT
    if not file.is_file():
        raise DataError(f"{run} holds no result.json; give the folder of one seed, such as runs/<record>/1337")
    try:
        return result_of(json.loads(file.read_bytes()), file)
    except ValueError as error:
        raise DataError(f"{file} is not a result of golf: {error}") from error


def result_of(values: Any, file: Path) -> RunResult:
    """A result from its plain values, also those of an older golf; fields it does not know are left out.

    Raises DataError, naming the file, for a field that is missing or no number.
    """
    if not isinstance(values, dict):
        raise DataError(f"{file} is not a result of golf: it holds {type(values).__name__}, not an object of fields")
    known = {field.name: field.type for field in fields(RunResult)}
    if "train_tokens" in values:  # before conversations could mask some, every token trained on was a target
        values = {"supervised_tokens": values["train_tokens"], **values}
    lacking = [field.name for field in fields(RunResult) if field.default is MISSING and field.name not in values]
    if lacking:
        raise DataError(f"{file} is not a result of golf: it lacks {', '.join(lacking)}")
    result = RunResult(**{name: value for name, value in values.items() if name in known})
    for name, kind in known.items():
        value = getattr(result, name)
        if kind in ("float", "int") and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise DataError(f"{file} is not a result of golf: {name} is {value!r}, not a number")
    return result
