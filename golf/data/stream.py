"""A rank's endless, shuffled, resumable reading of shards.

Every epoch cuts each shard into windows behind a fresh random phase and visits all windows of all shards
once, in an order that is a keyed permutation evaluated where it is needed. So a position is two numbers,
whatever the corpus and however many ranks read it: resuming is exact and costs nothing.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from golf.contracts import DataError
from golf.data.shards import Tokens, check_ids

PREFETCH = 4  # batches waiting; reading is far faster than a training step
# Two rounds already permute; on small domains it takes about six until the order shows no trace of the index.
FEISTEL_ROUNDS = 6
# Calibration draws from a shuffle of its own, outside of any epoch a run can reach.
SAMPLE_EPOCH = (1 << 32) - 1


class Position(NamedTuple):
    """Windows of `epoch` before `index` are consumed."""

    epoch: int
    index: int


def permute(index_N: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """The images of `index_N` (int64, each below `size`) under the permutation of 0..size-1 that `keys`
    names.

    A Feistel network over the next even power of two; what falls outside of `size` is sent through again
    until it falls inside, which keeps it a permutation (Black and Rogaway, "Ciphers with arbitrary finite
    domains", 2002).
    """
    half = np.uint64((max(size - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << int(half)) - 1)
    result_N = index_N.astype(np.uint64)
    outside = np.ones(len(result_N), bool)
    while outside.any():
        left, right = result_N[outside] >> half, result_N[outside] & mask
        for key in keys:
            left, right = right, left ^ (_scatter(right + key) & mask)
        result_N[outside] = left << half | right
        outside = result_N >= size
    return result_N.astype(np.int64)


def _scatter(value: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64: every output bit depends on every input bit."""
    value = (value ^ value >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ value >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return value ^ value >> np.uint64(31)


Draw = Callable[[int, int], "Windows"]  # (seq_len, seed) -> windows


class Windows:
    """All windows of `seq_len` inputs and the targets one further on, over several shards."""

    def __init__(self, source: Sequence[Path] | Tokens, seq_len: int, seed: int, vocab: int | None = None) -> None:
        """`source`: shard files, or tokens whose shards are open already. Raises DataError as `shards.read`
        does, or when no shard holds `seq_len` + 1 tokens behind every phase.
        """
        tokens = source if isinstance(source, Tokens) else Tokens(source, vocab)
        self.paths, self.shards, self.vocab = tokens.paths, tokens.shards, tokens.vocab
        self.seq_len, self.seed = seq_len, seed
        longest = max(map(len, self.shards), default=0)
        # Behind the largest phase a shard must still hold one window and its last target.
        if longest < 2 * seq_len:
            raise DataError(
                f"the longest of {len(self.shards)} shards has {longest} tokens, sequences of {seq_len} need "
                f"{2 * seq_len}; add text or shorten train.seq_len"
            )
        self.epoch = lru_cache(maxsize=4)(self._epoch)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(phase of each shard, first window number of each shard and the total, keys of the order)."""
        words = np.random.SeedSequence([self.seed, epoch]).generate_state(len(self.shards) + FEISTEL_ROUNDS, np.uint64)
        phases = (words[FEISTEL_ROUNDS:] % np.uint64(self.seq_len)).astype(np.int64)
        counts = [max((len(s) - 1 - int(p)) // self.seq_len, 0) for s, p in zip(self.shards, phases)]
        return phases, np.cumsum([0, *counts]), words[:FEISTEL_ROUNDS]

    def count(self, epoch: int) -> int:
        return int(self.epoch(epoch)[1][-1])

    def advance(self, at: Position, windows: int) -> Position:
        """The position `windows` further on, over the ends of epochs."""
        epoch, index = at.epoch, at.index + windows
        while index >= self.count(epoch):
            epoch, index = epoch + 1, index - self.count(epoch)
        return Position(epoch, index)

    def pairs(self, at: Position, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, targets) of the `rows` windows from a position on, int64 [rows, seq_len]."""
        block = self.read(at, rows)
        return block[:, :-1], block[:, 1:]

    def read(self, at: Position, rows: int) -> np.ndarray:
        """The `rows` windows from a position on, int64 [rows, seq_len + 1]; an epoch's end is stepped over."""
        block = np.empty((rows, self.seq_len + 1), np.int64)
        row = 0
        while row < rows:
            take = min(rows - row, self.count(at.epoch) - at.index)
            phases, ends, keys = self.epoch(at.epoch)
            for number in permute(np.arange(at.index, at.index + take), int(ends[-1]), keys).tolist():
                shard = int(np.searchsorted(ends, number, side="right")) - 1
                begin = int(phases[shard]) + (number - int(ends[shard])) * self.seq_len
                window = self.shards[shard][begin : begin + self.seq_len + 1]
                if self.vocab is not None:
                    check_ids(window, self.vocab, self.paths[shard])
                block[row] = window
                row += 1
            at = self.advance(at, take)
        return block


def windows(source: Sequence[Path] | Tokens | Draw, seq_len: int, seed: int, vocab: int | None) -> Windows:
    """Windows of shards, or those that a corpus of another kind draws."""
    return source(seq_len, seed) if callable(source) else Windows(source, seq_len, seed, vocab)


class TokenStream:
    """Batches of `rows` windows for one rank; `world` ranks together read what one rank with `world` times
    the rows would read, in the same order. A thread reads ahead; `state` counts only what `next` has handed
    out.
    """

    def __init__(
        self, source: Sequence[Path] | Tokens | Draw, *, seq_len: int, rows: int, seed: int, rank: int = 0,
        world: int = 1, vocab: int | None = None,
    ) -> None:  # fmt: skip
        """Raises DataError when a shard is malformed or the corpus is too small for one sequence."""
        self._windows = windows(source, seq_len, seed, vocab)
        self._rows, self._rank, self._world = rows, rank, world
        self._at = Position(0, 0)
        self._thread: threading.Thread | None = None

    def next(self) -> tuple[Tensor, Tensor]:
        """(ids, targets), int64 [rows, seq_len] each. Raises what reading raised."""
        if self._thread is None:
            self._ready: queue.Queue = queue.Queue(PREFETCH)
            self._stop = threading.Event()
            self._thread = threading.Thread(
                target=self._produce, args=(self._at, self._ready, self._stop), name="tokens", daemon=True
            )
            self._thread.start()
        found = self._ready.get()
        if isinstance(found, Exception):
            self.close()
            raise found
        ids, targets, self._at = found
        return ids, targets

    def state(self) -> dict[str, int]:
        """Where the next batch begins, the same on every rank."""
        return self._at._asdict()

    def restore(self, state: dict[str, int]) -> None:
        """Continue as the stream that gave `state` would have."""
        self.close()
        self._at = Position(**state)

    def close(self) -> None:
        """End the thread. A later `next` starts another one where this one's batches were consumed."""
        if self._thread is not None:
            self._stop.set()
            while self._thread.is_alive():
                try:
                    self._ready.get(timeout=0.01)
                except queue.Empty:
                    continue
            self._thread = None

    def _produce(self, at: Position, ready: queue.Queue, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                pair = self._windows.pairs(self._windows.advance(at, self._rank * self._rows), self._rows)
                at = self._windows.advance(at, self._rows * self._world)
                ids, targets = (torch.from_numpy(np.ascontiguousarray(part)) for part in pair)
                if torch.cuda.is_available():
                    ids, targets = ids.pin_memory(), targets.pin_memory()
                ready.put((ids, targets, at))
        except Exception as error:  # handed over: `next` raises it in the caller's thread
            ready.put(error)


def sample(
    source: Sequence[Path] | Tokens | Draw, *, count: int, rows: int, seq_len: int, seed: int, rank: int = 0,
    world: int = 1, vocab: int | None = None,
) -> Iterator[Tensor]:  # fmt: skip
    """This rank's share of `count` random windows (all there are, if fewer), int64 [at most rows, seq_len] a
    batch.

    The ranks' shares together are the same windows for every world size.
    """
    found = windows(source, seq_len, seed, vocab)
    count = min(count, found.count(SAMPLE_EPOCH))
    begin, end = count * rank // world, count * (rank + 1) // world
    for index in range(begin, end, rows):
        ids, _ = found.pairs(Position(SAMPLE_EPOCH, index), min(rows, end - index))
        yield torch.from_numpy(np.ascontiguousarray(ids))
