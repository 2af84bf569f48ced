"""What `golf verify` found: a table for the terminal, JSON for programs, a page with the evidence for everyone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from golf.eval.validity.verdict import TITLES, Status, Verdict
from golf.publish.render import render
from golf.publish.verify.suite import Report

GROUPS = {
    "C": "The score: causal, from whole distributions, before anything is learned, once",
    "B": "The bytes it is divided by",
    "D": "The data: apart, and the one it is said to be",
    "A": "The artifact: size, self-contained, safe",
    "T": "The clocks",
    "S": "The claim: seeds, significance, logs, the score again",
}
# What the page tells of how a submission was looked at, besides the place it ran in.
FACTS = {
    "probe_targets": "targets of an excerpt that is changed and predicted again",
    "excerpt_targets": "targets of an excerpt of the score",
    "seconds_per_excerpt": "seconds that such an excerpt takes",
    "seconds_expected_its_own_loop": "seconds expected for everything by its own loop",
    "seconds_expected_through_the_driver": "seconds expected for everything through the driver",
    "rescore_seconds": "seconds that everything took by its own loop",
    "val_loss": "nats a token, scored again",
}
STYLES = {Status.PASS: "green", Status.FAIL: "bold red", Status.NOT_APPLICABLE: "dim", Status.NOT_CHECKED: "yellow"}


def summary(report: Report) -> str:
    """The verdicts counted, in words."""
    counts = Counter(verdict.status for verdict in report.verdicts)
    words = {Status.PASS: "passed", Status.FAIL: "failed", Status.NOT_APPLICABLE: "not applicable",
             Status.NOT_CHECKED: "not checked"}  # fmt: skip
    return ", ".join(f"{counts[status]} {word}" for status, word in words.items() if counts[status])


def table(report: Report) -> Table:
    """One row a check; what is wrong is told in full, all else in one line."""
    shown = Table(
        title=f"{report.name}  {report.tier} tier, {report.seconds:.0f} s", title_justify="left",
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=summary(report), caption_justify="left",
    )  # fmt: skip
    shown.add_column("", no_wrap=True)
    shown.add_column("condition", no_wrap=True)
    shown.add_column("verdict", no_wrap=True)
    shown.add_column("why", ratio=1)
    for verdict in report.verdicts:
        style = STYLES[verdict.status]
        words = verdict.status.value.upper() if verdict.status is Status.FAIL else verdict.status.value
        wrong = verdict.status is Status.FAIL
        why = Text(verdict.why, no_wrap=not wrong, overflow="fold" if wrong else "ellipsis")
        shown.add_row(verdict.check, TITLES[verdict.check], f"[{style}]{words}", why)
    return shown


def values(report: Report) -> dict[str, Any]:
    """The report as plain JSON values."""
    return {
        "ok": report.ok,
        "name": report.name,
        "kind": report.kind,
        "tier": report.tier,
        "seconds": report.seconds,
        "summary": summary(report),
        "checks": [plain(verdict) for verdict in report.verdicts],
        "facts": jsonable(report.facts),
    }


def plain(verdict: Verdict) -> dict[str, Any]:
    return {
        "check": verdict.check,
        "title": TITLES[verdict.check],
        "verdict": verdict.status.value,
        "why": verdict.why,
        "evidence": jsonable(verdict.evidence),
    }


def jsonable(value: Any) -> Any:
    """Numbers of numpy and infinities as JSON knows them."""
    if isinstance(value, Mapping):
        return {str(name): jsonable(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(each) for each in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and value - value != 0:  # NaN and infinities are no JSON
        return str(value)
    return value


def page(report: Report) -> str:
    """One HTML file with every verdict and the evidence behind it; nothing in it is loaded from elsewhere."""
    groups = [
        (letter, title, [plain(verdict) for verdict in report.verdicts if verdict.check.startswith(letter)])
        for letter, title in GROUPS.items()
    ]
    found = jsonable(report.facts)
    facts = {"isolation": found["isolation"]} | {FACTS[name]: found[name] for name in FACTS if name in found}
    return render(
        "verify.html.j2", report=report, summary=summary(report), groups=groups, bytes=found.get("bytes"),
        facts=facts, dump=lambda value: json.dumps(value, ensure_ascii=False),
    )  # fmt: skip
