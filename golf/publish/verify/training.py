"""A run's script begins its training again, under watch: D3, no validation file is opened."""

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
from golf.eval.validity.verdict import Verdict, unchecked
from golf.publish.verify.sandbox import ENVIRONMENT
from golf.publish.verify.subject import Subject

AUDIT = Path(__file__).with_name("audit.py")
LIMIT_SECONDS = 600.0
# Warm-up happens inside the script, which has no switch for it.
NO_SWITCH = "a script cannot be told to leave its warm-up out; what golf's leaves behind is compared in tests/train"


def checks(subject: Subject) -> Iterator[Verdict]:
    """D3 and T3, or why they could not be made."""
    yield unchecked("T3", NO_SWITCH)
    if not subject.retrain:
        yield unchecked("D3", "golf does not know how to train it")
        return
    if not subject.val_files or not subject.train_files:
        yield unchecked("D3", "the corpus it was trained on is not on this machine")
        return
    events, words = train(Path(subject.retrain))
    opened = [event for event in events if event.get("phase") == "training"]
    if not any(event["event"] == "step" for event in events):
        yield unchecked("D3", f"the script did not train again: {words}")
        return
    steps = [event["path"] for event in events if event["event"] == "step"]
    yield access.phase("D3", opened, subject.val_files, f"training again up to {steps[-1].split()[0]}")


def train(script: Path) -> tuple[list[dict[str, Any]], str]:
    """(files opened, with their phase, and steps told; the script's last words). Ends with the second step told."""
    with tempfile.TemporaryDirectory(prefix="golf-verify-") as temporary:
        home = Path(temporary)
        with open(home / "events", "w+b") as report, open(home / "said", "w+b") as said:
            command = [sys.executable, "-I", "-B", str(AUDIT), str(report.fileno()), str(script)]
            environment = ENVIRONMENT | {"PATH": os.defpath, "GOLF_CACHE": str(hosts.cache_folder())}
            process = subprocess.Popen(
                [*command, "--seed", "1", "--out", str(home / "out")], stdin=subprocess.DEVNULL, stdout=said,
                stderr=said, env=environment, cwd=home, pass_fds=(report.fileno(),), start_new_session=True,
            )  # fmt: skip
            until = time.monotonic() + LIMIT_SECONDS
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.2)
                if (home / "events").read_bytes().count(b'"event": "step"') >= 2:
                    break
            if process.poll() is None:
                process.kill()
            process.wait()
            lines = (home / "events").read_bytes().splitlines()
            words = (home / "said").read_text(errors="replace").strip().splitlines()
        return [json.loads(line) for line in lines if line.endswith(b"}")], words[-1] if words else "nothing"
