"""What `golf verify` is pointed at, whoever made it: its files, its data, and what it states."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from golf.contracts import ByteTable, DataError
from golf.data import documents, shards
from golf.data.speaking import speaker
from golf.data.tokenizer import Tokenizer
from golf.eval.validity.accounting import Piece
from golf.eval.validity.claims import Seed
from golf.publish.verify.vocabulary import pieces


@dataclass(kw_only=True)
class Subject:
    """A submission laid out for the checks. None or empty: not there, and the checks that need it say so.

    folder: where it lies.  entry, loop: files (`predictor.py`, `predictor.py:NAME`) of the predictor's functions and
        of the submission's own `evaluate`, in the folder that `files` make up.
    ours: names in there that golf put in.  script: files with which golf's `Script` scores by the submission's own
        script alone.
    counted, shown: bytes by file, those under the cap and those that are free.
    tokens: the validation stream.  raw: its documents' texts.  train: arrays of training tokens; train_tokens: how
        many, about.
    context: tokens its predictions look back at, where that is known.  probe: at how many of them to stop while looking
        for what moves with what; None: look through all of them.
    windows: those that score the stream, where it is known to be scored so.
    claim: what is stated of the artifact at hand.  seeds: of every seed.
    """

    name: str
    kind: str
    folder: Path | None = None
    entry: str = ""
    files: dict[str, Path | bytes] = field(default_factory=dict)
    artifact: str = ""
    loop: str = ""
    ours: frozenset[str] = frozenset()
    script: dict[str, Path | bytes] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    shown: dict[str, int] = field(default_factory=dict)
    cap: int | None = None
    train_limit: float | None = None
    eval_limit: float | None = None
    sources: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    tokens: Sequence[int] | None = None
    no_tokens: str = "the submission names no validation tokens"
    bos: int = 1
    isolated: bool = False
    context: int | None = None
    probe: int | None = None
    windows: Callable[[], Iterator[Any]] = lambda: iter(())
    table: ByteTable | None = None
    pieces: list[Piece] = field(default_factory=list)
    speaker: Tokenizer | None = None
    markers: tuple[int, ...] = ()
    transform: bool = False
    raw: Callable[[], Iterable[str]] | None = None
    train: Callable[[], Iterable[np.ndarray]] | None = None
    train_tokens: int = 0
    val_files: tuple[str, ...] = ()
    train_files: tuple[str, ...] = ()
    split_found: dict[str, Any] = field(default_factory=dict)
    split_wanted: dict[str, Any] = field(default_factory=dict)
    known_split: str | None = None
    claim: Seed | None = None
    claimed_bytes: int | None = None
    seeds: list[Seed] = field(default_factory=list)
    listed: list[int] = field(default_factory=list)
    logs: dict[int, str] = field(default_factory=dict)
    source_sha256: str | None = None
    mean: float | None = None
    old: list[float] = field(default_factory=list)
    over_seeds: bool = False
    retrain: str = ""

    @property
    def vocab(self) -> int:
        """Entries of the vocabulary; of one that nothing tells of, those the validation tokens need."""
        return self.table.vocab if self.table is not None else int(np.max(self.tokens[:])) + 1


def read_json(file: Path) -> dict[str, Any]:
    """An object from a JSON file. Raises DataError."""
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{file} must hold one JSON object, found {type(values).__name__}")
    return values


def with_tokenizer(subject: Subject, model: Path) -> None:
    """Fill in what a SentencePiece model or a tokenizer.json says: its table, its pieces, its BOS. Raises DataError for
    anything else."""
    subject.speaker = speaker(model)
    subject.table, subject.bos = subject.speaker.table(), subject.speaker.bos
    subject.pieces = pieces(model, subject.speaker)


def encoded(texts: Iterable[str], speaker: Tokenizer) -> np.ndarray:
    """The stream of some documents, each behind BOS."""
    return np.concatenate([np.empty(0, np.uint16), *speaker.encode_documents(texts)])


def read_texts(paths: Sequence[Path]) -> Iterator[str]:
    yield from documents.read_all(paths)


def read_tokens(paths: Sequence[Path]) -> Sequence[int]:
    """A stream from shards (`.bin`) or one `.npy` of integers. Raises DataError."""
    if len(paths) == 1 and paths[0].suffix == ".npy":
        array = np.load(paths[0], allow_pickle=False)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise DataError(f"{paths[0]} holds {array.dtype} {array.shape}; a stream is one-dimensional integers")
        return array
    return shards.Tokens(paths)


def seed_of(number: int, values: Mapping[str, Any]) -> Seed:
    """One entry of `seed_results`, in the challenge's spelling or golf's. Clocks in ms or s. Raises DataError."""
    if not isinstance(values, Mapping):
        raise DataError(f"the results of seed {number} are {values!r}; they have to be an object")

    def first(*names: str, whole: bool = False) -> Any:
        name = next((name for name in names if values.get(name) is not None), None)
        if name is not None and not (is_number(values[name], whole=whole) and values[name] >= whole):
            kind = "a whole number above 0" if whole else "a number, and not below 0"
            raise DataError(f"{name} of seed {number} is {values[name]!r}; it has to be {kind}")
        return values[name] if name is not None else None

    milliseconds = first("train_wallclock_ms")
    train = first("train_time_s", "train_seconds", "train_time_seconds")
    return Seed(
        seed=number,
        val_loss=first("val_loss"),
        val_bpb=first("val_bpb"),
        tokens=first("val_tokens", "tokens_scored", "target_tokens", whole=True),
        bytes=first("val_bytes", "bytes_scored", whole=True),
        bytes_total=first("bytes_total", "artifact_bytes", whole=True),
        train_seconds=train if train is not None else milliseconds / 1000 if milliseconds is not None else None,
        eval_seconds=first("eval_time_s", "eval_seconds"),
        unquantized=first("pre_quant_val_bpb", "val_bpb_unquantized"),
    )


def seed_number(value: Any, file: Path) -> int:
    """A seed, as a number or spelled. Raises DataError."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{file} names a seed {value!r}; a seed is a whole number") from None


def is_number(value: Any, *, whole: bool = False) -> bool:
    """Whether a value of JSON is a finite number, or a whole one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and (not whole or value == int(value))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
