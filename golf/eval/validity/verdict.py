"""What a check says: pass, fail, or why it could not tell. Never nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Status(Enum):
    PASS = "pass"
    FAIL = "fail"
    NOT_APPLICABLE = "not applicable"  # there is nothing of the kind in this submission
    NOT_CHECKED = "not checked"  # there is, and the reason says what kept the check from looking


@dataclass(frozen=True)
class Verdict:
    """One check's word. evidence of a fail: the smallest reproduction (position, tokens, the two numbers)."""

    check: str
    status: Status
    why: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


# Every condition, by its number in the challenge's rule book.
TITLES = {
    "C1a": "no distribution depends on later tokens",
    "C1b": "no distribution depends on its own target",
    "C1c": "what adapts learns from scored tokens only",
    "C1d": "scored in stream order",
    "C1e": "documents scored apart stay apart",
    "C2a": "probabilities add up to 1",
    "C2b": "the score is read off the distribution",
    "C2c": "the distribution is fixed before its target",
    "C2d": "bytes and tokens are one distribution",
    "C3a": "scored before learned from",
    "C3b": "scoring changes nothing",
    "C3c": "a flipped target changes no earlier score",
    "C4a": "every target scored once",
    "C4b": "one pass, no best of several",
    "B1": "bytes of the tokens are bytes of the text",
    "B2": "bytes of every token in the table",
    "B3": "transforms can be undone",
    "B4": "loss, score, tokens and bytes agree",
    "B5": "tokens per byte of the known splits",
    "D1": "no validation text in the training text",
    "D2": "the split is the one it is said to be",
    "D3": "training opens no validation file",
    "D4": "evaluation opens no training file",
    "A1": "under the cap, everything counted",
    "A2": "runs alone: clean folder, no network",
    "A3": "nothing smuggled: files, packages, environment",
    "A4": "the artifact reads back the same in a new process",
    "A5": "loading executes nothing",
    "T1": "training within its clock",
    "T2": "evaluation within its clock",
    "T3": "warm-up leaves no trace",
    "S1": "enough seeds, all of them reported",
    "S2": "better than the last record, significantly",
    "S3": "logs say what the results say",
    "S4": "the score comes out again",
}


def passed(check: str, why: str, **evidence: Any) -> Verdict:
    return Verdict(check, Status.PASS, why, evidence)


def failed(check: str, why: str, **evidence: Any) -> Verdict:
    return Verdict(check, Status.FAIL, why, evidence)


def beside_the_point(check: str, why: str) -> Verdict:
    return Verdict(check, Status.NOT_APPLICABLE, why)


def unchecked(check: str, why: str, **evidence: Any) -> Verdict:
    return Verdict(check, Status.NOT_CHECKED, why, evidence)


def merge(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """One verdict for each check in the rule book's order. Several on one check become one: a fail outweighs
    everything, a pass what was not looked at; the reasons of those that agree are joined. A check nobody spoke of
    is reported as such."""
    found: dict[str, Verdict] = {}
    weight = [Status.FAIL, Status.NOT_CHECKED, Status.PASS, Status.NOT_APPLICABLE]
    for verdict in verdicts:
        kept = found.get(verdict.check)
        if kept is None or weight.index(verdict.status) < weight.index(kept.status):
            found[verdict.check] = verdict
        elif kept.status == verdict.status and verdict.why not in kept.why:
            evidence = {**verdict.evidence, **kept.evidence}
            found[verdict.check] = Verdict(kept.check, kept.status, f"{kept.why}; {verdict.why}", evidence)
    return [found.get(check) or unchecked(check, "no part of this tier looks at it") for check in TITLES]


class Budget:
    """Seconds a check may take. It looks `least` times, then as often as there is time for."""

    def __init__(self, seconds: float, least: int = 6) -> None:
        self.end, self.least = time.monotonic() + seconds, least

    def enough(self, made: int) -> bool:
        """Whether to stop after having looked so many times."""
        return made >= self.least and self.over

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    @property
    def over(self) -> bool:
        return self.left <= 0
