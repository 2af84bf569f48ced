"""Where a sweep's outcomes are kept: a journal that many machines append to, or a database."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from golf.contracts import SpecError

LINE = b'{"op_code"'  # how every line of a journal begins, also one cut off


def library() -> Any:
    """optuna, quiet. Raises SpecError when it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise SpecError("sweeps need optuna: pip install 'golf[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def connect(storage: str) -> Any:
    """A journal file (on a disk that all share) or a database's URL such as postgresql://...

    Raises SpecError for a database that cannot be reached and a file that is no journal.
    """
    optuna = library()
    if "://" in storage:
        return _database(storage)
    path = Path(storage)
    if path.is_dir():
        raise SpecError(f"--join {storage} is a folder; name a file in it, such as {path / 'sweep.journal'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.stat().st_size:
        with open(path, "rb") as file:
            first = file.readline()
        if first[: len(LINE)] != LINE[: len(first)]:
            raise SpecError(f"--join {storage} is no journal of a sweep; name another file")
    return optuna.storages.JournalStorage(_journal(storage))


def _journal(path: str) -> Any:
    """Optuna's journal, whose appends first cut off what a writer left unfinished: a machine that went down or a disk
    that was full in mid-line. Nobody has been told that such a line was kept, and behind it no other could be read."""
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    class Journal(JournalFileBackend):
        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            data = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
            lock = JournalFileSymlinkLock(path)
            lock.acquire()
            try:
                with open(path, "rb+") as file:
                    file.truncate(_whole(file))
                    file.seek(0, os.SEEK_END)
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                lock.release()

    return Journal(path)


def _whole(file: Any, block: int = 4096) -> int:
    """Bytes up to the end of the last whole line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        begin = max(end - block, 0)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _database(url: str) -> Any:
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        return library().storages.RDBStorage(url)
    except ImportError as error:
        raise SpecError(
            f"--join {url} needs a driver of that database; for postgresql://: pip install 'psycopg[binary]'"
        ) from error
    except (SQLAlchemyError, ArgumentError) as error:
        why = str(error).strip().splitlines()[0]
        raise SpecError(f"--join {url} cannot be opened: {why}") from error
