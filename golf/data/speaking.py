"""Whose tokens a model speaks: SentencePiece's, or those of a `tokenizer.json`, told apart by what the file is."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol

from golf.contracts import ByteTable, DataError
from golf.data.tokenizer import Tokenizer

# Names stay text until used: what never reads a tokenizer.json does without its code.
KINDS = {"json": "golf.data.tokenizer_json:JsonTokenizer"}


class TokenizerFile(Protocol):
    """A tokenizer in a recipe that brings the code to read it."""

    def read(self) -> bytes:
        """The file as golf keeps it. Raises DataError."""
        ...


def speaker(source: Path | bytes) -> Tokenizer:
    """The tokenizer of a file or of a file's bytes. Raises DataError as its kind does."""
    if not is_json(source):
        return Tokenizer(source)
    module, name = KINDS["json"].split(":")
    return getattr(importlib.import_module(module), name)(source)


def byte_table(source: Path | bytes) -> ByteTable:
    """Bytes that each token of such a file spells. Raises DataError as its kind does."""
    return speaker(source).table()


def is_json(source: Path | bytes) -> bool:
    data = source if isinstance(source, bytes) else source.read_bytes() if source.is_file() else b""
    return data.lstrip()[:1] == b"{"


def spelled(file: str | TokenizerFile) -> bytes:
    """What a recipe names, as golf keeps it. Raises DataError for a plain path to anything but a SentencePiece model:
    the run as one file would lack the code for it.
    """
    if not isinstance(file, str):
        return file.read()
    if is_json(Path(file)):
        raise DataError(f"{file} is no SentencePiece model; write tokenizer=TokenizerJson(file={file!r}) in the recipe")
    return Path(file).read_bytes()
