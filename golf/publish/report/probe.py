"""A model read closely: nats of every token of some validation text, and what they say by place and by document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from golf.contracts import ByteTable, Evaluation
from golf.data.tokenizer import Tokenizer
from golf.eval.sliding import SlidingWindow
from golf.host import Host

LN2 = math.log(2)
PASSAGE = 48  # tokens shown of a passage
LEVELS = (1.0, 3.0, 6.0, 10.0)  # bits of a token at which its color deepens


@dataclass(frozen=True)
class Reading:
    """tokens_N: t_0..t_N-1.  bits_N: what each cost, 0 for t_0.  bytes_N: what each spells.  bos: opens documents."""

    tokens_N: np.ndarray
    bits_N: np.ndarray
    bytes_N: np.ndarray
    bos: int

    @property
    def documents(self) -> list[tuple[int, int]]:
        """(first, end) of every document that begins and ends in the text, its BOS left out."""
        starts = np.flatnonzero(self.tokens_N == self.bos)
        return [(int(a) + 1, int(b)) for a, b in pairwise(starts) if b - a > 1]

    def bpb(self, begin: int, end: int) -> float:
        """Bits per byte of t_begin..t_end-1."""
        return float(self.bits_N[begin:end].sum() / max(self.bytes_N[begin:end].sum(), 1))


@dataclass(frozen=True)
class Bucket:
    """label: the range.  bpb: bits per byte of its tokens.  tokens: how many."""

    label: str
    bpb: float
    tokens: int


@dataclass(frozen=True)
class Piece:
    """Some text and its bits; level: 0..4, how surprising a token of it was."""

    text: str
    bits: float
    level: int


@dataclass(frozen=True)
class Passage:
    """Some text token by token, and its bits per byte."""

    bpb: float
    pieces: Sequence[Piece]


def read(model: Any, tokens_N: np.ndarray, table: ByteTable, how: Evaluation, bos: int, host: Host) -> Reading:
    """The text under one kind of evaluation."""
    bits_N = np.zeros(len(tokens_N))

    def note(places: np.ndarray, nats: np.ndarray) -> None:
        bits_N[places] = nats / LN2

    how.score(model, tokens_N, table, host=host, report=note)
    bytes_N = np.concatenate([[0], table.count(tokens_N[:-1], tokens_N[1:])])
    return Reading(tokens_N, bits_N, bytes_N, bos)


def by_place(plain: Reading, window: int) -> list[Bucket]:
    """By how many tokens of the window lie before: `plain` was read in windows without overlap."""
    return _doubling((np.arange(len(plain.tokens_N)) - 1) % window + 1, plain)


def by_age(reading: Reading) -> list[Bucket]:
    """By how many tokens of its document a token has before it."""
    place_N = np.arange(len(reading.tokens_N))
    last_N = np.maximum.accumulate(np.where(reading.tokens_N == reading.bos, place_N, -1))
    return _doubling(np.where(last_N >= 0, place_N - last_N, 0), reading)


def _doubling(place_N: np.ndarray, reading: Reading) -> list[Bucket]:
    """Buckets 1, 2-3, 4-7 and so on; t_0 and places 0 are left out."""
    found, low, last = [], 1, int(place_N.max())
    scored_N = np.arange(len(place_N)) > 0
    while low <= last:
        chosen_N = scored_N & (place_N >= low) & (place_N < 2 * low)
        if reading.bytes_N[chosen_N].sum():
            bpb = reading.bits_N[chosen_N].sum() / reading.bytes_N[chosen_N].sum()
            high = min(2 * low - 1, last)
            label = str(low) if low == high else f"{low}–{high}"
            found.append(Bucket(label, float(bpb), int(chosen_N.sum())))
        low *= 2
    return found


def by_length(reading: Reading) -> list[Bucket]:
    """Whole documents by their length in tokens, doubling."""
    groups: dict[int, list[tuple[int, int]]] = {}
    for begin, end in reading.documents:
        groups.setdefault((end - begin).bit_length(), []).append((begin, end))
    found = []
    for power, spans in sorted(groups.items()):
        bits = sum(float(reading.bits_N[begin:end].sum()) for begin, end in spans)
        spelled = sum(int(reading.bytes_N[begin:end].sum()) for begin, end in spans)
        if spelled:
            low = 1 << power - 1
            count = sum(end - begin for begin, end in spans)
            found.append(Bucket(f"{low}–{2 * low - 1}", bits / spelled, count))
    return found


def passages(reading: Reading, speaker: Tokenizer, count: int = 3) -> tuple[list[Passage], list[Passage]]:
    """The easiest and the hardest stretches of PASSAGE tokens, at most one a document."""
    best = []
    for begin, end in reading.documents or [(1, len(reading.tokens_N))]:
        spans = [(first, first + PASSAGE) for first in range(begin, end - PASSAGE + 1, PASSAGE // 2)]
        if spans:
            scored = sorted((reading.bpb(*span), span) for span in spans)
            best.append((scored[0], scored[-1]))
    easy = sorted(low for low, _ in best)[:count]
    hard = sorted((high for _, high in best), reverse=True)[:count]
    show = [[Passage(bpb, pieces(reading, speaker, *span)) for bpb, span in side] for side in (easy, hard)]
    return show[0], show[1]


def pieces(reading: Reading, speaker: Tokenizer, begin: int, end: int) -> list[Piece]:
    """The text token by token; bytes of one character that are several tokens stay together."""
    ids = [int(token) for token in reading.tokens_N[begin:end]]
    found, text, waiting = [], "", 0.0
    for place in range(len(ids)):
        waiting += float(reading.bits_N[begin + place])
        longer = speaker.decode(ids[: place + 1])
        if longer.endswith("\ufffd") and place + 1 < len(ids):
            continue
        found.append(Piece(longer[len(text) :], waiting, sum(waiting >= level for level in LEVELS)))
        text, waiting = longer, 0.0
    return found


def plain(window: int) -> Evaluation:
    """Windows without overlap, in which a token's place says what it has seen."""
    return SlidingWindow(window=window, stride=window)
