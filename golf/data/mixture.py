"""Several sources as one corpus, drawn by weight.

Of every PERIOD windows each source gives its share, in an order that a keyed permutation names; the n-th window that
falls to a source is the n-th of its own endless, shuffled reading. So a position is two numbers, as in every stream:
resuming is exact, ranks take turns, and nothing but the order of one period is held in memory.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from golf.contracts import Corpus, DataError, DataSpec, Sink, SpecError, emit
from golf.data import corpus as corpora
from golf.data import dialogues
from golf.data.corpus import Source
from golf.data.speaking import TokenizerFile, speaker, spelled
from golf.data.stream import FEISTEL_ROUNDS, SAMPLE_EPOCH, Position, Windows, permute, windows
from golf.data.tokenizer import train
from golf.host import write_atomic

# Shares are rounded to this many parts; ordering a period takes about ten milliseconds.
PERIOD = 1 << 16


@runtime_checkable
class Texts(Protocol):
    """A corpus that can be tokenized with a tokenizer from outside."""

    def identity(self) -> Any:
        """A JSON value that changes whenever the text or its split does."""
        ...

    def source(self, sink: Sink) -> Source: ...


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Sources drawn by weight, which need not add up to 1. The validation text is that of all of them.

    A source of text is tokenized with the mixture's tokenizer, in the place of its own; shards that are tokenized
    already (FineWeb) fix the tokenizer for all.
    tokenizer: a SentencePiece model file of `vocab` pieces, or a `TokenizerJson`; empty: one is trained, counted in
    the ledger, on the sources' training text in the proportion of their weights.
    """

    sources: tuple[tuple[float, DataSpec], ...]
    tokenizer: str | TokenizerFile = ""
    vocab: int = 1024

    def __post_init__(self) -> None:
        weights = [weight for weight, _ in self.sources]
        if not weights or min(weights) <= 0:
            raise SpecError(f"data.sources have weights {weights}; give one or more, each above 0")
        if min(weights) < sum(weights) / PERIOD:
            raise SpecError(
                f"data.sources have weights {weights}; the smallest is below 1/{PERIOD} of their sum, leave it out"
            )

    def open(self, cache: Path, sink: Sink) -> Corpus:
        """The corpus under `cache`, each source prepared in a folder of its own, anew whenever it changes.

        A training document that equals a validation document of any source of text is left out. Raises DataError
        as the sources do, and when shards speak another tokenizer.
        """
        parts = _Parts(self, cache, sink)
        opened = [parts.open(index) for index in range(len(self.sources))]
        digest = hashlib.sha256()
        for part in opened:
            digest.update(part.sha256.encode())
        first, val = opened[0], [path for part in opened for path in part.val]
        return Corpus(
            name="mixture",
            sha256=digest.hexdigest(),
            train=tuple(path for part in opened for path in part.train),
            val=_side_by_side(cache / "corpora" / f"mixture_{digest.hexdigest()[:16]}", val),
            tokenizer=first.tokenizer,
            tokenizer_sha256=first.tokenizer_sha256,
            tokenizer_counted=parts.counted,
            vocab=first.vocab,
            bos=first.bos,
            speaker=first.speaker,
            draw=partial(_draw, [(weight, part) for (weight, _), part in zip(self.sources, opened)]),
        )


class _Parts:
    """The sources of a mixture while it is being opened; texts are read only when something has to be built."""

    def __init__(self, spec: Mixture, folder: Path, sink: Sink) -> None:
        self._spec, self._folder, self._sink = spec, folder / "corpora", sink
        self._texts = {i: part for i, (_, part) in enumerate(spec.sources) if isinstance(part, Texts)}
        others = {i: part for i, (_, part) in enumerate(spec.sources) if i not in self._texts}
        self._tokenized = {i: part.open(folder, sink) for i, part in others.items()}
        self._identities = {i: part.identity() for i, part in self._texts.items()}
        self._source = cache(lambda index: self._texts[index].source(sink))
        self.counted = not spec.tokenizer and not self._tokenized
        self._tokenizer = self._find_tokenizer()
        self._speaker = speaker(self._tokenizer)
        if self._speaker.vocab != spec.vocab:
            raise DataError(
                f"{self._tokenizer} has {self._speaker.vocab} pieces where data.vocab={spec.vocab}; set "
                f"data.vocab={self._speaker.vocab}"
            )

    def open(self, index: int) -> Corpus:
        if index in self._tokenized:
            found = self._tokenized[index]
            if found.tokenizer_sha256 != self._speaker.sha256:
                raise DataError(
                    f"{found.name} speaks the tokenizer with SHA-256 {found.tokenizer_sha256[:16]}..., the mixture "
                    f"{self._speaker.sha256[:16]}...; shards of one mixture need the same"
                )
            return found
        key = corpora.digest_of([index, self._identities, self._speaker.sha256])
        made = corpora.prepare(self._folder / f"part_{key}", partial(self._shared, index), self._sink)
        return dialogues.supervised(made)

    def _shared(self, index: int) -> Source:
        """A source in the mixture's tokenizer, without what validates anywhere in the mixture."""
        source, held = self._source(index), self._held
        return replace(
            source,
            train=lambda: (text for text in source.train() if _hash(text) not in held),
            vocab=self._speaker.vocab,
            tokenizer=self._tokenizer.read_bytes(),
        )

    @cached_property
    def _held(self) -> set[bytes]:
        return {_hash(text) for index in self._texts for text in self._source(index).val()}

    def _find_tokenizer(self) -> Path:
        if isinstance(self._spec.tokenizer, str) and self._spec.tokenizer:
            path = Path(self._spec.tokenizer)
            if not path.is_file():
                raise DataError(f"{path} does not exist; correct data.tokenizer")
            spelled(self._spec.tokenizer)
            return path
        if self._spec.tokenizer:
            data = spelled(self._spec.tokenizer)
            path = self._folder / f"tokenizer_{hashlib.sha256(data).hexdigest()[:16]}" / corpora.TOKENIZER
            write_atomic(path, data)
            return path
        if self._tokenized:
            return next(iter(self._tokenized.values())).tokenizer
        weights = [weight for weight, _ in self._spec.sources]
        key = corpora.digest_of([self._identities, weights, self._spec.vocab])
        path = self._folder / f"tokenizer_{key}" / corpora.TOKENIZER
        if not path.is_file():
            emit(self._sink, "data", what="tokenizer", done=0, total=1)
            texts = [self._source(index).train() for index in range(len(weights))]
            write_atomic(path, train(interleave(weights, texts), self._spec.vocab))
            emit(self._sink, "data", what="tokenizer", done=1, total=1)
        return path


def _side_by_side(folder: Path, paths: Sequence[Path]) -> tuple[Path, ...]:
    """Links to the files in one folder, in order of name: a corpus' validation text is found again by its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    links = tuple(folder / f"{index:03d}_{path.name}" for index, path in enumerate(paths))
    for link, path in zip(links, paths):
        temporary = link.with_suffix(f".{os.getpid()}")
        temporary.symlink_to(path.resolve())
        os.replace(temporary, link)
    return links


def interleave(weights: Sequence[float], texts: Sequence[Iterable[str]]) -> Iterator[str]:
    """Texts of several sources such that the characters of each grow in the proportion of its weight; a source
    that ends leaves the rest to the others.
    """
    open_texts = {index: iter(each) for index, each in enumerate(texts)}
    chars = [0.0] * len(weights)
    while open_texts:
        index = min(open_texts, key=lambda index: chars[index] / weights[index])
        text = next(open_texts[index], None)
        if text is None:
            del open_texts[index]
        else:
            chars[index] += len(text)
            yield text


def _draw(parts: Sequence[tuple[float, Corpus]], seq_len: int, seed: int) -> MixedWindows:
    """Every source reads in a shuffle of its own, so that a file named twice does not repeat itself at once."""
    found = [
        windows(part.draw or part.train, seq_len, seed + (index << 32), part.vocab)
        for index, (_, part) in enumerate(parts)
    ]
    return MixedWindows([weight for weight, _ in parts], found, seed)


def apportion(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers in the proportion of the weights that add up to `total` (largest remainders)."""
    exact = [weight / sum(weights) * total for weight in weights]
    whole = [int(each) for each in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: whole[index] - exact[index])
    for index in by_remainder[: total - sum(whole)]:
        whole[index] += 1
    return whole


class MixedWindows(Windows):
    """Windows drawn by weight from those of several sources; an epoch is a period of PERIOD windows."""

    def __init__(self, weights: Sequence[float], parts: Sequence[Windows], seed: int) -> None:
        self._parts, self._seed = parts, seed
        self._quotas = np.array(apportion(weights, PERIOD))
        self._ends = np.cumsum(self._quotas)
        self._starts: list[list[int]] = [[0] for _ in parts]  # of a part's epochs, in its windows
        self.epoch = lru_cache(maxsize=4)(self._epoch)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(source, how many windows of the period went to that source before) of each window of a period."""
        keys = np.random.SeedSequence([self._seed, epoch]).generate_state(FEISTEL_ROUNDS, np.uint64)
        source_P = np.searchsorted(self._ends, permute(np.arange(PERIOD), PERIOD, keys), side="right")
        before_P = np.empty(PERIOD, np.int64)
        for source, quota in enumerate(self._quotas):
            before_P[source_P == source] = np.arange(quota)
        return source_P, before_P

    def count(self, epoch: int) -> int:
        return PERIOD

    def pairs(self, at: Position, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, targets) of the `rows` windows from a position on, int64 [rows, seq_len]."""
        found: list[tuple[np.ndarray, np.ndarray] | None] = [None] * rows
        row = 0
        while row < rows:
            take = min(rows - row, PERIOD - at.index)
            source_P, before_P = self.epoch(at.epoch)
            chosen = source_P[at.index : at.index + take]
            for source in np.unique(chosen).tolist():
                places = np.flatnonzero(chosen == source)
                before = int(before_P[at.index + places[0]])
                for place, *pair in zip(places, *self._own(source, at.epoch, before, len(places))):
                    found[row + place] = pair
            row += take
            at = self.advance(at, take)
        return tuple(np.stack(column) for column in zip(*found))

    def _own(self, source: int, epoch: int, before: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, targets) of the next `rows` windows of a source after `before` of them in a period."""
        part = self._parts[source]
        if epoch != SAMPLE_EPOCH:
            return part.pairs(self._place(source, epoch, before), rows)
        # Calibration has one epoch and goes round in it, wherever a batch or a rank's share begins.
        size = part.count(SAMPLE_EPOCH)
        found = [part.pairs(Position(SAMPLE_EPOCH, number % size), 1) for number in range(before, before + rows)]
        return tuple(map(np.concatenate, zip(*found)))

    def _place(self, source: int, epoch: int, before: int) -> Position:
        """Where a source's own reading stands after `before` of its windows in a period."""
        part = self._parts[source]
        number, starts = epoch * int(self._quotas[source]) + before, self._starts[source]
        while starts[-1] <= number:
            starts.append(starts[-1] + part.count(len(starts) - 1))
        own = bisect_right(starts, number) - 1
        return Position(own, number - starts[own])


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
