"""A user's own text: a corpus from document files, and the tokens of any file or folder worth scoring."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from golf.contracts import Corpus, DataError, Sink, SpecError
from golf.data import corpus, documents, shards
from golf.data.corpus import Source
from golf.data.speaking import TokenizerFile, spelled
from golf.data.tokenizer import Tokenizer

# Text kept for each token that is wanted of it: a token spells two to five characters, and one in several is drawn.
CHARACTERS = 16


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Document files (`.jsonl`, `.jsonl.zst`, `.txt`) as a corpus.

    val: files that validate; if there are none, the share `val_share` of the training documents, chosen by
    their hash.
    tokenizer: a SentencePiece model file of `vocab` pieces, or a `TokenizerJson`; empty: one is trained on the train
    split, and counted.
    """

    kind: ClassVar[str] = "documents"

    train: tuple[str, ...]
    val: tuple[str, ...] = ()
    tokenizer: str | TokenizerFile = ""
    vocab: int = 1024
    val_share: float = 0.01

    def __post_init__(self) -> None:
        if not self.train:
            raise SpecError("data.train names 0 document files; give at least 1")
        if self.vocab < 300:
            raise SpecError(f"data.vocab={self.vocab} is out of range; give at least 300")
        if not 0 < self.val_share < 0.5:
            raise SpecError(f"data.val_share={self.val_share} is out of range; give more than 0 and less than 0.5")

    def open(self, cache: Path, sink: Sink) -> Corpus:
        """The corpus under `cache`, prepared anew whenever a file's contents change.

        A training document that equals a validation document is left out. Raises DataError for files that are
        missing or malformed, for an empty split, and for a tokenizer of another size.
        """
        key = corpus.digest_of(self.identity())
        return corpus.prepare(cache / "corpora" / f"{self.kind}_{key}", partial(self.source, sink), sink)

    def identity(self) -> Any:
        """A JSON value that changes whenever a file's contents do. Raises DataError for files that are missing."""
        named = [self.tokenizer] if self.tokenizer and isinstance(self.tokenizer, str) else []
        for path in map(Path, (*self.train, *self.val, *named)):
            if not path.is_file():
                raise DataError(f"{path} does not exist; correct data.train, data.val or data.tokenizer")
        contents = [corpus.file_sha256(Path(name)) for name in (*self.train, *self.val)]
        if self.tokenizer:
            contents.append(hashlib.sha256(spelled(self.tokenizer)).hexdigest())
        return [self.kind, contents, len(self.train), len(self.val), self.vocab, self.val_share]

    def source(self, sink: Sink) -> Source:
        train, val = self._splits()
        tokenizer = spelled(self.tokenizer) if self.tokenizer else None
        return Source(name=self.kind, train=train, val=val, vocab=self.vocab, tokenizer=tokenizer)

    def _splits(self) -> tuple[Callable[[], Iterator[str]], Callable[[], Iterator[str]]]:
        train, val = [[Path(name) for name in names] for names in (self.train, self.val)]
        limit = int(self.val_share * (1 << 32))
        held = {_hash(text) for text in self.read(val)}

        def validates(text: str) -> bool:
            return _hash(text) in held if val else int.from_bytes(_hash(text)[-4:], "big") < limit

        return (
            lambda: (text for text in self.read(train) if not validates(text)),
            lambda: self.read(val) if val else filter(validates, self.read(train)),
        )

    def read(self, paths: list[Path]) -> Iterator[str]:
        """The documents of several files in turn."""
        return documents.read_all(paths)


def tokens_of(path: Path, tokenizer: Tokenizer, wanted: int | None = None) -> shards.Tokens:
    """What `path` holds, as tokens that stay on disk: a shard, a folder of validation shards, or a document
    file, whose documents each begin with BOS.

    Documents are spooled through a temporary shard, so memory does not grow with the file.
    wanted: tokens that will be drawn at random; documents from all over a file are left out where several times as
        many remain, since spelling a hundred megabytes takes a minute.
    Raises DataError for anything malformed, and for shards of another tokenizer.
    """
    if path.is_dir() or path.suffix == ".bin":
        paths = shards.find(path, "val") if path.is_dir() else (path,)
        for shard in paths:
            tokenizer.check_spelled(shards.read(shard, tokenizer.vocab), shard)
        return shards.Tokens(paths)
    with tempfile.TemporaryDirectory(prefix="golf-tokens-") as folder:
        texts = documents.read_all([path])
        arrays = tokenizer.encode_documents(texts if wanted is None else thinned(texts, CHARACTERS * wanted))
        # The files lose their names here and stay readable while they are mapped.
        return shards.Tokens(shards.write(Path(folder) / "tokens_%06d.bin", arrays), tokenizer.vocab)


def thinned(texts: Iterable[str], characters: int) -> list[str]:
    """Every n-th document, n a power of two: so many characters at least or, where documents are alike, up to three
    times as many. All of them where there are no more."""
    kept, held, n, limit = [], 0, 1, 3 * characters
    for number, text in enumerate(texts):
        if number % n == 0:
            kept.append(text)
            held += len(text)
        if held >= limit:
            half = kept[::2]
            rest = sum(map(len, half))
            # One long document may hold nearly all there is.
            kept, held, n, limit = (half, rest, 2 * n, limit) if rest >= characters else (kept, held, n, 2 * limit)
    return kept


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
