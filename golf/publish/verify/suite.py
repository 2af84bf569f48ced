"""`golf verify`: run a submission in a clean place and put every condition to the test."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from golf.contracts import DataError, Sink, emit
from golf.eval.validity.verdict import Status, Verdict, merge, unchecked
from golf.publish.files import RESULT
from golf.publish.verify import data as verify_data
from golf.publish.verify import foreign as verify_foreign
from golf.publish.verify import loop as verify_loop
from golf.publish.verify import predictor as verify_predictor
from golf.publish.verify import rescore as verify_rescore
from golf.publish.verify import runs as verify_runs
from golf.publish.verify import static as verify_static
from golf.publish.verify.packages import packaged_files
from golf.publish.verify.process import Scoring
from golf.publish.verify.subject import Subject
from golf.publish.verify.training import Training


@dataclass(frozen=True, kw_only=True)
class Tier:
    """How long to look. probe: seconds for the checks of one kind by perturbation.  rescore: a whole scoring that is
    expected to take longer is replaced by a sample.  total: seconds after which no scoring of everything should still
    go on; a quarter of `rescore` it has in any case.  scan: seconds for reading the training text.  retrain: seconds
    for training that begins again under watch; 0: it does not.  whole: also in the batches of the script.  window:
    golf's own models look no farther back while it is tried what their predictions depend on, but for one excerpt
    (None: always as far as they do)."""

    name: str
    runs: bool = True
    probe: float = 10.0
    rescore: float = 40.0
    total: float = float("inf")
    scan: float = 15.0
    retrain: float = 0.0
    whole: bool = False
    window: int | None = None

    def after(self, seconds: float) -> Tier:
        """What is left of it once so many have passed."""
        return replace(self, rescore=min(self.rescore, max(self.rescore / 4, self.total - seconds)))


TIERS = {
    tier.name: tier
    for tier in (
        Tier(name="static", runs=False, probe=0.0, rescore=0.0, scan=0.0),
        Tier(name="quick", probe=4.0, rescore=60.0, total=100.0, scan=15.0, retrain=90.0, window=256),
        Tier(name="full", probe=60.0, rescore=36_000.0, scan=36_000.0, retrain=600.0, whole=True),
    )
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that was found. facts: what the pages show beside the verdicts."""

    name: str
    kind: str
    tier: str
    verdicts: list[Verdict]
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return all(verdict.status is not Status.FAIL for verdict in self.verdicts)


def open_subject(path: Path, data: Path | None = None, seed: int | None = None) -> Subject:
    """A golf run, a golf submission, or a foreign folder with a manifest. Raises DataError for anything else."""
    if (path / verify_foreign.MANIFEST).is_file():
        return verify_foreign.open_foreign(path)
    if (path / RESULT).is_file():
        return verify_runs.open_run(path, data)
    if (path / verify_runs.METADATA).is_file():
        return verify_runs.open_submission(path, data, seed)
    raise DataError(
        f"{path} holds neither {RESULT} (a run) nor {verify_runs.METADATA} (a submission) nor "
        f"{verify_foreign.MANIFEST}; describe a foreign submission in the last, see docs/verify.md"
    )


def verify(subject: Subject, tier: Tier, sink: Sink, *, draw_seed: int = 0) -> Report:
    """Every check the tier affords. What the submission's process does wrong is a verdict, never an exception."""
    begin = time.monotonic()

    def spent() -> float:
        return time.monotonic() - begin

    facts: dict[str, Any] = {"isolation": "the submission was not run"}
    verdicts = list(verify_static.checks(subject))
    if tier.window and subject.kind != "foreign" and (subject.context or 0) > tier.window:
        subject.probe = tier.window
    stages: list[tuple[str, Callable[[], Iterator[Verdict]]]] = [
        ("bytes", lambda: verify_data.accounting_checks(subject, facts)),
        ("split", lambda: verify_data.split_checks(subject, tier.scan)),
    ]
    if tier.runs:
        process = Scoring(subject, threads=min(2, os.cpu_count() or 1), packaged=packaged_files())
        draw = np.random.default_rng(draw_seed)
        stages += [
            ("transform", lambda: verify_data.transform(subject)),
            ("predictor", lambda: verify_predictor.predictor(subject, process, tier, draw, facts)),
            ("own loop", lambda: verify_loop.loop(subject, process, tier, draw, facts)),
            ("score", lambda: verify_rescore.checks(subject, process, tier.after(spent()), draw, facts)),
            ("process", lambda: process.verdicts()),
        ]
    with contextlib.ExitStack() as stack:
        if tier.runs:
            stack.callback(process.close)
        if tier.retrain:
            training = Training(subject, tier.retrain, tier.whole)
            stack.callback(training.close)
            stages.append(("training", training.verdicts))
        for number, (what, stage) in enumerate(stages):
            emit(sink, "verify", what=what, done=number, total=len(stages))
            verdicts += stage()
    emit(sink, "verify", what="done", done=len(stages), total=len(stages))
    if not tier.runs:
        verdicts += [unchecked(check, "the static tier runs nothing") for check in RUN_CHECKS]
    return Report(
        name=subject.name, kind=subject.kind, tier=tier.name, verdicts=merge(verdicts), facts=facts,
        seconds=spent(),
    )  # fmt: skip


RUN_CHECKS = ("C1a", "C1b", "C1c", "C1d", "C1e", "C2a", "C2b", "C2c", "C2d", "C3a", "C3b", "C3c", "C4a", "C4b",
              "A2", "A4", "S4", "D3", "D4", "T3")  # fmt: skip
