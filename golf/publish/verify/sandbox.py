"""A clean place to run a submission in: its files and Python, nothing else of the machine, and no network.

Where the kernel lets an ordinary process have namespaces of its own, the place is a file system put together for it;
else it is a folder, and what the process opens and connects to is watched and refused by its own interpreter.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

WORKER, WATCH = (Path(__file__).with_name(name) for name in ("worker.py", "watch.py"))
INSIDE = "/submission"
# What a process is told of the machine. One thread unless said otherwise: results then do not depend on the count.
ENVIRONMENT = {"LANG": "C.UTF-8", "HOME": "/tmp", "TMPDIR": "/tmp", "OMP_WAIT_POLICY": "PASSIVE",
               "PYTHONHASHSEED": "0"}  # fmt: skip
OFFLINE = ("--user", "--map-root-user", "--net")
ALONE = (*OFFLINE, "--mount", "--ipc", "--pid", "--fork", "--kill-child")
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/opt")


@dataclass(frozen=True)
class Place:
    """Where a submission's process runs. folder: the submission, as the process sees it.  temporary: a folder for
    what it wants to write, empty and its own.  isolation: in words."""

    command: tuple[str, ...]
    folder: str
    temporary: str
    environment: Mapping[str, str]
    isolation: str


def prefixes() -> tuple[str, ...]:
    """Folders of Python and its packages."""
    return tuple(dict.fromkeys(os.path.realpath(path) for path in (sys.prefix, sys.base_prefix)))


def place(clean: Path, root: Path, report: int, threads: int, extra: Mapping[str, str]) -> Place:
    """How to start the worker on the files in `clean`; `root` is an empty folder for its file system."""
    environment = ENVIRONMENT | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "OMP_NUM_THREADS": str(threads)} | dict(extra)
    worker = (sys.executable, "-I", "-B")
    if namespaces() == "files":
        script = " && ".join(shlex.join(line) for line in mounts(clean, root))
        inside = shlex.join(["chroot", str(root), *worker, "/worker.py", str(report), INSIDE])
        command = ("unshare", *ALONE, "sh", "-c", f"{script} && exec {inside}")
        words = "namespaces of its own: no network, no other process, only its files, Python and the system"
        return Place(command, INSIDE, "/tmp", environment, words)
    plain = (*worker, str(WORKER), str(report), str(clean))
    environment |= {"HOME": str(root), "TMPDIR": str(root)}
    if namespaces() == "network":
        command = ("unshare", *OFFLINE, *plain)
        words = "its own network namespace; files watched, not hidden"
        return Place(command, str(clean), str(root), environment, words)
    words = "no namespaces on this machine: sockets refused, files watched"
    return Place(plain, str(clean), str(root), environment, words)


def mounts(clean: Path, root: Path) -> list[list[str]]:
    """Commands that put the file system together, in a mount namespace of its own."""
    commands = [["mount", "-t", "tmpfs", "tmpfs", str(root)]]
    for path in (*SYSTEM, *prefixes(), "/dev", "/sys"):
        inside = f"{root}{path}"
        if os.path.islink(path):
            commands.append(["ln", "-s", os.readlink(path), inside])
        elif os.path.isdir(path) and not any(path.startswith(f"{above}/") for above in SYSTEM):
            commands += [["mkdir", "-p", inside], ["mount", "--rbind", path, inside]]
            if path != "/dev":  # what another process of the submission writes is not to be found here
                commands.append(["sh", "-c", f"mount -o remount,bind,ro {shlex.quote(inside)} || true"])
    if os.path.isdir("/dev/shm"):
        commands.append(["mount", "-t", "tmpfs", "tmpfs", f"{root}/dev/shm"])
    # Processes outside hold the targets: their memory is not to be found here.
    commands += [["mkdir", f"{root}/proc"], ["mount", "-t", "proc", "proc", f"{root}/proc"]]
    # Python itself may lie below /tmp, which is then there already.
    commands += [["mkdir", "-p", f"{root}/tmp", f"{root}{INSIDE}"], ["mount", "--bind", str(clean), f"{root}{INSIDE}"]]
    return [*commands, ["cp", str(WORKER), str(WATCH), str(root)]]


@functools.cache
def namespaces() -> str:
    """What this machine allows an ordinary process: "files" (and network), "network" or "none"."""
    if not shutil.which("unshare"):
        return "none"
    with tempfile.TemporaryDirectory(prefix="golf-verify-") as temporary:
        clean, root = Path(temporary, "clean"), Path(temporary, "root")
        clean.mkdir()
        root.mkdir()
        script = " && ".join(shlex.join(line) for line in mounts(clean, root))
        start = shlex.join(["chroot", str(root), sys.executable, "-I", "-c", "pass"])
        for answer, flags, command in (("files", ALONE, f"{script} && exec {start}"), ("network", OFFLINE, "true")):
            done = subprocess.run(["unshare", *flags, "sh", "-c", command], capture_output=True, timeout=60)
            if done.returncode == 0:
                return answer
    return "none"
