"""D1 and D2: validation text stays out of the training text, and is the text it is said to be.

Validation documents are cut into shingles of SHINGLE tokens, end to end from each document's start, and one that ends
at its end. Their hashes are kept; the training stream is hashed at every position, block by block, so a copied
passage of twice the length is found wherever it lies, and memory does not grow with the training text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from golf.eval.validity.verdict import Verdict, failed, passed, unchecked

SHINGLE = 32
# Tokens of the training stream hashed at once: eight arrays of 8 bytes each, 64 MB.
BLOCK = 1 << 20
WORD = (1 << 64) - 1
# Bits of the first sieve: 16 MB, and of a hundred positions at most a few get past it.
SIEVE_BITS = 27
# Shingles kept at most: 32 MB. Of more, those are kept whose hash is a multiple of a power of two.
KEPT = 1 << 22
# A document counts as copied when this share of its shingles, or this many in a row, lie in the training text. Single
# passages are quotations and boilerplate, and are reported.
COPIED_SHARE, COPIED_RUN = 0.5, 8
# Share of a split's tokens in copies of earlier documents, above which it is no sample of anything.
REPEATED_SHARE = 0.05


@dataclass
class Shingles:
    """Hashes of validation shingles, sorted, and where each comes from."""

    hashes: np.ndarray
    document: np.ndarray
    place: np.ndarray  # number of the shingle within its document
    counts: np.ndarray  # shingles of each document
    starts: np.ndarray  # stream position of each document's first token
    sieve: np.ndarray = field(repr=False)
    every: int = 1  # of the hashes, those that are multiples of this were kept


def weights(seed: int = 0) -> np.ndarray:
    """A random odd word for each of 65,536 tokens; `rolling` goes by the lower halves of ids beyond."""
    return np.random.default_rng(seed).integers(1 << 64, size=1 << 16, dtype=np.uint64) | np.uint64(1)


def rolling(tokens: np.ndarray, words: np.ndarray, length: int = SHINGLE) -> np.ndarray:
    """uint64 hashes of all runs of `length` tokens (a power of two): h[i] is of tokens[i : i + length].

    A polynomial modulo 2^64, put together by doubling: log2(length) passes, whatever the length.
    """
    # Ids beyond 65,535 share words with lower ones: 32 in a row that only look alike are as good as never met.
    value, factor, width = words[np.asarray(tokens) & 0xFFFF], 0x9E3779B97F4A7C15, 1
    while width < length:
        value = value[:-width] * np.uint64(factor) + value[width:]
        factor, width = factor * factor & WORD, width * 2
    value ^= value >> np.uint64(29)
    return value * np.uint64(0xBF58476D1CE4E5B9)


def shingles(documents: Iterable[tuple[int, np.ndarray]], words: np.ndarray) -> Shingles:
    """documents: (stream position, tokens without BOS). Those shorter than a shingle are left to coincidence."""

    def hashes(tokens: np.ndarray) -> np.ndarray:
        count = len(tokens) // SHINGLE
        if not count:
            return np.empty(0, np.uint64)
        all_of_it = rolling(np.asarray(tokens), words)
        return np.append(all_of_it[: count * SHINGLE : SHINGLE][:count], all_of_it[-1])

    return hold((start, hashes(tokens)) for start, tokens in documents)


def hold(found: Iterable[tuple[int, np.ndarray]]) -> Shingles:
    """found: (stream position, hashes of its shingles in order) of each document."""
    hashes, starts = [np.empty(0, np.uint64)], []
    for start, each in found:
        hashes.append(each)
        starts.append(start)
    counts = [len(each) for each in hashes[1:]]
    joined, every = np.concatenate(hashes), 1
    while len(joined) // every > KEPT:
        every *= 2
    kept = np.flatnonzero(joined % np.uint64(every) == 0)
    order = kept[np.argsort(joined[kept], kind="stable")]
    sieve = np.zeros(1 << (SIEVE_BITS - 3), np.uint8)
    slots = joined[order] >> np.uint64(64 - SIEVE_BITS)
    np.bitwise_or.at(sieve, slots >> np.uint64(3), np.uint8(1) << (slots & np.uint64(7)).astype(np.uint8))
    owner = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    place = np.concatenate([np.arange(count, dtype=np.int32) for count in [0, *counts]])
    kept_counts = np.bincount(owner[kept], minlength=len(counts)) if every > 1 else np.array(counts, np.int64)
    return Shingles(joined[order], owner[order], place[order], kept_counts, np.array(starts), sieve, every)


def scan(
    held: Shingles, stream: Iterable[np.ndarray], words: np.ndarray, report: Callable[[int], None] = lambda done: None
) -> tuple[np.ndarray, dict[int, int], int]:
    """(which of the held hashes occur, training position of the first hit of each document, training tokens read).

    stream: arrays of tokens, one behind the other; a passage may lie across two of them.
    """
    hit, first = np.zeros(len(held.hashes), bool), {}
    done, carry = 0, np.empty(0, np.uint16)
    for array in stream:
        for begin in range(0, len(array), BLOCK):
            block = np.concatenate([carry, np.asarray(array[begin : begin + BLOCK])])
            base, carry = done - len(carry), block[max(0, len(block) - SHINGLE + 1) :]
            done += len(array[begin : begin + BLOCK])
            if len(block) >= SHINGLE and len(held.hashes):
                sift(held, rolling(block, words), base, hit, first)
            report(done)
    return hit, first, done


def sift(held: Shingles, hashes: np.ndarray, at: int | np.ndarray, hit: np.ndarray, first: dict[int, int]) -> None:
    """Mark which of the held hashes are among these. at: position of the first of them, or of each."""
    slots = hashes >> np.uint64(64 - SIEVE_BITS)
    bits = held.sieve[slots >> np.uint64(3)] >> (slots & np.uint64(7)).astype(np.uint8)
    likely = np.flatnonzero(bits & 1)
    left = np.searchsorted(held.hashes, hashes[likely], "left")
    found = left < len(held.hashes)
    found[found] = held.hashes[left[found]] == hashes[likely][found]
    for place, begin in zip(likely[found].tolist(), left[found].tolist()):
        end = int(np.searchsorted(held.hashes, hashes[place], "right"))
        hit[begin:end] = True
        for document in held.document[begin:end].tolist():
            first.setdefault(document, int(at[place]) if isinstance(at, np.ndarray) else at + place)


def disjoint(
    documents: Iterable[tuple[int, np.ndarray]], train: Iterable[np.ndarray],
    report: Callable[[int], None] = lambda done: None,
) -> Verdict:  # fmt: skip
    """D1: no validation document, whole or in good part, lies in the training stream."""
    words = weights()
    held = shingles(documents, words)
    if not len(held.hashes):
        return unchecked("D1", f"no validation document has {SHINGLE} tokens, so nothing can be told from coincidence")
    hit, first, read = scan(held, train, words, report)
    hits = np.bincount(held.document[hit], minlength=len(held.counts))
    copied = np.flatnonzero((held.counts > 0) & (hits >= held.counts * COPIED_SHARE) & (hits > 0))
    rows = [document for document in np.flatnonzero(hits >= COPIED_RUN) if _longest(held, hit, document) >= COPIED_RUN]
    copied = np.union1d(copied, np.array(rows, np.int64)).astype(int)
    sampled = f", one in {held.every} shingles" if held.every > 1 else ""
    if len(copied):
        one = int(copied[np.argmax(hits[copied])])
        why = (
            f"{len(copied):,} of {len(held.counts):,} validation documents lie in the training text: document {one} "
            f"({hits[one]} of its {held.counts[one]} shingles of {SHINGLE} tokens), at training token {first[one]:,}"
        )
        return failed("D1", why, position=int(held.starts[one]), document=one, train_position=first[one],
                      numbers=[int(hits[one]), 0], documents=copied[:50].tolist())  # fmt: skip
    why = (
        f"{len(held.hashes):,} shingles of {SHINGLE} tokens from {len(held.counts):,} documents{sampled} against "
        f"{read:,} training tokens: no document copied, {int(hit.sum()):,} single passages shared"
    )
    return passed("D1", why, shared=int(hit.sum()))


def _longest(held: Shingles, hit: np.ndarray, document: int) -> int:
    """Most shingles in a row of a document that were hit."""
    places = np.sort(held.place[(held.document == document) & hit])
    runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
    return max(len(run) for run in runs)


def split_documents(tokens: Sequence[int], bos: int, block: int = BLOCK) -> Iterator[tuple[int, np.ndarray]]:
    """(stream position of its first token after BOS, tokens) of each document of a stream."""
    kept, begin, opened = np.empty(0, np.uint16), 0, False
    for start in range(0, len(tokens), block):
        kept = np.concatenate([kept, np.asarray(tokens[start : start + block])])
        edges = np.flatnonzero(kept == bos).tolist()
        left = 0
        for edge in edges:
            if opened or edge > left:
                yield begin + left, kept[left:edge]
            left, opened = edge + 1, True
        kept, begin = kept[left:], begin + left
    if opened or len(kept):
        yield begin, kept


def identity(found: dict[str, object], wanted: dict[str, object]) -> Verdict:
    """D2: count of documents, hashes of the first and last, and whatever else is stated, against what is there."""
    stated = {name: value for name, value in wanted.items() if value is not None}
    if not stated:
        return unchecked("D2", "the submission states neither the number of documents nor a hash of the split")
    for name, value in stated.items():
        if found.get(name) != value:
            return failed("D2", f"{name} is {found.get(name)}, stated is {value}", numbers=[found.get(name), value])
    return passed("D2", ", ".join(f"{name} {str(value)[:16]}" for name, value in stated.items()))


def digest(tokens: np.ndarray, vocab: int) -> str:
    """SHA-256 of tokens, little endian: 16 bits each, or 32 where the vocabulary needs them, as shards hold them."""
    return hashlib.sha256(np.asarray(tokens, "<u4" if vocab > 1 << 16 else "<u2").tobytes()).hexdigest()


def repeated(documents: Iterable[tuple[int, np.ndarray]], vocab: int) -> Iterator[Verdict]:
    """D2: a split does not hold its documents several times, which whatever learns along the way would be paid for."""
    seen: dict[str, int] = {}
    total, copies, first = 0, 0, None
    for number, (position, tokens) in enumerate(documents):
        total += len(tokens)
        if len(tokens) < SHINGLE:
            continue
        name = digest(tokens, vocab)
        if name in seen:
            copies += len(tokens)
            first = first or (number, seen[name], position)
        seen.setdefault(name, number)
    if first is not None and copies > REPEATED_SHARE * total:
        why = (
            f"{copies:,} of {total:,} validation tokens are copies of earlier documents; the first is document "
            f"{first[0]}, equal to document {first[1]}"
        )
        yield failed("D2", why, position=first[2], document=first[0], numbers=[copies, 0])
