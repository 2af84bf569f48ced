"""The processes a submission is run in, and what all of them together were seen to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from golf.contracts import PredictorError
from golf.eval.validity import access, artifact
from golf.eval.validity.verdict import Status, Verdict, failed, passed, unchecked
from golf.publish.verify import sandbox
from golf.publish.verify.data import carry
from golf.publish.verify.ours import PROBE
from golf.publish.verify.packages import needless_package
from golf.publish.verify.remote import Remote
from golf.publish.verify.static import allowed_modules
from golf.publish.verify.subject import Subject


class Scoring:
    """Opens processes for a subject's entries and keeps what they did, after they have ended too."""

    def __init__(self, subject: Subject, *, threads: int, packaged: Callable[[str], bool]) -> None:
        self.subject, self.threads, self.packaged = subject, threads, packaged
        self.events: list[dict[str, Any]] = []
        self.read: set[str] = set()
        self.failures: list[Verdict] = []
        self.digests: list[dict[str, str]] = []
        self.broken, self.isolation, self.clean = "", "", sandbox.INSIDE
        # Golf's own entry keeps nothing from one scoring to the next: one process will do, and decodes once.
        self._ours: Remote | None = None
        # A script that unpacks itself takes a while, in which other checks go on.
        # A free file that is too large to be counted stays at home: there are ways to read it that nobody sees.
        whole, free = sum(subject.counted.values()), sum(subject.shown.values())
        beyond = subject.kind == "foreign" and subject.cap is not None and whole + free > subject.cap
        self.withheld = frozenset(subject.shown if beyond else ())
        self._later = ThreadPoolExecutor(1) if subject.script else None
        self._script = self._later.submit(self._start_script) if self._later else None

    def _start_script(self) -> Remote:
        return Remote("golf_script.py:Script", self.subject.script, threads=self.threads)

    @contextmanager
    def opened(self, entry: str, what: str, *, probe: bool = False) -> Iterator[Remote | None]:
        """A new process; None when the submission cannot even be loaded and opened in it.

        probe: look through shorter windows where the subject says so.
        """
        shared = self._ours if self._ours is not None and not self._ours.ended else None
        window = json.dumps({"window": self.subject.probe}).encode() if probe and self.subject.probe else None
        if shared is not None:
            shared.put(PROBE, window)
            yield shared if not self.broken else None
            return
        files = self.subject.files | ({PROBE: window} if window else {})
        files = {name: source for name, source in files.items() if name not in self.withheld}
        try:
            remote = Remote(entry, files, threads=self.threads, environment=self.subject.environment)
        except PredictorError as error:
            self._keep(error)
            yield None
            return
        if self.subject.kind != "foreign":
            self._end_ours()
            self._ours = remote
        try:
            state = None
            try:
                state = remote.open(self.subject.artifact)
                # What golf's own entries open are the weights as two programs read them.
                self.digests.append(remote.digest(state))
            except PredictorError as error:
                self._keep(error)
            del state
            yield remote if not self.broken else None
        finally:
            if remote is not self._ours:
                self.collect(remote)
                remote.close()

    def _end_ours(self) -> None:
        if self._ours is not None:
            self.collect(self._ours)
            self._ours.close()
            self._ours = None

    def close(self) -> None:
        """End what still runs."""
        self._end_ours()
        if self._later is not None:
            if self._script is not None and self._script.exception() is None:
                self._script.result().close()
            self._later.shutdown()

    def by_script(self, tokens: np.ndarray) -> float:
        """Nats a token of a stream, scored by the submission's own script with nothing of golf beside it.

        Raises PredictorError.
        """
        script, self._script = self._script, None
        with script.result() if script is not None else self._start_script() as remote:
            try:
                self.digests.append(remote.digest(remote.open(self.subject.artifact)))
                count, nats = remote.evaluate(self.subject.artifact, tokens)
            finally:
                self.collect(remote)
        return float(nats.sum() / count.sum())

    def collect(self, remote: Remote) -> None:
        """Take over what a process did."""
        folder = remote.place.folder
        # Every process may have had a folder of its own; what they did is told of one.
        mine = f"{remote.place.temporary}/"
        number = self.events[-1]["process"] + 1 if self.events else 0
        events = [
            event
            | {"path": event["path"].replace(folder, sandbox.INSIDE), "process": number}
            | {"mine": event["path"].startswith(mine)}
            for event in remote.events()
        ]
        self.events += events
        self.isolation = remote.place.isolation
        there, home = set(self.subject.files), self.subject.folder
        for name in access.reads(events, self.clean):
            # What lies beside the submission and was not named did not come along, but it was asked for.
            if name in there or (home is not None and (home / name).is_file()):
                self.read.add(name)
        self.read -= {*self.subject.ours, PROBE}

    def failure(self, error: PredictorError) -> Verdict:
        """A process that ended, or an answer that is none, while checks were under way."""
        text = str(error)
        check = "C2a" if ("distribution" in text or "asked for" in text) and "no answer" not in text else "A2"
        return failed(check, text)

    def verdicts(self) -> Iterator[Verdict]:
        """A1 to A5, D3 and D4, of everything that ran."""
        subject = self.subject
        self._end_ours()
        if len(self.digests) == 1 and subject.kind != "foreign" and not self.broken:
            with self.opened(subject.entry, "once more"):
                pass
            self._end_ours()
        yield from self.failures
        if not self.events:
            for check in ("A2", "A4", "D4"):
                yield unchecked(check, "no process ran")
            return
        quiet = access.network(self.events, self.isolation)
        yield quiet
        yield from access.smuggling(
            self.events, clean=self.clean, prefixes=sandbox.prefixes(), packaged=self.packaged,
            documented=subject.environment, needless=needless_package if subject.kind == "foreign" else lambda path: "",
        )  # fmt: skip
        yield from self._compiled()
        if subject.cap is not None:
            # Golf's own entry looks at the tokenizer's hash, and at nothing else of it.
            read = self.read if subject.kind == "foreign" else self.read - set(subject.shown)
            yield artifact.size(subject.counted, subject.shown, read, subject.cap, None)
        yield access.phase("D4", self.events, subject.train_files, "scoring")
        yield self._round_trip()

    def _compiled(self) -> Iterator[Verdict]:
        """A3, A5, T1 and D1 of sources that were made as the submission ran: unpacked from a coat of its own, say."""
        texts = {f"source {number} compiled at {event['where'] or 'the start'}": event["source"]
                 for number, event in enumerate(self.events) if event["event"] == "compile"}  # fmt: skip
        allowed = allowed_modules(self.subject.sources | texts)
        for name, text in texts.items():
            yield from (each for each in artifact.source(name, text, allowed) if each.status is Status.FAIL)
        if texts and self.subject.tokens is not None and self.subject.speaker is not None:
            yield carry(self.subject, {name: text.encode() for name, text in texts.items()})

    def _round_trip(self) -> Verdict:
        """A4: what two processes made of the artifact; where they built different things, tensors by their hash."""
        if len(self.digests) < 2:
            return unchecked("A4", self.broken or "only one process opened the artifact")
        first, *others = [{name: digest for name, digest in found.items()} for found in self.digests]
        if not first:
            return unchecked("A4", "the state holds no arrays that could be compared")
        for other in others:
            if self.subject.kind == "foreign":
                verdict = artifact.round_trip(first, other, "parts of the opened artifact")
                if verdict.status is Status.FAIL:
                    return verdict
            elif not set(_tensors(first)) & set(_tensors(other)) or _clash(_tensors(first), _tensors(other)):
                name = next(iter(_clash(_tensors(first), _tensors(other))), "the model")
                return failed("A4", f"{name} differs between two processes that opened the artifact")
        count = len(first) if self.subject.kind == "foreign" else len(_tensors(first))
        return passed("A4", f"{count:,} tensors equal to the last bit in {len(self.digests)} processes")

    def _keep(self, error: PredictorError) -> None:
        self.broken = str(error)
        why = f"in a clean folder without a network {error}"
        if self.withheld:
            why += f"; {', '.join(sorted(self.withheld))} was not there, which is free and would not fit under the cap"
        self.failures.append(failed("A2", why))


def _tensors(digests: Mapping[str, str]) -> dict[str, str]:
    """Digests by the name of the tensor in its model, wherever in a state the model lies."""
    return {name.split("model.", 1)[-1].removeprefix("state."): digest for name, digest in digests.items()}


def _clash(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    return sorted(name for name in a.keys() & b.keys() if a[name] != b[name])
