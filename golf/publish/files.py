"""A run or a submission on disk: the names of its files, its result read back, the verdict of one check."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from golf.contracts import ArtifactError, DataError, QTensor, RunResult
from golf.pack import container

SCRIPT, ARTIFACT, TOKENIZER = "train_gpt.py", "artifact.golf", "tokenizer.model"
EVENTS, RESULT, WEIGHTS = "events.jsonl", "result.json", "weights.safetensors"
RECORD_SEEDS = 3  # that a record needs


# What the types of a result's fields are called when something else stands there.
KINDS = {
    "float": "a number", "int": "a number", "str": "text", "bool": "true or false",
    "dict[str, str]": "an object of texts",
}  # fmt: skip


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
    if not run.exists():
        raise DataError(f"{run} does not exist; give the folder of one seed, such as runs/<record>/1337")
    if not file.is_file():
        raise DataError(f"{run} holds no result.json; give the folder of one seed, such as runs/<record>/1337")
    try:
        values = json.loads(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file} is not a result of golf: {error}") from error
    return result_of(values, file)


def read_artifact(file: Path) -> tuple[dict[str, Any], dict[str, QTensor]]:
    """`container.load` of a file. Raises ArtifactError, naming it."""
    try:
        return container.load(file.read_bytes())
    except ArtifactError as error:
        raise type(error)(f"{file}: {error}") from error


def read_header(file: Path) -> dict[str, Any]:
    """`container.header` of a file. Raises ArtifactError, naming it."""
    try:
        return container.header(file.read_bytes())
    except ArtifactError as error:
        raise type(error)(f"{file}: {error}") from error


def result_of(values: Any, file: Path) -> RunResult:
    """A result from its plain values, also those of an older golf; fields it does not know are left out.

    Raises DataError, naming the file, for a field that is missing or of another type than a result's.
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
        value, wanted = getattr(result, name), KINDS.get(str(kind), "a number or nothing")
        if not _fits(value, wanted):
            raise DataError(f"{file} is not a result of golf: {name} is {value!r}, not {wanted}")
    return result


def _fits(value: Any, wanted: str) -> bool:
    if wanted == "text":
        return isinstance(value, str)
    if wanted == "true or false":
        return isinstance(value, bool)
    if wanted == "an object of texts":
        return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return number or (value is None and wanted != "a number")
