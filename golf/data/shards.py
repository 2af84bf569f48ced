"""Token shards: a header of 256 little-endian int32 (magic, version, count, zeros), then `count` tokens.

Tokens are uint16 in the challenge's files. Where ids go beyond 65,535 they are uint32 behind a magic and version of
their own, as llm.c (dev/data/data_common.py) writes the tokens of Llama 3.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from golf.contracts import DataError

# Magic and version -> bytes of a token.
KINDS = {(20240520, 1): 2, (20240801, 7): 4}
HEADER_BYTES = 1024
SHARD_TOKENS = 100_000_000  # what the published exports use
# Ids are compared in pieces of this many tokens, so that a check never holds more than 32 MB of a shard.
CHECK_TOKENS = 1 << 24


def read(path: Path, vocab: int | None = None) -> np.ndarray:
    """The tokens of one shard, mapped into memory, uint16 or uint32 [tokens].

    With `vocab`, every id is compared with it, which reads the whole file once.
    Raises DataError for a missing, truncated or foreign file, an empty shard, or an id beyond the vocabulary.
    """
    if not path.is_file():
        raise DataError(f"shard {path} does not exist; fetch it with `golf data fetch` or correct the path")
    size = path.stat().st_size
    if size < HEADER_BYTES:
        raise DataError(f"shard {path} has {size} bytes, less than its {HEADER_BYTES}-byte header; fetch it again")
    magic, version, count = np.fromfile(path, dtype="<i4", count=3).tolist()
    width = KINDS.get((magic, version))
    if not width:
        raise DataError(
            f"shard {path} begins with {magic}, version {version}, none of {', '.join(map(str, KINDS))}; it is no "
            "token shard that this golf reads, leave it out of the folder or export it again"
        )
    if count < 1:
        raise DataError(f"shard {path} declares {count} tokens, at least 1 is needed; leave it out of the folder")
    if size != HEADER_BYTES + width * count:
        raise DataError(
            f"shard {path} has {size:,} bytes, but its {count:,} tokens need {HEADER_BYTES + width * count:,}; "
            "it was cut off or altered, fetch it again"
        )
    tokens = np.memmap(path, dtype=f"<u{width}", mode="r", offset=HEADER_BYTES, shape=(count,))
    if vocab is not None:
        check_ids(tokens, vocab, path)
    return tokens


def check_ids(tokens: np.ndarray, vocab: int, path: Path) -> None:
    """Raises DataError when a token id is not below `vocab`; `path` is named in the message."""
    for begin in range(0, len(tokens), CHECK_TOKENS):
        piece = tokens[begin : begin + CHECK_TOKENS]
        if piece.max() >= vocab:
            at = int(np.argmax(piece >= vocab))
            raise DataError(
                f"shard {path} holds token id {piece[at]} at position {begin + at}, beyond the vocabulary of "
                f"{vocab}; use the tokenizer the shard was made with"
            )


def find(folder: Path, split: str) -> tuple[Path, ...]:
    """The shards of a split in file-name order. Byte sidecars (`*_val_bytes_*`) share the layout and are left
    out.

    Raises DataError when there is none.
    """
    found = sorted(path for path in folder.glob(f"*_{split}_*.bin") if "_bytes_" not in path.name)
    if not found:
        raise DataError(
            f"no *_{split}_*.bin shards in {folder}; fetch them with `golf data fetch` or name another folder"
        )
    return tuple(found)


class Tokens:
    """The tokens of several shards in a row, as one read-only sequence that stays on disk.

    `len`, slices with step 1 (arrays as the shards hold them, copied only where they cross a border) and single
    positions (int). With `vocab`, each slice handed out is checked against it, so that nothing is read twice.
    """

    def __init__(self, paths: Sequence[Path], vocab: int | None = None) -> None:
        """Raises DataError as `read` does."""
        self.paths, self.vocab = tuple(paths), vocab
        self.shards = [read(path) for path in self.paths]
        self._ends = np.cumsum([0, *map(len, self.shards)])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: int | slice) -> np.ndarray | int:
        if not isinstance(key, slice):
            begin = range(len(self))[key]
            return int(self[begin : begin + 1][0])
        begin, end, step = key.indices(len(self))
        if step != 1:
            raise ValueError(f"step={step}: tokens are sliced with step 1")
        first = int(np.searchsorted(self._ends, begin, side="right")) - 1
        pieces = []
        for index in range(first, len(self.shards)):
            offset = int(self._ends[index])
            if offset >= end:
                break
            piece = self.shards[index][max(begin - offset, 0) : end - offset]
            if self.vocab is not None and len(piece):
                check_ids(piece, self.vocab, self.paths[index])
            pieces.append(piece)
        return np.asarray(pieces[0]) if len(pieces) == 1 else np.concatenate([np.empty(0, np.uint16), *pieces])


def write(pattern: Path, arrays: Iterable[np.ndarray], shard_tokens: int = SHARD_TOKENS) -> tuple[Path, ...]:
    """Write token arrays one behind the other into shards named `pattern % 0`, `pattern % 1`, ...

    If the first array is of uint32 the shards are wide, else those of 16 bits. Holds one array at a time. Each shard
    is written under a temporary name and renamed when it is complete.
    Raises DataError when there are no tokens, or an id does not fit.
    """
    paths = []
    with contextlib.ExitStack() as stack:
        writer, width = None, 0
        for array in arrays:
            width = width or (4 if array.dtype == np.uint32 else 2)
            last = (1 << 8 * width) - 1
            if len(array) and not 0 <= int(array.min()) <= int(array.max()) <= last:
                raise DataError(
                    f"token ids {array.min()}..{array.max()} do not fit 0..{last}; write them as uint32 arrays"
                )
            while len(array):
                if writer is None:
                    path = pattern.parent / (pattern.name % len(paths))
                    writer = stack.enter_context(_Writer(path, width))
                    paths.append(path)
                room = shard_tokens - writer.count
                writer.append(array[:room])
                array = array[room:]
                if writer.count == shard_tokens:
                    writer.finish()
                    writer = None
        if writer is not None:
            writer.finish()
    if not paths:
        raise DataError(f"no tokens to write to {pattern}; the corpus is empty, give it at least one document")
    return tuple(paths)


class _Writer:
    """One shard under a temporary name; it gets its own name with `finish`, and is removed if that never
    comes.
    """

    def __init__(self, path: Path, width: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        self._file, self._temporary, self._path = os.fdopen(handle, "wb"), Path(name), path
        self._file.write(bytes(HEADER_BYTES))
        self.count, self._width = 0, width

    def append(self, array: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(array, dtype=f"<u{self._width}").data)
        self.count += len(array)

    def finish(self) -> None:
        header = np.zeros(HEADER_BYTES // 4, dtype="<i4")
        kind = next(kind for kind, width in KINDS.items() if width == self._width)
        header[:3] = *kind, self.count
        self._file.seek(0)
        self._file.write(header.tobytes())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.chmod(self._temporary, 0o644)
        os.replace(self._temporary, self._path)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *failure: object) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)
