"""Submissions that golf did not make: a folder with a `verify.json` that says what is where.

    {"entry": "predictor.py",            functions of golf.eval.validity.interface ("file.py:NAME" for an object)
     "artifact": ["weights.npz"],        counted; the first is handed to `open`
     "code": ["predictor.py"],           counted (default: every .py file of the folder)
     "tokenizer": "tokenizer.model",     or tokenizer.json; counted when "tokenizer_counted" is true
     "validation": ["val.bin"],          .bin shards, one .npy, or document files, which are encoded
     "documents": ["val.jsonl"],         the raw texts behind the validation tokens
     "train": ["train.bin"],             shards or document files it was trained on
     "track": "10min_16mb"}              or "cap_bytes", "train_seconds", "eval_seconds" by themselves

Optional: "byte_table" (JSON of "bytes", "opens", "boundary", one entry a token), "transform" (true: the entry has
`encode` and `decode`; "validation" then holds tokens) and its "markers" (tokens that spell nothing), "isolated"
(documents are scored apart), "environment" (variables the entry needs; their bytes count), "split" (documents,
first_sha256, last_sha256), "stock" (a key of KNOWN_RATIOS), "beats" (scores of the record to beat, one a seed),
"record" (false: no claim over seeds). What is stated of the score comes from `submission.json`, logs from
`train_seed<seed>.log`, or any `*<seed>.log`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from golf import track as tracks
from golf.contracts import ByteTable, DataError, SpecError
from golf.eval.validity.accounting import KNOWN_RATIOS
from golf.eval.validity.splits import digest, split_documents
from golf.publish.verify.subject import (
    Subject,
    encoded,
    is_number,
    read_json,
    read_texts,
    read_tokens,
    seed_number,
    seed_of,
    sha256,
    with_tokenizer,
)  # fmt: skip

MANIFEST, METADATA, SCRIPT = "verify.json", "submission.json", "train_gpt.py"
TEXT, NAMES, TABLE, SWITCH = "a text", "a file or a list of files", "an object", "true or false"
WHOLE, TIME, WHOLES, SCORES = "a whole number", "a time in seconds", "a list of whole numbers", "a list of numbers"
FIELDS = {
    "entry": TEXT, "artifact": NAMES, "code": NAMES, "tokenizer": TEXT, "tokenizer_counted": SWITCH,
    "validation": NAMES, "documents": NAMES, "train": NAMES, "track": TEXT, "cap_bytes": WHOLE, "train_seconds": TIME,
    "eval_seconds": TIME, "byte_table": TEXT, "markers": WHOLES, "transform": SWITCH, "isolated": SWITCH,
    "environment": TABLE, "split": TABLE, "stock": TEXT, "beats": SCORES, "record": SWITCH, "bos": WHOLE,
}  # fmt: skip
TEXTS = (".jsonl", ".jsonl.zst", ".txt")


def open_foreign(folder: Path) -> Subject:
    """Read the folder's manifest and metadata. Raises DataError for what is missing or malformed."""
    about = read_json(folder / MANIFEST)
    for name in about.keys() - FIELDS:
        near = difflib.get_close_matches(name, FIELDS, n=1)
        raise DataError(f"{MANIFEST} has no field {name!r}; " + (f"did you mean {near[0]!r}?" if near else "drop it"))
    for name, value in about.items():
        if not _is(FIELDS[name], value):
            raise DataError(f"{name!r} of {MANIFEST} is {value!r}; it has to be {FIELDS[name]}")
    if "entry" not in about:
        raise DataError(f'{MANIFEST} names no "entry": the file with open, distribution and observe')
    entry = about["entry"]
    subject = Subject(name=folder.resolve().name, kind="foreign", folder=folder, entry=entry, loop=entry)
    _limits(subject, about)
    _files(subject, folder, about)
    _data(subject, folder, about)
    _claims(subject, folder, about)
    return subject


def _is(kind: str, value: Any) -> bool:
    """Whether a value is what a field of the manifest holds."""
    each = value if isinstance(value, list) else [value]
    if kind in (WHOLES, SCORES):
        return isinstance(value, list) and all(is_number(one, whole=kind is WHOLES) for one in value)
    if kind is NAMES:
        return all(isinstance(one, str) for one in each)
    if kind in (WHOLE, TIME):
        return is_number(value, whole=kind is WHOLE) and value >= (kind is TIME)
    return isinstance(value, {TEXT: str, SWITCH: bool, TABLE: dict}[kind])


def _limits(subject: Subject, about: dict[str, Any]) -> None:
    track = tracks.find(about["track"]) if "track" in about else None
    for name in ("cap_bytes", "train_seconds", "eval_seconds"):
        if track is not None and name in about:
            raise DataError(f"{MANIFEST} states track {track.name!r} and a {name} of its own; drop one of the two")
    subject.cap = about.get("cap_bytes", track.cap_bytes if track else None)
    subject.train_limit = about.get("train_seconds", track.train_seconds if track else None)
    subject.eval_limit = about.get("eval_seconds", track.eval_seconds if track else None)


def _files(subject: Subject, folder: Path, about: dict[str, Any]) -> None:
    """What goes along into the clean folder, and what of it counts."""
    code = [folder / name for name in _names(about, "code")] or sorted(folder.glob("*.py"))
    artifacts = paths(folder, about, "artifact")
    for path in (*code, *artifacts):
        if ".." in path.relative_to(folder).parts if path.is_relative_to(folder) else True:
            raise DataError(f"{path} is named in {MANIFEST} and lies outside of {folder}; a submission is one folder")
        name = path.relative_to(folder).as_posix()
        if not path.is_file():
            raise DataError(f"{path} is named in {MANIFEST} and missing")
        subject.files[name] = path
        subject.counted[name] = path.stat().st_size
    subject.artifact = artifacts[0].relative_to(folder).as_posix() if artifacts else ""
    subject.sources = {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8", errors="replace") for path in code
    }
    subject.environment = {str(name): str(value) for name, value in about.get("environment", {}).items()}
    if subject.environment:
        subject.counted["environment"] = sum(len(f"{k}={v}".encode()) for k, v in subject.environment.items())
    if "tokenizer" in about:
        path = folder / about["tokenizer"]
        name = Path(about["tokenizer"]).name
        subject.files[name] = path
        where = subject.counted if about.get("tokenizer_counted") else subject.shown
        where[name] = path.stat().st_size if path.is_file() else 0
        with_tokenizer(subject, path)
    if "byte_table" in about:
        values = read_json(folder / about["byte_table"])
        arrays = [np.array(values.get(name, []), kind) for name, kind in (("bytes", np.int64), ("opens", bool),
                                                                           ("boundary", bool))]  # fmt: skip
        if len({len(array) for array in arrays}) != 1:
            raise DataError(f"{about['byte_table']} needs bytes, opens and boundary, one entry a token each")
        subject.table = ByteTable(*arrays)
    subject.bos = about.get("bos", subject.bos)
    subject.markers = tuple(about.get("markers", ()))
    subject.transform, subject.isolated = bool(about.get("transform")), bool(about.get("isolated"))


def _data(subject: Subject, folder: Path, about: dict[str, Any]) -> None:
    validation, raw, train = (paths(folder, about, name) for name in ("validation", "documents", "train"))
    subject.val_files = tuple(str(path.resolve()) for path in (*validation, *raw))
    subject.train_files = tuple(str(path.resolve()) for path in train)
    if validation and validation[0].name.endswith(TEXTS):
        raw, validation = raw or validation, []
    if raw:
        subject.raw = lambda: read_texts(raw)
    if validation:
        subject.tokens = read_tokens(validation)
    elif raw and subject.speaker is None:
        subject.no_tokens = "the validation text needs a tokenizer to become tokens, and none is named"
    elif raw and subject.transform:
        subject.no_tokens = 'with a transform, "validation" has to name the tokens that were scored'
    elif raw:
        subject.tokens = encoded(read_texts(raw), subject.speaker)
    if train and train[0].name.endswith(TEXTS):
        if subject.speaker is not None:
            subject.train = lambda: subject.speaker.encode_documents(read_texts(train))
            subject.train_tokens = sum(path.stat().st_size for path in train) // 2
    elif train:
        tokens = read_tokens(train)
        subject.train_tokens = len(tokens)
        subject.train = lambda: (tokens[begin : begin + (1 << 22)] for begin in range(0, len(tokens), 1 << 22))
    subject.split_wanted = dict(about.get("split", {}))
    if subject.tokens is not None and subject.split_wanted:
        subject.split_found = split_facts(subject.tokens, subject.bos, subject.vocab)
    subject.known_split = about.get("stock")
    if subject.known_split is not None and subject.known_split not in KNOWN_RATIOS:
        raise SpecError(f"stock={subject.known_split!r} is none of {', '.join(KNOWN_RATIOS)}")


def split_facts(tokens: Sequence[int], bos: int, vocab: int) -> dict[str, Any]:
    """Number of documents, and hashes of the tokens of the first and the last."""
    count, first, last = 0, None, None
    for _, document in split_documents(tokens, bos):
        last = document
        first = document if first is None else first
        count += 1
    digests = [digest(each, vocab) if each is not None else None for each in (first, last)]
    return {"documents": count, "first_sha256": digests[0], "last_sha256": digests[1]}


def _claims(subject: Subject, folder: Path, about: dict[str, Any]) -> None:
    subject.old = [float(score) for score in about.get("beats", ())]
    file = folder / METADATA
    values = read_json(file) if file.is_file() else {}
    results, stated = values.get("seed_results") or {}, values.get("seeds") or []
    if not isinstance(results, dict) or not isinstance(stated, (list, dict)):
        raise DataError(f"{file}: seed_results is an object with an entry a seed, seeds a list of them")
    subject.seeds = [seed_of(seed_number(seed, file), entry) for seed, entry in results.items()]
    subject.listed = [seed_number(seed, file) for seed in stated]
    subject.over_seeds = bool(about.get("record", len(subject.listed) > 1 or len(subject.seeds) > 1))
    whole = seed_of(0, values)
    subject.mean, subject.claimed_bytes = whole.val_bpb, whole.bytes_total
    if not subject.seeds and values:
        subject.seeds = [seed_of(seed_number(values.get("seed", 0), file), values)]
        subject.mean = None
    subject.claim = subject.seeds[0] if subject.seeds else None
    for log in sorted(folder.glob("*.log")):
        numbers = re.findall(r"\d+", log.stem)
        if numbers:
            subject.logs[int(numbers[-1])] = log.read_text(encoding="utf-8", errors="replace")
    names = (SCRIPT, subject.entry.partition(":")[0])
    script = next((folder / name for name in names if (folder / name).is_file()), None)
    subject.source_sha256 = sha256(script) if script else None


def paths(folder: Path, about: dict[str, Any], name: str) -> list[Path]:
    """The files a field names, patterns filled in. Raises DataError when there is none."""
    found = []
    for each in _names(about, name):
        matches = sorted(folder.glob(each)) if any(c in each for c in "*?[") else [folder / each]
        if not matches or not matches[0].is_file():
            raise DataError(f'"{name}" of {MANIFEST} names {each}, and {folder} has no such file')
        found += matches
    return found


def _names(about: dict[str, Any], name: str) -> list[str]:
    value = about.get(name, [])
    return [value] if isinstance(value, str) else list(value)
