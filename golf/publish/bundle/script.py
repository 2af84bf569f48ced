"""A record's one-file script, made once: squeezing it takes seconds, and every seed of a sweep asks for it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from golf import host as hosts
from golf.host import write_atomic
from golf.publish.bundle import one_file as bundle


def script(record: Path, assignments: Sequence[str] = ()) -> bytes:
    """What `bundle.bundle` makes, kept in golf's cache under the hash of all that it depends on."""
    recipe = record / "recipe.py" if record.is_dir() else record
    made_of = hashlib.sha256(repr((sys.version, metadata.version("python-minifier"), [*assignments])).encode())
    for file in (*sorted(bundle.SOURCE.glob("golf/**/*.py")), *([recipe] if recipe.is_file() else [])):
        made_of.update(hashlib.sha256(file.read_bytes()).digest())
    kept = hosts.cache_folder() / "scripts" / f"{made_of.hexdigest()}.py"
    if not kept.is_file():
        write_atomic(kept, bundle.bundle(record, overrides=assignments).code)
    return kept.read_bytes()
