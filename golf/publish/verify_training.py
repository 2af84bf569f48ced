"""A run's script trained again for two steps, under watch: D3 (opens no validation file) and T3 (pure warm-up)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from golf import host as hosts
from golf.eval.validity import access
from golf.eval.validity.verdict import Verdict, failed, passed, unchecked
from golf.publish.verify_sandbox import ENVIRONMENT
from golf.publish.verify_subject import Subject

AUDIT = Path(__file__).with_name("verify_audit.py")
STEPS, LIMIT_SECONDS = 2, 600.0


def checks(subject: Subject) -> Iterator[Verdict]:
    """Both checks, or why they could not be made."""
    if not subject.retrain:
        yield from (unchecked(check, "golf does not know how to train it for a few steps") for check in ("D3", "T3"))
        return
    if not subject.val_files or not subject.train_files:
        yield from (unchecked(check, "the corpus it was trained on is not on this machine") for check in ("D3", "T3"))
        return
    losses: dict[int, float | None] = {}
    for warmup in (0, 3):
        events, losses[warmup], words = train(Path(subject.retrain), warmup)
        if losses[warmup] is None:
            yield from (unchecked(check, f"the script did not train again: {words}") for check in ("D3", "T3"))
            return
    opened = [event for event in events if event.get("phase") == "training"]
    yield access.phase("D3", opened, subject.val_files, f"training for {STEPS} steps")
    if losses[0] != losses[3]:
        why = f"the loss after {STEPS} steps is {losses[0]} without warm-up and {losses[3]} with"
        yield failed("T3", why, numbers=[losses[0], losses[3]])
    else:
        yield passed("T3", f"the loss after {STEPS} steps is {losses[0]} to the last bit, with and without warm-up")


def train(script: Path, warmup: int) -> tuple[list[dict[str, Any]], float | None, str]:
    """(files opened, with their phase; loss after the last step; the script's last words)."""
    with tempfile.TemporaryDirectory(prefix="golf-verify-") as temporary:
        home = Path(temporary)
        with open(home / "events", "w+b") as report, open(home / "said", "w+b") as said:
            settings = ["train.seconds=none", f"train.steps={STEPS}", f"train.warmup_steps={warmup}"]
            flags = [word for setting in settings for word in ("--set", setting)]
            command = [sys.executable, "-I", "-B", str(AUDIT), str(report.fileno()), str(script), *flags]
            environment = ENVIRONMENT | {"PATH": os.defpath, "GOLF_CACHE": str(hosts.cache_folder())}
            process = subprocess.Popen(
                [*command, "--seed", "1", "--out", str(home / "out")], stdin=subprocess.DEVNULL, stdout=said,
                stderr=said, env=environment, cwd=home, pass_fds=(report.fileno(),), start_new_session=True,
            )  # fmt: skip
            until = time.monotonic() + LIMIT_SECONDS
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.2)
                if b'"phase"' in (home / "events").read_bytes()[-400:] and _over(home / "events"):
                    break
            if process.poll() is None:
                process.kill()
            process.wait()
            events = [json.loads(line) for line in (home / "events").read_bytes().splitlines() if line.endswith(b"}")]
            lines = (home / "said").read_text(errors="replace").strip().splitlines()
        return events, _loss(home / "out" / "1" / "events.jsonl"), lines[-1] if lines else "nothing"


def _over(file: Path) -> bool:
    return b'"event": "phase"' in file.read_bytes()


def _loss(file: Path) -> float | None:
    """The loss that training ended with, in full precision."""
    if file.is_file():
        for line in file.read_text().splitlines():
            if line.endswith("}") and (values := json.loads(line)).get("event") == "train_end":
                return values["loss"]
    return None
