"""D1 against light paraphrase: other capitals, spaces, signs, accents, forms of characters, sentences in another order.

What is compared are runs of WORDS words, spelled in letters and digits alone, in small letters without accents. The
hash of a run is put together from those of its tokens, so it is the same however the words are cut into tokens, and
nothing is decoded.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from golf.eval.validity import splits
from golf.eval.validity.accounting import MARKER, Piece
from golf.eval.validity.verdict import Verdict, failed, passed, unchecked

WORDS = 8  # fewer in a row are idioms
# Runs of a document that have to be there, and of documents that many and that share: pages are published again
# with small changes, here and there one.
LEAST_RUNS, LEAST_DOCUMENTS, LEAST_SHARE = 3, 3, 0.005
BLOCK = 1 << 18  # tokens of the training stream at once
CARRY = 256  # tokens read again with the next block: a run that begins in one may end in the other
BASE = 0x9E3779B97F4A7C15  # odd, so that its powers can be undone


@dataclass(frozen=True)
class Letters:
    """What each token of a vocabulary spells. hash_V: of its letters.  count_V: how many.  opens_V, closes_V: whether
    another word begins with it, or behind it."""

    hash_V: np.ndarray
    count_V: np.ndarray
    opens_V: np.ndarray
    closes_V: np.ndarray


def letters(pieces: Sequence[Piece]) -> Letters:
    words = splits.weights(1)
    found = []
    for piece in pieces:
        text = plain(piece)
        kept = [words[ord(char) & 0xFFFF] for char in text if char.isalnum()]
        value = np.uint64(sum(int(word) * pow(BASE, place, 1 << 64) for place, word in enumerate(kept)) % (1 << 64))
        mark = piece.kind in ("text", "byte") and not text  # an accent, or part of a character: the word goes on
        found.append((value, len(kept), not (mark or text[:1].isalnum()), not (mark or text[-1:].isalnum())))
    columns = zip(*found)
    return Letters(*(np.array(column, kind) for column, kind in zip(columns, (np.uint64, np.int64, bool, bool))))


def plain(piece: Piece) -> str:
    """What a piece spells, small, without accents and compatibility forms."""
    text = piece.text.replace(MARKER, " ")
    if piece.kind == "byte":
        byte = int(piece.text[3:5], 16)
        text = chr(byte) if byte < 128 else ""  # a part of a character: which, no part tells
    elif piece.kind == "bytes":
        text = piece.text.encode("latin-1").decode(errors="ignore")
    elif piece.kind != "text":
        text = " "
    folded = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in folded if not unicodedata.combining(char))


def runs(tokens: np.ndarray, known: Letters, powers: np.ndarray, inverse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(uint64 hashes of all runs of WORDS words, the token each begins at).

    powers, inverse: of BASE, for as many letters as the tokens have.
    """
    count = known.count_V[tokens]
    before = np.concatenate([[0], np.cumsum(count)])  # letters before each token, and before what follows the last
    prefix = np.concatenate([np.zeros(1, np.uint64), np.cumsum(known.hash_V[tokens] * powers[before[:-1]])])
    opens = np.ones(len(tokens) + 1, bool)
    opens[1:-1] = known.opens_V[tokens[1:]] | known.closes_V[tokens[:-1]]
    edges = np.flatnonzero(opens)
    edges = edges[np.diff(before[edges], append=-1) != 0]  # between two words, the last
    first, last = edges[:-WORDS], edges[WORDS:]
    value = (prefix[last] - prefix[first]) * inverse[before[first]]
    value ^= value >> np.uint64(29)
    return value * np.uint64(0xBF58476D1CE4E5B9), first


def reworded(
    documents: Iterable[tuple[int, np.ndarray]], train: Iterable[np.ndarray], pieces: Sequence[Piece],
    report: Callable[[int], None] = lambda done: None,
) -> Verdict:  # fmt: skip
    """D1: not many validation documents lie in the training stream in other clothes."""
    known = letters(pieces)
    longest = int(known.count_V.max(initial=1)) * (BLOCK + CARRY) + 1
    powers, inverse = _powers(BASE, longest), _powers(pow(BASE, -1, 1 << 64), longest)

    def of_document(tokens: np.ndarray) -> np.ndarray:
        parts = [runs(np.asarray(tokens[at : at + BLOCK]), known, powers, inverse)[0][::WORDS]
                 for at in range(0, len(tokens), BLOCK)]  # fmt: skip
        return np.concatenate(parts) if parts else np.empty(0, np.uint64)

    held = splits.hold((start, of_document(tokens)) for start, tokens in documents)
    able = int((held.counts >= LEAST_RUNS).sum())
    if not able:
        return unchecked("D1", f"no validation document has {LEAST_RUNS * WORDS} words")
    hit, first, read = np.zeros(len(held.hashes), bool), {}, 0
    carry = np.empty(0, np.int64)
    for array in train:
        for begin in range(0, len(array), BLOCK):
            block = np.concatenate([carry, np.asarray(array[begin : begin + BLOCK], np.int64)])
            base, carry = read - len(carry), block[-CARRY:]
            read += len(block) - (read - base)
            hashes, places = runs(block, known, powers, inverse)
            splits.sift(held, hashes, base + places, hit, first)
            report(read)
    hits = np.bincount(held.document[hit], minlength=len(held.counts))
    copied = np.flatnonzero((hits >= LEAST_RUNS) & (hits >= held.counts * splits.COPIED_SHARE))
    if len(copied) < LEAST_DOCUMENTS or len(copied) < LEAST_SHARE * able:
        return passed("D1", f"with capitals, signs and accents aside, {len(copied):,} of {able:,} documents copied")
    one = int(copied[np.argmax(hits[copied])])
    why = (
        f"{len(copied):,} of {able:,} validation documents lie in the training text with other capitals, signs or "
        f"accents: document {one} ({hits[one]} of its {held.counts[one]} runs of {WORDS} words), at training token "
        f"{first[one]:,}"
    )
    return failed("D1", why, position=int(held.starts[one]), document=one, train_position=first[one],
                  numbers=[int(hits[one]), 0], documents=copied[:50].tolist())  # fmt: skip


def _powers(base: int, count: int) -> np.ndarray:
    found = np.full(count, base, np.uint64)
    found[0] = 1
    return np.cumprod(found)
