"""The process in which a submission is run. It imports nothing of golf, and answers requests on its standard input.

A request is a line of JSON, followed by `bytes` bytes of int64 tokens when it says so; an answer likewise, with float
rows. Nothing is caught: what fails in the submission ends the process, and its last words are on standard error.
What is opened, connected to, started or unpickled goes, a JSON line each, to the file descriptor named by the first
argument; the second is the folder of the submission.
"""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import importlib.util
import inspect
import json
import os
import sys
from typing import Any

LIBRARIES = tuple({sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix)})


class Environment(dict):
    """The environment, which tells what the submission asks it for."""

    _tell = staticmethod(sys.audit)

    def __getitem__(self, name: str) -> str:
        self._ask(name, fallback=False)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._ask(name, fallback=True)
        return super().get(name, default)

    def _ask(self, name: str, fallback: bool) -> None:
        frame = sys._getframe(2)
        while frame.f_code.co_filename == os.__file__:
            frame = frame.f_back
        # Libraries look for settings of theirs, whoever imported them.
        if name not in self.keys() and not frame.f_code.co_filename.startswith((*LIBRARIES, "<frozen")):
            self._tell("golf.environ", name, fallback)


class Entry:
    """A submission's functions behind one face. Where it only has `logprobs(tokens)`, the step form is made of it."""

    def __init__(self, spec: str, folder: str) -> None:
        file, _, name = spec.partition(":")
        loaded = importlib.util.spec_from_file_location("submission_entry", os.path.join(folder, file))
        module = importlib.util.module_from_spec(loaded)
        sys.modules["submission_entry"] = module
        loaded.loader.exec_module(module)
        self.it = getattr(module, name) if name else module
        if inspect.isclass(self.it):
            self.it = self.it()
        self.whole = hasattr(self.it, "logprobs") and len(inspect.signature(self.it.logprobs).parameters) == 1

    def about(self) -> dict:
        names = ("open", "distribution", "observe", "logprobs", "advance", "horizon", "evaluate", "encode", "decode",
                 "byte_distribution", "digest")  # fmt: skip
        return {name: hasattr(self.it, name) for name in names} | {"whole": self.whole}

    def open(self, artifact: str) -> Any:
        state = self.it.open(artifact)
        return [state, []] if self.whole else state

    def observe(self, state: Any, token: int) -> Any:
        if not self.whole:
            return self.it.observe(state, token)
        inner = self.it.observe(state[0], token) if hasattr(self.it, "observe") else state[0]
        return [inner, [*state[1], token]]

    def advance(self, state: Any, targets: Any) -> Any:
        if hasattr(self.it, "advance") and not self.whole:
            return self.it.advance(state, targets)
        for token in targets.tolist():
            state = self.observe(state, token)
        return state

    def distribution(self, state: Any) -> Any:
        if not self.whole:
            return self.it.distribution(state)
        if hasattr(self.it, "distribution"):
            return self.it.distribution(state[0])
        import numpy

        return self.it.logprobs(numpy.array(state[1]))[-1]

    def logprobs(self, state: Any, targets: Any) -> Any:
        if not self.whole:
            return self.it.logprobs(state, targets)
        import numpy

        rows = self.it.logprobs(numpy.concatenate([numpy.array(state[1], numpy.int64), targets]))
        return rows[len(state[1]) - 1 : len(state[1]) - 1 + len(targets)]


def plain(rows: Any) -> Any:
    """Rows as a contiguous array of float32 or float64."""
    import numpy

    if hasattr(rows, "detach"):
        rows = rows.detach().cpu()
        rows = rows if str(rows.dtype) in ("torch.float32", "torch.float64") else rows.float()
        rows = rows.numpy()
    rows = numpy.asarray(rows)
    return numpy.ascontiguousarray(rows if rows.dtype in (numpy.float32, numpy.float64) else rows.astype(numpy.float64))


def digests(state: Any) -> dict[str, str]:
    """SHA-256 of every array that a state is made of, by the path to it; modules and plain containers are walked."""
    found: dict[str, str] = {}
    pending, seen = [("state", state)], set()
    while pending and len(found) < 10_000:
        path, value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if hasattr(value, "state_dict") and callable(value.state_dict):
            pending += [(f"{path}.{name}", tensor) for name, tensor in value.state_dict().items()]
        elif hasattr(value, "tobytes") or hasattr(value, "detach"):
            array = plain(value) if hasattr(value, "detach") else value
            found[path] = hashlib.sha256(array.tobytes()).hexdigest()
        elif isinstance(value, (bytes, str, int, float)):
            found[path] = hashlib.sha256(repr(value).encode()).hexdigest()
        elif isinstance(value, dict):
            pending += [(f"{path}[{key!r}]", inner) for key, inner in value.items()]
        elif isinstance(value, (list, tuple)):
            pending += [(f"{path}[{place}]", inner) for place, inner in enumerate(value)]
        elif hasattr(value, "__dict__"):
            pending += [(f"{path}.{name}", inner) for name, inner in vars(value).items()]
    return found


def serve(folder: str, source: Any, sink: Any) -> None:
    """Answer until the input ends."""
    entry, states, number = None, {}, 0
    while line := source.readline():
        ask = json.loads(line)
        data = source.read(ask.get("bytes", 0))
        if data:
            import numpy

            tokens = numpy.frombuffer(data, numpy.int64).copy()
        for gone in ask.get("forget", ()):
            states.pop(gone, None)
        verb, state, rows, reply = ask["do"], ask.get("state"), None, {}
        for token in ask.get("shown", ()):
            states[state] = entry.observe(states[state], token)
        if verb == "load":
            entry = Entry(ask["entry"], folder)
            reply = entry.about()
        elif verb == "open":
            number += 1
            states[number] = entry.open(ask["artifact"])
            reply = {"state": number}
        elif verb == "advance":
            states[state] = entry.advance(states[state], tokens)
        elif verb == "distribution":
            rows = plain(entry.distribution(states[state]))
        elif verb == "logprobs":
            rows = plain(entry.logprobs(states[state], tokens))
        elif verb == "byte_distribution":
            rows = plain(entry.it.byte_distribution(states[state]))
        elif verb == "horizon":
            reply = {"count": entry.it.horizon(states[state])}
        elif verb == "evaluate":
            scored = [(int(position), float(nats)) for position, nats in entry.it.evaluate(ask["artifact"], tokens)]
            import numpy

            rows = numpy.array(scored, numpy.float64).reshape(-1, 2)
        elif verb == "digest":
            reply = {"digests": digests(states[state])}
        elif verb == "alive":
            sys.audit("golf.alive", ask["word"])
            with contextlib.suppress(OSError):  # which the hook has to see
                os.open(f"/{ask['word']}", os.O_RDONLY)
        elif verb in ("encode", "decode"):
            reply = {"texts": [getattr(entry.it, verb)(text) for text in ask["texts"]]}
        else:
            raise ValueError(f"no request is named {verb}")
        if rows is not None:
            reply |= {"shape": rows.shape, "dtype": str(rows.dtype)}
        sink.write(json.dumps(reply).encode() + b"\n")
        if rows is not None:
            sink.write(rows.tobytes())
        sink.flush()
        tokens = data = rows = None  # what came with one question is not there at the next


def watch(report: int, folder: str) -> None:
    """Install the hook of `watch.py`, in a namespace with its own builtins that nothing here keeps."""
    file = os.path.join(os.path.dirname(os.path.abspath(__file__)), "watch.py")
    found = importlib.util.spec_from_file_location("watch", file)
    apart = importlib.util.module_from_spec(found)
    apart.__builtins__ = dict(vars(builtins))
    found.loader.exec_module(apart)
    apart.watch(report, folder, __file__)


def main() -> None:
    report, folder = int(sys.argv[1]), sys.argv[2]
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What the submission prints must not mix with answers, and there is nothing for it to read.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    os.chdir(folder)
    watch(report, folder)
    sys.path.insert(0, folder)
    os.environ = Environment(os.environ)  # noqa: B003  what it holds is known; who asks is of interest
    serve(folder, source, sink)


if __name__ == "__main__":
    main()
