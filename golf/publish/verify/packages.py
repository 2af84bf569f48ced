"""What is installed below Python's folders: which files belong there, and which packages a submission may need."""

from __future__ import annotations

import csv
import functools
import importlib.metadata
import os
import re
import sysconfig
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution

from golf.publish.verify.static import ALLOWED

PLACE = f"{os.sep}site-packages{os.sep}"


def _records(package: Distribution) -> Iterator[tuple[str, str]]:
    """(path, size) of every file a package was installed with; a size may be missing."""
    # Read here: objects for each of them, as the library makes them, take seconds.
    for row in csv.reader((package.read_text("RECORD") or "").splitlines()):
        yield row[0], row[2] if len(row) > 2 else ""


@functools.cache
def needed_modules() -> frozenset[str]:
    """Top folders and files of the packages a submission may need, and of what those require in turn."""
    known = {_plain(each.metadata["Name"]): each for each in importlib.metadata.distributions()}
    # Golf's own command line needs more than a submission may.
    pending, found = [_plain(name) for name in ALLOWED if name != "golf"], set()
    while pending:
        name = pending.pop()
        if name in known and name not in found:
            found.add(name)
            wanted = [each for each in known[name].requires or () if "extra ==" not in each]
            pending += [_plain(re.match(r"[\w.-]+", each)[0]) for each in wanted]
    return frozenset(path.partition("/")[0] for name in found for path, _ in _records(known[name]))


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def needless_package(path: str) -> str:
    """The package below Python's folders that a file belongs to, if no submission may need it."""
    top = path.rpartition(PLACE)[2].partition(os.sep)[0] if PLACE in path else ""
    return "" if top in needed_modules() or path.endswith((".pth", ".egg-link")) else top


@functools.cache
def packaged_files() -> Callable[[str], bool]:
    """A test for paths below Python's folders: belongs to the standard library, or to an installed package, with the
    size it was installed with."""
    sizes: dict[str, str] = {}
    for package in importlib.metadata.distributions():
        home = str(package.locate_file(""))
        for path, size in _records(package):
            sizes[os.path.normpath(os.path.join(home, path)) if ".." in path else f"{home}{os.sep}{path}"] = size
    library = tuple(os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))

    def packaged(path: str) -> bool:
        source = path
        if path.endswith(".pyc"):  # compiled from the file of that name beside its folder
            folder, name = os.path.split(path)
            source = os.path.join(os.path.dirname(folder), name.split(".")[0] + ".py")
        if source in sizes:
            return source != path or sizes[path] in ("", _size(path))
        if not os.path.isfile(path):
            return True  # a folder, or nothing
        return (path.startswith(library) and "site-packages" not in path) or path.endswith((".pth", "pyvenv.cfg"))

    return packaged


def _size(path: str) -> str:
    return str(os.path.getsize(path)) if os.path.isfile(path) else ""
