"""The challenge's published FineWeb shards, where `golf data fetch` or a user put them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from golf.contracts import Corpus, DataError, Sink, SpecError, emit
from golf.data import corpus, shards
from golf.data.tokenizer import Tokenizer

# Read from each training shard for the corpus digest: the published 16 GB would take half a minute at every
# start.
SAMPLED_BLOCKS, BLOCK_TOKENS = 8, 4096


@dataclass(frozen=True, kw_only=True)
class FineWeb:
    """Published shards `fineweb_{train,val}_%06d.bin` and their tokenizer `fineweb_<pieces>_bpe.model`.

    tokenizer: "sp" and its number of pieces.  folder: where the shards lie; empty: `fineweb/<tokenizer>` in
    the cache.
    train_shards: the first so many are used; there must be at least one.
    """

    tokenizer: str = "sp1024"
    folder: str = ""
    train_shards: int = 80

    def __post_init__(self) -> None:
        if not re.fullmatch(r"sp[1-9]\d*", self.tokenizer):
            raise SpecError(f"data.tokenizer={self.tokenizer!r} is no published one; write sp1024, sp4096 or sp8192")
        if self.train_shards < 1:
            raise SpecError(f"data.train_shards={self.train_shards} is out of range; give at least 1")

    def open(self, cache: Path, sink: Sink) -> Corpus:
        """The corpus as it lies there. All validation ids and sampled training ids are compared with the
        tokenizer.

        `sha256` covers the validation shards in full, and of each training shard the size and evenly spaced
        blocks. Raises DataError when files are missing or malformed, or shards and tokenizer do not belong
        together.
        """
        folder = Path(self.folder) if self.folder else cache / "fineweb" / self.tokenizer
        model = self.find_tokenizer(folder)
        tokenizer = Tokenizer(model)
        train, val = shards.find(folder, "train")[: self.train_shards], shards.find(folder, "val")
        digest = hashlib.sha256()
        for done, path in enumerate(val):
            emit(sink, "data", what="validation shards", done=done, total=len(val))
            tokenizer.check_spelled(shards.read(path, tokenizer.vocab), path)
            digest.update(corpus.file_sha256(path).encode())
        emit(sink, "data", what="validation shards", done=len(val), total=len(val))
        for path in train:
            digest.update(_sample_sha256(path, tokenizer.vocab))
        return Corpus(
            name=f"fineweb_{self.tokenizer}",
            sha256=digest.hexdigest(),
            train=train,
            val=val,
            tokenizer=model,
            tokenizer_sha256=tokenizer.sha256,
            tokenizer_counted=False,
            vocab=tokenizer.vocab,
            bos=tokenizer.bos,
            speaker=Tokenizer,
        )

    def find_tokenizer(self, folder: Path) -> Path:
        """Beside the shards, or in the published layout (`datasets/<shards>/`, `tokenizers/`)."""
        name = f"fineweb_{self.tokenizer.removeprefix('sp')}_bpe.model"
        places = (folder / name, folder / "tokenizers" / name, folder.parent.parent / "tokenizers" / name)
        for path in places:
            if path.is_file():
                return path
        missing = f"no {name} beside {folder}" if folder.is_dir() else f"no folder {folder}"
        raise DataError(
            f"there is {missing}; run `golf data fetch --tokenizer {self.tokenizer}` or set data.folder to "
            "where the published files lie"
        )


def _sample_sha256(path: Path, vocab: int) -> bytes:
    """Hash of a shard's size and of blocks spread evenly over it. Raises DataError for an id beyond the
    vocabulary.
    """
    tokens = shards.read(path)
    digest = hashlib.sha256(len(tokens).to_bytes(8, "little"))
    for begin in np.linspace(0, max(len(tokens) - BLOCK_TOKENS, 0), SAMPLED_BLOCKS).astype(int):
        block = tokens[begin : begin + BLOCK_TOKENS]
        shards.check_ids(block, vocab, path)
        digest.update(block.tobytes())
    return digest.digest()
