"""`golf check`: the byte ledger and the required files of a run, recomputed from what lies on disk."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

from golf import track as tracks
from golf.contracts import ByteLedger
from golf.publish.files import ARTIFACT, EVENTS, RESULT, SCRIPT, TOKENIZER, WEIGHTS, Verdict, read_artifact, read_result
from golf.publish.submit import runs

REQUIRED = (RESULT, ARTIFACT, TOKENIZER, SCRIPT, EVENTS, WEIGHTS)


def check_run(run: Path) -> tuple[ByteLedger, list[Verdict]]:
    """The ledger of a run folder and every verdict on it; nothing is taken from result.json that a file can tell."""
    result = read_result(run)
    track = tracks.find(result.track)
    missing = [name for name in REQUIRED if not (run / name).is_file()]
    sizes = {name: (run / name).stat().st_size for name in REQUIRED if name not in missing}
    tokenizer = sizes.get(TOKENIZER, 0)
    ledger = ByteLedger(
        code=sizes.get(SCRIPT, 0),
        blob=sizes.get(ARTIFACT, 0),
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
    if ARTIFACT in sizes:
        data = (run / ARTIFACT).read_bytes()
        about, _ = read_artifact(run / ARTIFACT)
        found, scored = hashlib.sha256(data).hexdigest(), result.artifact_sha256
        verdicts.append(Verdict("artifact as scored", found == scored, f"{found[:16]} / {scored[:16]}"))
        if TOKENIZER in sizes:
            spelled = hashlib.sha256((run / TOKENIZER).read_bytes()).hexdigest()
            wanted = about.get("tokenizer_sha256", "")
            verdicts.append(Verdict("tokenizer as trained", spelled == wanted, f"{spelled[:16]} / {wanted[:16]}"))
    if WEIGHTS in sizes and result.weights_sha256:
        with open(run / WEIGHTS, "rb") as file:  # too large to be held as well
            found = hashlib.file_digest(file, "sha256").hexdigest()
        good = found == result.weights_sha256
        verdicts.append(Verdict("weights as trained", good, f"{found[:16]} / {result.weights_sha256[:16]}"))
    again = result.val_loss / math.log(2) * result.tokens_scored / result.bytes_scored
    verdicts.append(
        Verdict("loss and score agree", abs(again - result.val_bpb) < 1e-6, f"{again:.8f} / {result.val_bpb:.8f}")
    )
    overruns = track.overruns(result.train_seconds, result.eval_seconds)
    clock = f"training {result.train_seconds:.1f} s, evaluation {result.eval_seconds:.1f} s"
    verdicts.append(Verdict("within the clocks", not overruns, "; ".join(overruns) or clock))
    if EVENTS in sizes and any(event.get("replayed") for event in runs.events(run / EVENTS)):
        verdicts.append(Verdict("clock", False, "another run's, replayed; what these steps took here is not noted"))
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
