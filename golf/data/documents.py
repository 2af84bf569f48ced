"""Texts of documents: `.jsonl` and `.jsonl.zst` (a `{"text": ...}` a line), `.txt` and `.tokens` (one a file)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from golf.contracts import DataError

TEXTS = (".txt", ".tokens")  # the latter are WikiText's
SUFFIXES = (".jsonl", ".jsonl.zst", *TEXTS)
READ_BYTES = 1 << 17


def read(path: Path) -> Iterator[str]:
    """The documents of one file, one at a time, in file order.

    Raises DataError naming file and line for a missing file, an unknown suffix, undecodable bytes, a broken
    zstd frame, a line that is not JSON, or one without a text.
    """
    if not path.exists():
        raise DataError(f"document file {path} does not exist; correct the path")
    if path.is_dir():
        raise DataError(f"{path} is a folder; name the document files in it")
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"{path} ends in none of {', '.join(SUFFIXES)}; convert it to one of these")
    if path.suffix in TEXTS:
        yield _decode(path.read_bytes(), str(path))
        return
    for where, entry in entries(path):
        text = entry.get("text") if isinstance(entry, dict) else None
        if not isinstance(text, str):
            raise DataError(f'{where} has no string under "text"; write one {{"text": ...}} object a line')
        yield spelled(text, where)


def entries(path: Path) -> Iterator[tuple[str, Any]]:
    """(file and line, value) of each line of a `.jsonl` or `.jsonl.zst` file that is not blank."""
    for number, line in enumerate(_lines(path), 1):
        where = f"{path} line {number}"
        if line.strip():
            try:
                yield where, json.loads(_decode(line, where))
            except json.JSONDecodeError as error:
                raise DataError(f'{where} is not JSON ({error}); write one {{"text": ...}} object a line') from error


def read_all(paths: Iterable[Path]) -> Iterator[str]:
    """The documents of several files in turn. Raises DataError, behind the last, when none holds any text."""
    empty, names = True, list(paths)
    for path in names:
        for text in read(path):
            empty = empty and not text.strip()
            yield text
    if empty and names:
        raise DataError(f"{', '.join(map(str, names))}: no text in there; give files with some")


def _lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        if path.suffix != ".zst":
            yield from file
            return
        rest = b""
        for piece in _decompressed(file, path):
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines
        yield rest


def _decompressed(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """The contents of all zstd frames of a file. The library's own reader takes a cut file for a whole."""
    import zstandard  # only compressed documents need it

    frame = None
    try:
        while data := file.read(READ_BYTES):
            while data:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(data)
                data = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise DataError(f"{path} is no zstd file ({error}); compress it again") from error
    if frame is not None:
        raise DataError(f"{path} ends within a zstd frame; it was cut off, fetch or compress it again")


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} has byte 0x{data[error.start]:02x} at offset {error.start}, which is not UTF-8; save it as UTF-8"
        ) from error


def spelled(text: str, where: str) -> str:
    """The text, when UTF-8 can spell it; else raises DataError."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where} has half of a surrogate pair, which UTF-8 cannot spell; remove it") from error
    return text
