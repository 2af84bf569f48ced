"""`golf check`: the byte ledger and the required files of a run, recomputed from what lies on disk."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from golf import track as tracks
from golf.contracts import ByteLedger, DataError, RunResult
from golf.pack import container

REQUIRED = ("result.json", "artifact.golf", "tokenizer.model", "train_gpt.py", "events.jsonl", "weights.safetensors")


@dataclass(frozen=True)
class Verdict:
    """One check: what was looked at, whether it holds (None: cannot be told from what is there), and the two numbers
    or names behind that."""

    what: str
    ok: bool | None
    why: str


def read_result(run: Path) -> RunResult:
    """`result.json` of a run folder. Raises DataError when it is missing, malformed or lacks a field."""
    file = run / "result.json"
    if not file.is_file():
        raise DataError(f"{run} holds no result.json; give the folder of one seed, such as runs/<record>/1337")
    try:
        return result_of(json.loads(file.read_bytes()), file)
    except ValueError as error:
        raise DataError(f"{file} is not a result of golf: {error}") from error


def result_of(values: Any, file: Path) -> RunResult:
    """A result from its plain values. Raises DataError, naming the file, for a field that is missing or no number."""
    known = {field.name: field.type for field in fields(RunResult)}
    try:
        result = RunResult(**{name: value for name, value in values.items() if name in known})
    except (TypeError, AttributeError) as error:
        raise DataError(f"{file} is not a result of golf: {error}") from error
    for name, kind in known.items():
        value = getattr(result, name)
        if kind in ("float", "int") and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise DataError(f"{file} is not a result of golf: {name} is {value!r}, not a number")
    return result


def check_run(run: Path) -> tuple[ByteLedger, list[Verdict]]:
    """The ledger of a run folder and every verdict on it; nothing is taken from result.json that a file can tell."""
    result = read_result(run)
    track = tracks.find(result.track)
    missing = [name for name in REQUIRED if not (run / name).is_file()]
    sizes = {name: (run / name).stat().st_size for name in REQUIRED if name not in missing}
    tokenizer = sizes.get("tokenizer.model", 0)
    ledger = ByteLedger(
        code=sizes.get("train_gpt.py", 0),
        blob=sizes.get("artifact.golf", 0),
        cap=track.cap_bytes,
        tokenizer=tokenizer if result.tokenizer_counted else 0,
        tokenizer_shown=0 if result.tokenizer_counted else tokenizer,
    )
    verdicts = [Verdict("required files", not missing, f"missing {', '.join(missing)}" if missing else "all there")]
    verdicts.append(
        Verdict("under the cap", ledger.headroom >= 0, f"{ledger.total:,} of {ledger.cap:,}, {ledger.headroom:,} left")
    )
    written = (result.bytes_total, result.bytes_code, result.bytes_model)
    counted = (ledger.total, ledger.code, ledger.blob)
    verdicts.append(Verdict("bytes as reported", written == counted, f"reported {written}, on disk {counted}"))
    if "artifact.golf" in sizes:
        data = (run / "artifact.golf").read_bytes()
        about, _ = container.load(data)
        found, scored = hashlib.sha256(data).hexdigest(), result.artifact_sha256
        verdicts.append(Verdict("artifact as scored", found == scored, f"{found[:16]} / {scored[:16]}"))
        if "tokenizer.model" in sizes:
            spelled = hashlib.sha256((run / "tokenizer.model").read_bytes()).hexdigest()
            wanted = about.get("tokenizer_sha256", "")
            verdicts.append(Verdict("tokenizer as trained", spelled == wanted, f"{spelled[:16]} / {wanted[:16]}"))
    again = result.val_loss / math.log(2) * result.tokens_scored / result.bytes_scored
    verdicts.append(
        Verdict("loss and score agree", abs(again - result.val_bpb) < 1e-6, f"{again:.8f} / {result.val_bpb:.8f}")
    )
    overruns = track.overruns(result.train_seconds, result.eval_seconds)
    clock = f"training {result.train_seconds:.1f} s, evaluation {result.eval_seconds:.1f} s"
    verdicts.append(Verdict("within the clocks", not overruns, "; ".join(overruns) or clock))
    return ledger, verdicts


def check(path: Path) -> tuple[ByteLedger | None, list[Verdict]]:
    """`check_run` of a run folder, or what fits a submission's folder, a record of golf or a bare metadata file."""
    from golf.publish.submit import check_submission as submissions

    if path.is_file():
        return submissions.check_metadata(path)
    if (path / "submission.json").is_file():
        return submissions.check_submission(path)
    if (path / "recipe.py").is_file():
        return submissions.check_record(path)
    return check_run(path)
