"""What a submission's process does, told as it happens: an audit hook that the submission shares an interpreter with.

The worker runs this file in a namespace of its own and forgets it: nothing here is to be found in a module or in a
frame. While the hook looks at an event it calls functions written in C alone, bound when it is made: neither what the
submission puts in the place of `builtins`, `os.path` or `json`, nor a method of an object of its own is called.
"""

from __future__ import annotations

import os
import sys
from _json import encode_basestring_ascii
from os import O_RDWR, O_WRONLY, DirEntry, getcwd, getpid, listdir, write
from pathlib import PosixPath, PurePath, PurePosixPath, WindowsPath
from resource import RUSAGE_CHILDREN, getrusage
from sys import _getframe
from typing import Any

WATCHED = frozenset(
    "open ctypes.dlopen sqlite3.connect os.listdir subprocess.Popen os.system os.exec os.posix_spawn os.spawn os.fork "
    "os.forkpty socket.connect socket.getaddrinfo socket.gethostbyname socket.bind socket.sendto urllib.Request "
    "http.client.connect ftplib.connect smtplib.connect pickle.find_class marshal.loads shelve.open ctypes.dlsym "
    "os.truncate os.getxattr os.listxattr gc.get_objects gc.get_referrers gc.get_referents sys._current_frames "
    "cpython.PyInterpreterState_New fcntl.flock fcntl.lockf code.__new__ compile golf.environ golf.alive".split()
)
PATHS = frozenset("open os.listdir ctypes.dlopen sqlite3.connect".split())
# Told of when the submission's own code asks for it; libraries do it for reasons of theirs.
OWN = frozenset(
    "gc.get_objects gc.get_referrers gc.get_referents sys._current_frames fcntl.flock fcntl.lockf code.__new__".split()
)
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
# What is opened by a name that only its own methods tell.
UNTOLD = "something whose name no text spells"
# A path keeps the text it was asked for; these are what it is asked with.
TEXT_OF_PATH, WAYS = PurePath.__dict__["_str"], {"__fspath__": PurePath.__fspath__, "__str__": PurePath.__str__}
PURE, KINDS = PurePath.__dict__, (PosixPath, PurePosixPath, WindowsPath)


def watch(report: int, folder: str, worker: str) -> None:
    """Install the hook. Events are numbered: one that is lost on its way to the descriptor is missed there."""
    seen: set[tuple] = set()
    busy, number, process, before = False, 0, getpid(), ended()

    def note(name: str, path: str, **facts: Any) -> None:
        nonlocal number
        key = (name, path, *facts.values())
        if key not in seen:
            seen.add(key)
            line = {"event": name, "path": path, **facts, "where": caller(folder), "number": number}
            number += 1
            pairs = ", ".join([f'"{key}": {spelled(value)}' for key, value in line.items()])
            write(report, f"{{{pairs}}}\n".encode())

    def hook(name: str, arguments: tuple) -> None:
        nonlocal busy
        if busy or name not in WATCHED:
            return
        busy = True
        try:
            near = exact(_getframe(1).f_code.co_filename)
            # The import system reads compiled modules so, and looks through the folders that modules may lie in.
            if name in ("marshal.loads", "os.listdir") and "importlib" in near:
                return
            given = [text(each, name in PATHS) for each in arguments[:2]]
            if name == "golf.alive":
                note(name, given[0])
                if count := children(before):
                    note("child", f"{count} processes")
            elif name == "golf.environ":
                note("environ", given[0], fallback=arguments[1] is True)
            elif name == "ctypes.dlsym":
                if given[1] in UNSEEN or asked(folder, worker, ()):
                    note(name, given[1])
            elif name == "marshal.loads":
                note(name, "")
            elif name == "compile":
                if near.startswith(folder) and given[0]:
                    note(name, given[1], source=given[0])
            elif name in OWN:
                if asked(folder, worker, ()):
                    note(name, "")
            elif name in PATHS:
                if type(arguments[0]) is int:
                    return  # a descriptor, of something that was opened before
                flags = arguments[2] if name == "open" and type(arguments[2:3] and arguments[2]) is int else 0
                path = absolute(given[0]).replace(f"/proc/{process}/", "/proc/self/")
                writes = flags & (O_WRONLY | O_RDWR) != 0
                own = asked(folder, worker, ("<frozen importlib",))  # asked for, or imported
                note(name, path, write=writes, own=own, direct=own and asked(folder, worker, ()))
            else:
                note(name, " ".join([each[:200] for each in given if each]))
        finally:
            busy = False
        if name in NETWORK:
            raise PermissionError(f"{name}: a submission is scored without a network")

    sys.addaudithook(hook)


def exact(value: str) -> str:
    """The characters of a string, whatever its class would make of them."""
    return str.__getitem__(value, slice(None))


def text(value: Any, a_path: bool) -> str:
    """What an argument says; nothing of its own is called for that."""
    kind = type(value)
    if issubclass(kind, str):
        return exact(value)
    if issubclass(kind, bytes):
        return bytes.__getitem__(value, slice(None)).decode("utf-8", "surrogateescape")
    if kind is int:
        return int.__repr__(value)
    if not a_path:
        return " ".join([text(each, False) for each in value]) if kind in (list, tuple) else ""
    if value is None:
        return "."  # where it is
    if kind is DirEntry:
        return text(value.path, True)
    if kind in KINDS and all([PURE.get(name) is way for name, way in WAYS.items()]):
        try:
            return exact(TEXT_OF_PATH.__get__(value))
        except AttributeError:
            return UNTOLD
    return UNTOLD


def absolute(path: str) -> str:
    """A path from the root, without its detours."""
    if path is UNTOLD:
        return path
    parts: list[str] = []
    for part in (path if path.startswith("/") else f"{getcwd()}/{path}").split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def spelled(value: Any) -> str:
    """A string, a whole number, True or False as JSON."""
    return encode_basestring_ascii(value) if type(value) is str else int.__repr__(value) if type(value) is int else (
        "true" if value else "false"
    )  # fmt: skip


def asked(folder: str, worker: str, through: tuple[str, ...]) -> bool:
    """Whether the submission's own code asks for it: itself, or through the standard library, numpy, and what is named
    beside them. What packages look for on their own is their affair."""
    frame = _getframe(2)
    while frame is not None:
        name = exact(frame.f_code.co_filename)
        if name.startswith(folder) or name == worker:
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
    frame = _getframe(2)
    while frame is not None:
        name = exact(frame.f_code.co_filename)
        if name.startswith(folder):
            return f"{name.removeprefix(folder).lstrip('/')}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def ended() -> int:
    """Page faults of all children that ended: more of them, and there was another child."""
    return getrusage(RUSAGE_CHILDREN).ru_minflt


def children(before: int) -> int:
    """How many processes this one has started, by the system's account: those that run, and one if any ended."""
    running = 0
    try:
        threads = listdir("/proc/self/task")
    except OSError:
        threads = []  # another system
    for thread in threads:
        try:
            with open(f"/proc/self/task/{thread}/children") as file:
                running += len(file.read().split())
        except OSError:
            continue  # the thread is gone, or the kernel does not tell
    return running + (ended() > before)
