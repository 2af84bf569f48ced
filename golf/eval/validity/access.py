"""A1 to A3, A5, D3 and D4 from what a process was seen to do: files it opened, sockets, children, unpickling.

An event is {"event": name, "path": text or "", "write": bool}; names are those of Python's audit events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from golf.eval.validity.verdict import Verdict, failed, passed, unchecked

NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind", "socket.sendto",
           "urllib.Request", "http.client.connect", "ftplib.connect", "smtplib.connect")  # fmt: skip
CHILDREN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty")
UNSAFE = {"pickle.find_class": "unpickles a class", "marshal.loads": "loads marshalled code",
          "shelve.open": "opens a shelf"}  # fmt: skip
# What no score needs, and goes around those who watch or from one process of a submission to another.
AROUND = {
    "gc.": "goes through the interpreter's objects, those of the watch among them",
    "sys._current_frames": "looks at what the interpreter is doing, the watch among it",
    "cpython.PyInterpreterState_New": "starts another interpreter, in which nothing is watched",
    "code.__new__": "makes code by hand, which can be said to come from anywhere",
    "fcntl.": "locks a file, which tells other processes something",
}
# Of the machine, not of anybody's work: what any Python process may look at.
SYSTEM = ("/worker.py", "/watch.py", "/proc/", "/sys/", "/etc/")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/std", "/dev/fd",
           "/dev/nvidia", "/dev/dri", "/dev/kfd", "/dev/cpu")  # fmt: skip
# Programs and libraries of the system; of what lies among them, code, and what libraries know of the world.
INSTALLED = ("/usr/", "/lib/", "/lib64/", "/bin/", "/sbin/", "/opt/", "/run/")
KNOWLEDGE = ("zoneinfo", "locale", "mime", "terminfo", "ssl", "ca-certificates", "include", "gcc", "cuda", "nvidia")
CODE = (".so", ".py", ".pyc", ".pyd", ".h", ".conf", ".cfg", ".pth", ".a", ".o")
# What launchers set, and what libraries read on their own.
LAUNCHER = frozenset(
    "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT CUDA_VISIBLE_DEVICES OMP_NUM_THREADS "
    "OMP_WAIT_POLICY PATH HOME LANG LC_ALL TMPDIR TZ PYTHONHASHSEED GOLF_CACHE XDG_CACHE_HOME".split()
)


def network(events: Iterable[Mapping[str, Any]], isolation: str) -> Verdict:
    """A2, half of it: no attempt to reach anything."""
    for event in events:
        if event["event"] in NETWORK:
            return failed("A2", f"tries the network: {event['event']} {event['path']}", where=event.get("where", ""))
    return passed("A2", f"no attempt to reach the network ({isolation})")


def smuggling(
    events: Iterable[Mapping[str, Any]],
    *,
    clean: str,
    prefixes: Sequence[str],
    packaged: Callable[[str], bool],
    documented: Iterable[str] = (),
    needless: Callable[[str], str] = lambda path: "",
) -> list[Verdict]:
    """A3 and half of A5, from a scoring process.

    clean: the folder that holds the submission and nothing else.  prefixes: where Python and its packages lie.
    packaged: whether a file there belongs to a package as it was installed.  documented: environment variables the
    submission states, which are counted.  needless: the package a file belongs to, if no submission may need it.
    """
    events, documented = list(events), set(documented)
    read, written = 0, set()
    for event in events:
        name, path = event["event"], event["path"]
        around = next((why for start, why in AROUND.items() if name.startswith(start)), "")
        if name in ("open", "ctypes.dlopen", "sqlite3.connect", "os.listdir", "mmap"):
            here = (event.get("process"), path)  # what one process wrote is no file of another
            verdict = None if here in written else _file(event, clean, prefixes, packaged, needless)
            if verdict is not None:
                return [verdict]
            read += 1
            if event.get("write"):
                written.add(here)
        elif around:
            return [failed("A3", f"{name}: {around}", where=event.get("where", ""))]
        elif name in CHILDREN:
            return [failed("A3", f"starts another process: {name} {path}", where=event.get("where", ""))]
        elif name in ("child", "ctypes.dlsym"):
            what = f"calls {path} past the interpreter" if name == "ctypes.dlsym" else f"has started {path}, unseen"
            return [failed("A3", what, where=event.get("where", ""))]
        elif name == "compile" and ("importlib" in path or any(_below(path, prefix) for prefix in prefixes)):
            return [failed("A3", f"gives code of its own the name of {path}", where=event.get("where", ""))]
        elif name == "blind":
            return [failed("A3", "what it opens was no longer seen: it has put out the hook that watches it")]
        elif name in ("os.truncate", "os.getxattr", "os.listxattr"):
            return [failed("A3", f"{name} {path}: looks for what no file's bytes count", where=event.get("where", ""))]
        elif name in UNSAFE:
            what = f"{UNSAFE[name]} ({path})" if path else UNSAFE[name]
            return [failed("A5", f"while it loads or scores, {what}", where=event.get("where", ""))]
        elif name == "environ" and path not in LAUNCHER and path not in documented and not event.get("fallback"):
            why = f"needs the environment variable {path}, which nothing documents and nobody counts"
            return [failed("A3", why, variable=path, where=event.get("where", ""))]
    asked = sorted({e["path"] for e in events if e["event"] == "environ" and e.get("fallback")} - LAUNCHER - documented)
    why = f"{read:,} files opened, all of the submission, of Python or of packages as installed; no child process"
    if asked:
        why += f"; asks for {', '.join(asked[:4])}, unset here, and goes on without"
    return [passed("A3", why), passed("A5", "nothing was unpickled while it loaded and scored")]


def _file(
    event: Mapping[str, Any], clean: str, prefixes: Sequence[str], packaged: Callable[[str], bool],
    needless: Callable[[str], str],
) -> Verdict | None:  # fmt: skip
    path = event["path"]
    if not path.startswith("/"):
        return failed("A3", f"opens {path}", where=event.get("where", "")) if event.get("own") else None
    if _below(path, clean):
        return None
    if event.get("write") and event.get("own") and any(_below(path, prefix) for prefix in (*prefixes, *INSTALLED)):
        return failed("A3", f"writes {path}, where others read", file=path, where=event.get("where", ""))
    if any(_below(path, prefix) for prefix in prefixes):
        if event.get("direct") and not event.get("write") and event["event"] == "open":
            why = f"reads {path} as a file: what packages hold is there to be imported"
            return failed("A3", why, file=path, where=event.get("where", ""))
        if event.get("own") and (package := needless(path)):
            why = f"imports {package}, which no submission may need"
            return failed("A3", why, file=path, where=event.get("where", ""))
        if event.get("write") or packaged(path):
            return None
        why = f"reads {path}, which lies among Python's packages and belongs to none as it was installed"
        return failed("A3", why, file=path, where=event.get("where", ""))
    if event.get("mine"):
        return None  # what it wrote there itself: nothing else is
    if path.startswith("/proc/") and path.split("/")[2].isdigit():
        return failed("A3", f"looks into another process: {path}", file=path, where=event.get("where", ""))
    if path.startswith((*SYSTEM, *DEVICES)) or (event.get("write") and not _shared(path)):
        return None
    if path.startswith(INSTALLED) and (
        event["event"] in ("os.listdir", "ctypes.dlopen")
        or any(suffix in CODE for suffix in PurePath(path).suffixes)
        or any(word in path for word in KNOWLEDGE)
    ):
        return None
    return failed("A3", f"reads {path}, outside of the submission", file=path, where=event.get("where", ""))


def _shared(path: str) -> bool:
    """Whether another process would find there what is written."""
    return path.startswith(("/dev/", "/run/", "/var/"))


def reads(events: Iterable[Mapping[str, Any]], clean: str) -> set[str]:
    """Files of the clean folder that were read, relative to it."""
    prefix = clean.rstrip("/") + "/"
    return {
        event["path"].removeprefix(prefix)
        for event in events
        if event["event"] in ("open", "ctypes.dlopen") and not event.get("write") and event["path"].startswith(prefix)
    }


def phase(check: str, events: Iterable[Mapping[str, Any]], banned: Sequence[str], what: str) -> Verdict:
    """D3 (training, no validation file) or D4 (evaluation, no training file)."""
    if not banned:
        other = "validation" if check == "D3" else "training"
        return unchecked(check, f"the submission does not say where its {other} files lie")
    names = {PurePath(path).name for path in banned}
    opened = 0
    for event in events:
        if event["event"] != "open" or event.get("write"):
            continue
        opened += 1
        if event["path"] in banned or PurePath(event["path"]).name in names:
            return failed(check, f"{what} opens {event['path']}", file=event["path"], where=event.get("where", ""))
    return passed(check, f"{what} opened {opened:,} files, none of the {len(banned)} banned ones")


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
