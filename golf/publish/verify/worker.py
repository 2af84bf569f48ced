"""The process in which a submission is run. It imports nothing of golf, and answers requests on its standard input.

A request is a line of JSON, followed by `bytes` bytes of int64 tokens when it says so; an answer likewise, with float
rows. Nothing is caught: what fails in the submission ends the process, and its last words are on standard error.
What is opened, connected to, started or unpickled goes, a JSON line each, to the file descriptor named by the first
argument; the second is the folder of the submission.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import os
import resource
import sys
from typing import Any

WATCHED = frozenset(
    "open ctypes.dlopen sqlite3.connect os.listdir subprocess.Popen os.system os.exec os.posix_spawn os.spawn os.fork "
    "os.forkpty socket.connect socket.getaddrinfo socket.gethostbyname socket.bind socket.sendto urllib.Request "
    "http.client.connect ftplib.connect smtplib.connect pickle.find_class marshal.loads shelve.open ctypes.dlsym "
    "os.truncate os.getxattr os.listxattr gc.get_objects gc.get_referrers gc.get_referents compile golf.environ "
    "golf.alive".split()
)
PATHS = frozenset("open os.listdir ctypes.dlopen sqlite3.connect".split())
# What a C library does for a program without the interpreter seeing it.
UNSEEN = frozenset(
    "system popen fork vfork clone execv execve execvp execl posix_spawn posix_spawnp socket connect sendto open "
    "open64 openat fopen fopen64 mmap syscall dlopen shm_open ptrace process_vm_readv".split()
)
NETWORK = frozenset(
    "socket.connect socket.getaddrinfo socket.gethostbyname socket.bind socket.sendto urllib.Request "
    "http.client.connect ftplib.connect smtplib.connect".split()
)
PACKAGES = f"{os.sep}site-packages{os.sep}"
LIBRARIES = tuple({sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix)})


def watch(report: int, folder: str) -> None:
    """Install the audit hook. Events are numbered: one that is lost on its way to the descriptor is missed there."""
    seen: set[tuple] = set()
    busy, number = False, 0
    # Bound here: what a submission puts in the place of these later is not what is called.
    write, dumps, frame_of, process = os.write, json.dumps, sys._getframe, os.getpid()
    abspath, fsdecode, fspath, text_of, bytes_of = os.path.abspath, os.fsdecode, os.fspath, str, bytes

    def exact(value: Any) -> Any:
        """A name as a plain string: one of a class of the submission's own could do anything when it is looked at."""
        if isinstance(value, bytes):
            return fsdecode(bytes_of.__getitem__(value, slice(None)))
        return text_of.__getitem__(value, slice(None)) if isinstance(value, str) else None

    def note(name: str, path: str, **facts: Any) -> None:
        nonlocal number
        key = (name, path, *facts.values())
        if key not in seen:
            seen.add(key)
            line = {"event": name, "path": path, **facts, "where": caller(folder), "number": number}
            number += 1
            write(report, (dumps(line) + "\n").encode())

    def hook(name: str, arguments: tuple) -> None:
        nonlocal busy
        if busy or name not in WATCHED:
            return
        # What of the submission's may be called to tell what it is, is called while the hook still watches.
        given = [fspath(each) if name in PATHS and hasattr(each, "__fspath__") else each for each in arguments[:2]]
        spelled = name not in PATHS and name != "compile"
        plain = [exact(text_of(each) if spelled and not isinstance(each, (str, bytes)) else each) for each in given]
        busy = True
        try:
            near = frame_of(1).f_code.co_filename
            # The import system reads compiled modules so, and looks through the folders that modules may lie in.
            if name in ("marshal.loads", "os.listdir") and "importlib" in near:
                return
            if name == "ctypes.dlsym":
                library = getattr(arguments[0], "_name", None)
                if plain[1] in UNSEEN or (asked(folder, ()) and not below(library, folder)):
                    note(name, plain[1])
            elif name == "marshal.loads":
                note(name, "")
            elif name == "compile":
                if near.startswith(folder) and plain[0] is not None and arguments[0] is not None:
                    note(name, plain[1] or "", source=plain[0])
            elif name.startswith("gc."):
                if asked(folder, ()):
                    note(name, "")
            elif name == "golf.environ":
                note("environ", plain[0], fallback=bool(arguments[1]))
            elif name in PATHS:
                if given[:1] == [None]:
                    plain = ["."]  # where it is
                if plain and plain[0] is not None:
                    flags = arguments[2] if name == "open" and isinstance(arguments[2], int) else 0
                    path = abspath(plain[0]).replace(f"/proc/{process}/", "/proc/self/")
                    writes = bool(flags & (os.O_WRONLY | os.O_RDWR))
                    own = asked(folder, ("<frozen importlib",))  # asked for, or imported
                    note(name, path, write=writes, own=own, direct=own and asked(folder, ()))
            else:
                note(name, " ".join(each[:200] for each in plain if each))
        finally:
            busy = False
        if name in NETWORK:
            raise PermissionError(f"{name}: a submission is scored without a network")

    sys.addaudithook(hook)


def below(path: Any, folder: str) -> bool:
    return isinstance(path, str) and os.path.abspath(path).startswith(folder)


def asked(folder: str, through: tuple[str, ...]) -> bool:
    """Whether the submission's own code asks for it: itself, or through the standard library, numpy, and what is named
    beside them. What packages look for on their own is their affair."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(folder) or name == __file__:
            return True
        if name.endswith("linecache.py"):  # a warning shows the line it is about
            return False
        if not name.startswith(through) and (
            name.startswith("<frozen importlib") or (PACKAGES in name and f"{PACKAGES}numpy" not in name)
        ):
            return False
        frame = frame.f_back
    return False


def caller(folder: str) -> str:
    """The innermost line of the submission's own code on the stack."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(folder):
            return f"{name.removeprefix(folder).lstrip('/')}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


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


def ended() -> int:
    """Page faults of all children that ended: more of them, and there was another child."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt


def children(before: int) -> int:
    """How many processes this one has started, by the system's account: those that run, and one if any ended."""
    running = 0
    for thread in os.listdir("/proc/self/task") if os.path.isdir("/proc/self/task") else ():
        try:
            with open(f"/proc/self/task/{thread}/children") as file:
                running += len(file.read().split())
        except OSError:
            continue  # the thread is gone, or the kernel does not tell
    return running + (ended() > before)


def serve(folder: str, source: Any, sink: Any) -> None:
    """Answer until the input ends."""
    entry, states, number, before = None, {}, 0, ended()
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
            reply = {"children": children(before)}
        elif verb in ("encode", "decode"):
            reply = {"texts": [getattr(entry.it, verb)(text) for text in ask["texts"]]}
        else:
            raise ValueError(f"no request is named {verb}")
        if rows is not None:
            reply |= {"shape": rows.shape, "dtype": str(rows.dtype), "bytes": rows.nbytes}
        sink.write(json.dumps(reply).encode() + b"\n")
        if rows is not None:
            sink.write(rows.tobytes())
        sink.flush()
        tokens = data = rows = None  # what came with one question is not there at the next


def main() -> None:
    report, folder = int(sys.argv[1]), sys.argv[2]
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What the submission prints must not mix with answers, and there is nothing for it to read.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    os.chdir(folder)
    sys.path.insert(0, folder)
    watch(report, folder)
    os.environ = Environment(os.environ)  # noqa: B003  what it holds is known; who asks is of interest
    serve(folder, source, sink)


if __name__ == "__main__":
    main()
