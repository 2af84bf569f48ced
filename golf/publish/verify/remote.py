"""A submission in a process of its own, seen from ours: the predictor's interface at the end of a pipe.

The driver and its targets stay in our process, so no trick inside the other one can look at a target early.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from golf.contracts import PredictorError
from golf.publish.verify import sandbox

# A single answer that takes longer is taken for none.
PATIENCE_SECONDS = 600.0
READ_BYTES = 1 << 20


class State:
    """A state in the other process; forgotten there when nobody here holds it any more.

    shown: targets observed since it was last asked something, which travel with the next question.
    """

    def __init__(self, remote: Remote, number: int) -> None:
        self._remote, self.number, self.shown = remote, number, []

    def about(self) -> dict[str, Any]:
        """What a request says of it."""
        shown, self.shown = self.shown, []
        return {"state": self.number, "shown": shown}

    def __del__(self) -> None:
        self._remote.forgotten.append(self.number)


class Remote:
    """A predictor whose every call is answered by a submission's own process.

    files: what lies in its folder, by name.  `logprobs` and `horizon` are there when the submission has them.
    Raises PredictorError, with the submission's last words, when the process ends or does not answer.
    """

    def __init__(
        self, entry: str, files: Mapping[str, Path | bytes], *, threads: int = 1, environment: Mapping[str, str] = {}
    ) -> None:  # fmt: skip
        self.forgotten: list[int] = []
        self._home = tempfile.TemporaryDirectory(prefix="golf-verify-")
        home = Path(self._home.name)
        clean, root = home / "clean", home / "root"
        root.mkdir()
        self._clean = clean
        for name, source in files.items():
            self.put(name, source)
        # A pipe: what was told through it cannot be taken back.
        self._events, report = os.pipe()
        os.set_blocking(self._events, False)
        self._heard, self._errors = bytearray(), open(home / "errors", "w+b")
        self.place = sandbox.place(clean, root, report, threads, environment)
        self._process = subprocess.Popen(
            self.place.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0,
            env=dict(self.place.environment), pass_fds=(report,), start_new_session=True,
        )  # fmt: skip
        os.close(report)
        self._buffer = bytearray()
        self.asked, self.seconds = 0, 0.0
        self.about = self._told_of({"do": "load", "entry": entry}, dict)
        if self.about["logprobs"]:
            self.logprobs = self._logprobs
        if self.about["horizon"]:
            self.horizon = self._horizon

    def put(self, name: str, source: Path | bytes | None) -> None:
        """A file into its folder, in the place of the one that is there; None: it is taken away."""
        target = self._clean / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source is None:
            target.unlink(missing_ok=True)
        elif isinstance(source, bytes):
            target.write_bytes(source)
        else:
            shutil.copyfile(source, target)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def scores(self) -> bool:
        """Whether it gives distributions at all."""
        return self.about["distribution"] or self.about["whole"]

    def open(self, artifact: Any) -> State:
        return State(self, self._told_of({"do": "open", "artifact": artifact}, int, "state"))

    def observe(self, state: State, token: int) -> State:
        state.shown.append(int(token))
        return state

    def advance(self, state: State, targets_T: np.ndarray) -> State:
        if len(targets_T):
            self._ask({"do": "advance", **state.about()}, targets_T)
        return state

    def distribution(self, state: State) -> np.ndarray:
        return self._rows({"do": "distribution", **state.about()})

    def byte_distribution(self, state: State) -> np.ndarray:
        return self._rows({"do": "byte_distribution", **state.about()})

    def evaluate(self, artifact: Any, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(positions, nats) of the submission's own scoring loop, in the order it hands them out."""
        rows = self._rows({"do": "evaluate", "artifact": artifact}, tokens).reshape(-1, 2)
        return rows[:, 0].astype(np.int64), rows[:, 1]

    def digest(self, state: State) -> dict[str, str]:
        return self._told_of({"do": "digest", **state.about()}, dict, "digests")

    def transform(self, verb: str, texts: Sequence[str]) -> list[str]:
        """`encode` or `decode` of the submission's reversible transform."""
        return self._told_of({"do": verb, "texts": list(texts)}, list, "texts")

    def events(self) -> list[dict[str, Any]]:
        """Everything the process was seen to do so far; `blind` when it is seen no more, `child` for one unseen."""
        last = []
        if self._process.poll() is None:
            word = secrets.token_hex(8)
            try:
                self._ask({"do": "alive", "word": word})
            except PredictorError:
                word = ""  # it ended: its last words are told elsewhere
            # It is told twice: as a word, and as the name of a file that was looked for.
            if word and self._told().count(word.encode()) < 2:
                last.append({"event": "blind", "path": "", "write": False})
        found = [_event(line) for line in bytes(self._told()).splitlines() if line.endswith(b"}")]
        numbers = [event.pop("number", None) for event in found]
        if numbers != [*range(len(numbers))] and not any(event["event"] == "blind" for event in last):
            last.append({"event": "blind", "path": "", "write": False})
        found = [event for event in found if event]
        words = {event["path"] for event in found if event["event"] == "golf.alive"}
        return [event for event in found if event["path"].removeprefix("/") not in words] + last

    def _told(self) -> bytearray:
        """Everything that came through the pipe so far."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._events, READ_BYTES):
                self._heard += data
        return self._heard

    def last_words(self) -> str:
        """The end of what the process wrote on standard error."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "without a word"

    def close(self) -> None:
        """End the process and remove its folder."""
        if self._process.poll() is None:
            self._process.stdin.close()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process.stdout.close()
        os.close(self._events)
        self._errors.close()
        self._home.cleanup()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def _logprobs(self, state: State, targets_T: np.ndarray) -> np.ndarray:
        return self._rows({"do": "logprobs", **state.about()}, targets_T)

    def _horizon(self, state: State) -> int | None:
        return self._told_of({"do": "horizon", **state.about()}, (int, type(None)), "count")

    def _rows(self, request: dict[str, Any], tokens: np.ndarray | None = None) -> np.ndarray:
        reply, rows = self._ask(request, tokens)
        if rows is None:
            raise PredictorError(f"what came back at `{request['do']}` is no distribution: {reply}")
        return rows

    def _told_of(self, request: dict[str, Any], kind: Any, name: str = "") -> Any:
        """What the answer says under a name, or all of it."""
        reply, _ = self._ask(request)
        value = reply.get(name) if name else reply
        if not isinstance(value, kind):
            raise PredictorError(f"what came back at `{request['do']}` is no answer: {str(reply)[:60]}")
        return value

    def _ask(self, request: dict[str, Any], tokens: np.ndarray | None = None) -> tuple[dict, np.ndarray | None]:
        begin, payload = time.monotonic(), b""
        if tokens is not None:
            payload = np.ascontiguousarray(tokens, np.int64).tobytes()
            request = request | {"bytes": len(payload)}
        if self.forgotten:
            request, self.forgotten = request | {"forget": self.forgotten}, []
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n" + payload)
        except BrokenPipeError:
            raise self._ended(request) from None
        until = begin + PATIENCE_SECONDS
        while (cut := self._buffer.find(b"\n")) < 0:
            self._read(request, until)
        line, rows = bytes(self._buffer[:cut]), None
        del self._buffer[: cut + 1]
        try:
            reply = dict(json.loads(line))
            if "shape" in reply:
                size, kind = math.prod(reply["shape"]), {"float32": 4, "float64": 8}[reply["dtype"]]
                while len(self._buffer) < size * kind:
                    self._read(request, until)
                rows = np.frombuffer(self._buffer[: size * kind], reply["dtype"]).reshape(reply["shape"])
                del self._buffer[: size * kind]
        except (ValueError, KeyError, TypeError) as error:
            raise PredictorError(f"what came back at `{request['do']}` is no answer: {line[:60]!r}") from error
        self.asked, self.seconds = self.asked + 1, self.seconds + time.monotonic() - begin
        return reply, rows

    def _read(self, request: dict[str, Any], until: float) -> None:
        # A full pipe of events would keep the other side waiting for us.
        ready: list[Any] = []
        sources = [self._process.stdout, self._events]
        while not ready and (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select(sources, [], [], left)
            if self._events in ready:
                ready.remove(self._events)
                before = len(self._heard)
                if len(self._told()) == before:  # closed on the other side: nothing more will come
                    sources.pop()
        data = os.read(self._process.stdout.fileno(), READ_BYTES) if ready else b""
        if not ready:
            self._process.kill()
        if not data:
            raise self._ended(request)
        self._buffer += data

    def _ended(self, request: dict[str, Any]) -> PredictorError:
        self._process.wait()
        return PredictorError(f"the submission's process ended at `{request['do']}`: {self.last_words()}")


def _event(line: bytes) -> dict[str, Any]:
    """An event as the watch spells it; empty for a line that somebody else wrote among its own."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    whole = isinstance(event, dict) and all(isinstance(event.get(name), str) for name in ("event", "path"))
    return event if whole else {}
