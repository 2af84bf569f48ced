"""A run's script begins its training again, under watch: D3, no validation file is opened; T3, warm-up leaves no trace.

Twice side by side, on the script's own recipe with the smallest of batches: with its warm-up, and without. From the
first step on the two have the same weights to the last bit, or what is done before the clock starts is training.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from golf import host as hosts
from golf.eval.validity import access, warmup
from golf.eval.validity.verdict import Verdict, unchecked
from golf.publish.verify.sandbox import ENVIRONMENT
from golf.publish.verify.subject import Subject

AUDIT = Path(__file__).with_name("audit.py")
# What each mode of `audit` has to tell before it has told enough.
STEPS = 2
ENOUGH = {"bare": ("over", 1), "warm": ("step", STEPS), "whole": ("step", STEPS)}


class Training:
    """Training begun again; it is under way from when this is made, beside whatever else is checked, until `close`."""

    def __init__(self, subject: Subject, seconds: float, whole: bool) -> None:
        """seconds: that it may take.  whole: also in the batches of the script, for two of the steps it tells."""
        self._subject, self._begin, self._seconds = subject, time.monotonic(), seconds
        self._process, self._home = None, tempfile.TemporaryDirectory(prefix="golf-verify-")
        self._modes = ("bare", "warm", "whole") if whole else ("bare", "warm")
        if not subject.retrain:
            self._why = "only scripts of golf's are trained again, and this submission names none"
        elif not (subject.val_files and subject.train_files):
            self._why = "the corpus it was trained on is not on this machine"
        else:
            self._why, self._process = "", self._start(Path(subject.retrain))

    def _start(self, script: Path) -> subprocess.Popen:
        home = Path(self._home.name)
        environment = ENVIRONMENT | {"PATH": os.defpath, "GOLF_CACHE": str(hosts.cache_folder())}
        environment |= {"OMP_NUM_THREADS": "1"}  # the last bit must not depend on how work is shared
        with open(home / "events", "wb") as report, open(home / "said", "wb") as said:
            command = [sys.executable, "-I", "-B", str(AUDIT), str(report.fileno()), ",".join(self._modes), str(script)]
            return subprocess.Popen(
                [*command, "--seed", "1", "--out", str(home / "out")], stdin=subprocess.DEVNULL, stdout=said,
                stderr=said, env=environment, cwd=home, pass_fds=(report.fileno(),), start_new_session=True,
            )  # fmt: skip

    def verdicts(self) -> Iterator[Verdict]:
        """D3 and T3, or why they could not be made. Waits until enough is told."""
        if self._why:
            yield from (unchecked(check, self._why) for check in ("D3", "T3"))
            return
        until = self._begin + self._seconds
        while self._process.poll() is None and time.monotonic() < until and not all(map(self._enough, self._modes)):
            time.sleep(0.1)
        events = self._events()
        steps = {mode: [each for each in events if each["mode"] == mode and each["event"] == "step"]
                 for mode in self._modes}  # fmt: skip
        if min(map(len, steps.values())) < STEPS:
            why = f"the script did not train again in {time.monotonic() - self._begin:.0f} s: {self._last_words()}"
            yield from (unchecked(check, why) for check in ("D3", "T3"))
            return
        lengths = {each["mode"]: int(each["path"]) for each in events if each["event"] == "warmup"}
        yield warmup.pure({lengths[mode]: steps[mode] for mode in lengths})
        opened = [event for event in events if event.get("phase") == "training"]
        reached = "weights are fitted" if self._enough("bare") else f"step {STEPS}"
        yield access.phase("D3", opened, self._subject.val_files, f"training again until {reached}")

    def close(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._home.cleanup()

    def _events(self) -> list[dict[str, Any]]:
        lines = Path(self._home.name, "events").read_bytes().splitlines()
        return [json.loads(line) for line in lines if line.endswith(b"}")]

    def _enough(self, mode: str) -> bool:
        """Whether a mode has told all that is wanted of it."""
        what, times = ENOUGH[mode]
        return sum(each["event"] == what and each["mode"] == mode for each in self._events()) >= times

    def _last_words(self) -> str:
        words = Path(self._home.name, "said").read_text(errors="replace").strip().splitlines()
        return words[-1] if words else "nothing"
