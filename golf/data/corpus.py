"""From texts to a corpus on disk: tokenizer, shards and manifest, in a folder that appears when complete."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golf.contracts import Corpus, DataError, Sink, emit
from golf.data import shards
from golf.data.speaking import speaker
from golf.data.tokenizer import Tokenizer, train
from golf.host import write_atomic

MANIFEST, TOKENIZER = "manifest.json", "tokenizer.model"


@dataclass(frozen=True, kw_only=True)
class Source:
    """The texts of a corpus. Both splits are read more than once, so each is a function that begins anew.

    tokenizer: that of a model file, or None to train one of `vocab` pieces on the train split.
    encode: how texts become token ids where they are not plain documents; it may leave a file beside the shards.
    """

    name: str
    train: Callable[[], Iterable[str]]
    val: Callable[[], Iterable[str]]
    vocab: int
    tokenizer: bytes | None = None
    encode: Callable[[Path, str, Tokenizer, Iterable[str]], Iterator[np.ndarray]] | None = None


def digest_of(value: Any) -> str:
    """A short name for a JSON value, for folders."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prepare(folder: Path, source: Callable[[], Source], sink: Sink) -> Corpus:
    """The corpus in `folder`, prepared from `source()` unless it is there already, complete and unaltered.

    Everything is built in a folder beside it and renamed, so that a killed run leaves no half corpus, and of
    two runs at once the second uses what the first made. Raises DataError as reading, training and writing
    do.
    """
    found = reopen(folder)
    if found is not None:
        return found
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        made = Path(temporary) / "made"
        _build(made, source(), sink)
        if folder.exists() and reopen(folder) is None:
            emit(sink, "data", what="altered corpus replaced", done=1, total=1)
            shutil.move(folder, Path(temporary) / "altered")
        try:
            os.rename(made, folder)
        except OSError as error:
            if reopen(folder) is None:
                raise DataError(
                    f"corpus cannot be moved to {folder} ({error}); check the cache folder's rights"
                ) from error
    return reopen(folder)


def reopen(folder: Path) -> Corpus | None:
    """The corpus that a manifest describes, or None when it is missing or any file is not as it says."""
    try:
        about = json.loads((folder / MANIFEST).read_bytes())
        if any(file_sha256(folder / name) != entry["sha256"] for name, entry in about["files"].items()):
            return None
        found = {"train": shards.find(folder, "train"), "val": shards.find(folder, "val")}
        return Corpus(tokenizer=folder / TOKENIZER, speaker=speaker, **found, **about["corpus"])
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
        return None


def _build(folder: Path, source: Source, sink: Sink) -> None:
    folder.mkdir()
    if source.tokenizer is None:
        emit(sink, "data", what="tokenizer", done=0, total=1)
        model = train(source.train(), source.vocab)
        emit(sink, "data", what="tokenizer", done=1, total=1)
    else:
        model = source.tokenizer
    write_atomic(folder / TOKENIZER, model)
    tokenizer = speaker(model)
    if tokenizer.vocab != source.vocab:
        raise DataError(
            f"data.tokenizer has {tokenizer.vocab} pieces where data.vocab={source.vocab}; set "
            f"data.vocab={tokenizer.vocab}"
        )
    digest, facts = hashlib.sha256(), {}
    for index, (split, texts) in enumerate((("train", source.train), ("val", source.val))):
        emit(sink, "data", what="shards", done=index, total=2)
        digest.update(split.encode())
        tally = _Tally(digest)
        passing = tally.pass_on(texts(), f"the {split} split of corpus {source.name}")
        coded = (
            source.encode(folder, split, tokenizer, passing) if source.encode else tokenizer.encode_documents(passing)
        )
        shards.write(folder / f"{source.name}_{split}_%06d.bin", _count(coded, tally))
        facts[split] = {"documents": tally.documents, "bytes": tally.bytes, "tokens": tally.tokens}
    emit(sink, "data", what="shards", done=2, total=2)
    corpus = {
        "name": source.name,
        "sha256": digest.hexdigest(),
        "tokenizer_sha256": tokenizer.sha256,
        "tokenizer_counted": source.tokenizer is None,
        "vocab": tokenizer.vocab,
        "bos": tokenizer.bos,
    }
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in sorted(folder.iterdir())
    }
    manifest = {"corpus": corpus, "splits": facts, "files": files}
    write_atomic(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


class _Tally:
    """Counts texts on their way to the tokenizer, and hashes them with their borders."""

    def __init__(self, digest: Any) -> None:
        self._digest = digest
        self.documents = self.bytes = self.tokens = 0

    def pass_on(self, texts: Iterable[str], what: str) -> Iterator[str]:
        """The same texts. Raises DataError where there is none."""
        for text in texts:
            data = text.encode()
            self._digest.update(len(data).to_bytes(8, "little") + data)
            self.documents += 1
            self.bytes += len(data)
            yield text
        if not self.documents:
            raise DataError(f"{what} is empty; give it at least one document")


def _count(arrays: Iterable[np.ndarray], tally: _Tally) -> Iterator[np.ndarray]:
    for array in arrays:
        tally.tokens += len(array)
        yield array
