"""golf's own codec: codes at the entropy of their rows and columns, by interleaved rANS in integer arithmetic.

What differs among the codes of a trained matrix is their deviation: by row, by column, by both. So every row and
every column has a level, in eighths of an octave, and a symbol's class is the sum of its two and its matrix's. Each
class starts from a bell of its width and learns its histogram as it goes. All that the decoder computes is integer,
so any machine reads the same symbols; whatever the encoder chooses in floating point is written down.

    255 and raw LZMA2 (`golf.pack.xz`), or
    0 (1)  lowest token (1)  tokens - 1 (1)  matrices (2)  bytes of row levels (4), of column levels (4)
    rows of each matrix (4 each)  level of each (1 each)   row levels  column levels, coded as streams like this
    lane states (8 each)  words (4 each)  low bits of large symbols, packed

Asymmetric numeral systems: Duda 2013, arXiv:1311.2540; interleaved: Giesen 2014, arXiv:1402.3392.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from golf.contracts import ArtifactError, Stream
from golf.pack.levels import CLASSES, SIDE, levels
from golf.pack.xz import array, deflate

PREFIX = struct.Struct("<BbBHII")
OTHER = 255
QUARTERS = np.array([256, 304, 362, 431])  # 2^8 times 2^0, 2^(1/4), 2^(1/2), 2^(3/4)
DEGREES, SQUARINGS = 63, 5  # of freedom: 2^6 - 1, and 6 - 1
PRIOR = 1024  # how many symbols seen a bell outweighs
LOWEST = 1 << 31  # of a lane's state; the highest is below 2^63
# Tables hold these magnitudes: each up to 63, then four to an octave, the bits below left as they are.
LARGE = 64
MAGNITUDES = np.array([*range(LARGE), *((4 + n % 4) << n // 4 + 4 for n in range(40))])
TOKENS = np.searchsorted(MAGNITUDES, np.arange(32769), "right").astype(np.int16) - 1
# Likely symbols cost next to nothing, so forged data could ask for many; those of real codes take a bit or more.
GROWTH = 1 << 12
ALWAYS_ALLOWED = 1 << 24


def split(symbols: np.ndarray) -> np.ndarray:
    """Tokens: a signed index into MAGNITUDES for each symbol."""
    return np.sign(symbols) * TOKENS[np.abs(symbols)]


def low_bits(tokens: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Places of the tokens with low bits, by their number, and that number."""
    size = np.abs(tokens)
    if size.max() >= LARGE:
        for bits in range(4, 14):
            yield np.flatnonzero(size - LARGE >> 2 == bits - 4), bits


@dataclass(frozen=True)
class Layout:
    """Which tokens are coded side by side: down the columns of as many rows at a time as there are lanes.

    low, span: the lowest token and how many there are.  heights: rows of each matrix, all `width` wide.
    base, rows, columns: levels of each matrix, of all rows, of the columns of each matrix.
    """

    low: int
    span: int
    width: int
    heights: np.ndarray
    base: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    @property
    def lanes(self) -> int:
        return lanes(len(self.rows) * self.width)

    def ends(self, way: Callable[[np.ndarray], int]) -> int:
        """The lowest or highest class there can be, by `np.min` or `np.max`."""
        return int(np.clip(sum(int(way(part)) for part in (self.base, self.rows, self.columns)), 0, CLASSES - 1))

    def weights(self) -> np.ndarray:
        """Bells of the classes there can be."""
        return bells(self.low, self.span)[self.ends(np.min) : self.ends(np.max) + 1]

    def chunks(self, weights: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray, np.ndarray | None]]:
        """Rows, columns, classes [columns, rows] as rows of `weights` and, where due for renewal, cumulated shares."""
        matrix = np.repeat(np.arange(len(self.heights)), self.heights)
        level = self.base[matrix] + self.rows
        columns, first = self.columns.reshape(-1, self.width).T, self.ends(np.min)
        begin = due = step = 0
        while begin < len(level):
            # A lone column is cut where the tables are renewed, and before a last step that has not work for all lanes.
            steps = max(1, min(step // 16, (len(level) - begin) // self.lanes) * (self.width == 1))
            rows, left = slice(begin, begin + steps * self.lanes), 0
            while left < self.width:
                right = min(self.width, left + 1 + step // 4)
                kinds = (level[rows] + columns[left:right, matrix[rows]]).clip(0, CLASSES - 1) - first
                kinds, shares = kinds.reshape(steps * (right - left), -1), None
                if step >= due:
                    shares, due = cumulate(weights), step + step // 16
                yield rows, slice(left, right), kinds, shares
                step, left = step + len(kinds), right
            begin = rows.stop


def lanes(count: int) -> int:
    """Enough to make a step worth its overhead, few enough that their six bytes each do not show."""
    return max(1, count >> 14, min(64, count >> 13))


def bells(low: int, span: int) -> np.ndarray:
    """int64 [CLASSES, span], in 2^-10 tokens: how often each class expects each token before it has seen any.
    Student's t with DEGREES degrees of freedom, as a fraction squared SQUARINGS times, at 16 points of each token."""
    each, token = np.arange(CLASSES), np.abs(np.arange(low, low + span))
    variance_C1 = DEGREES * (QUARTERS[each % 4] << each // 4)[:, None]
    total = 0
    for point in range(-15, 16, 2):
        bell = (variance_C1 << 20) // (variance_C1 + ((32 * MAGNITUDES[token] + point) ** 2 << 4))
        for _ in range(SQUARINGS):
            bell = bell * bell >> 20
        total = total + bell
    total = total + 1 << (token - LARGE + 16 >> 2).clip(0)
    return total * (PRIOR << 10) // total.sum(1, keepdims=True)


def cumulate(weights: np.ndarray) -> np.ndarray:
    """int64 [CLASSES, span + 1]: where each token's share of 2^16 begins. None is empty."""
    sums = np.pad(np.cumsum(weights + 1, 1), ((0, 0), (1, 0)))
    span = weights.shape[1]
    return sums * (65536 - span) // sums[:, -1:] + np.arange(span + 1)


def learn(weights: np.ndarray, place: np.ndarray) -> None:
    """Count tokens, given as indices into the flat `weights`."""
    weights += np.bincount(place.ravel(), minlength=weights.size).reshape(weights.shape) << 10


Shares = list[tuple[np.ndarray, np.ndarray]]


def plan(stream: Stream) -> tuple[bytes, Layout, Shares, bytes]:
    """What precedes the lane states; each chunk's shares of 2^16 and their beginnings; the low bits."""
    symbols = stream.symbols.astype(np.int32)
    tokens = split(symbols)
    extra = [np.packbits(abs(symbols[at]) >> bit & 1) for at, bits in low_bits(tokens) for bit in range(bits)]
    low, span = int(tokens.min()), max(2, int(np.ptp(tokens)) + 1)  # a share of all 2^16 would not fit 16 bits
    width, heights = stream.width, stream.heights or (1,)
    if sum(heights) * width != tokens.size or sum(heights) < lanes(tokens.size):
        width, heights = 1, (tokens.size,)
    matrices = tokens.reshape(-1, width)
    base, rows, columns = levels(np.split(stream.symbols.reshape(-1, width), np.cumsum(heights)[:-1]), width > 7)
    sides = [Rans().encode(Stream(side.astype("i1"), 2 * SIDE + 1)) if side.any() else b"" for side in (rows, columns)]
    head = PREFIX.pack(0, low, span - 1, len(heights), *map(len, sides))
    head += np.array(heights, "<u4").tobytes() + base.astype("u1").tobytes() + b"".join(sides)
    layout = Layout(low, span, width, np.array(heights), base, rows, columns)
    weights, found = layout.weights(), []
    for rows, columns, kinds, renewed in layout.chunks(weights):
        if renewed is not None:
            begin, size = (a.ravel().astype(np.uint16) for a in (renewed[:, :-1], np.diff(renewed)))
        place = kinds * span + matrices[rows, columns].T.reshape(kinds.shape) - low
        found.append((size[place], begin[place]))
        learn(weights, place)
    return head, layout, found, b"".join(bits.tobytes() for bits in extra)


def code(shares: Shares, lanes: int) -> bytes:
    """Lane states and words; from the last token to the first, because the decoder undoes it."""
    states, words = np.full(lanes, LOWEST), []
    for sizes, begins in reversed(shares):
        if lanes == 1:  # Python's own numbers take a tenth of the time, one by one
            state = int(states[0])
            for size, begin in zip(sizes[::-1, 0].tolist(), begins[::-1, 0].tolist()):
                if state >= size << 47:
                    words.append(struct.pack("<I", state % 2**32))
                    state >>= 32
                state = (state // size << 16) + state % size + begin
            states[0] = state
            continue
        for size, begin in zip(sizes[::-1].astype(np.int64), begins[::-1]):
            state = states[: len(size)]
            full = np.flatnonzero(state >= size << 47)
            words.append(state[full].astype("<u4").tobytes())
            state[full] >>= 32
            whole, part = np.divmod(state, size)
            state[:] = (whole << 16) + part + begin
    return states.astype("<i8").tobytes() + b"".join(reversed(words))


def cost(stream: Stream) -> float:
    """Bits that Rans comes to on a stream with an alphabet, to a thousandth, at half its time."""
    head, layout, found, rest = plan(stream)
    return 8 * len(head + rest) + 48 * layout.lanes + sum(float((16 - np.log2(size)).sum()) for size, _ in found)


@dataclass(frozen=True)
class Rans:
    """The codec. It has no settings: what varies is found out from the symbols."""

    name: ClassVar[str] = "rans"

    def encode(self, stream: Stream) -> bytes:
        """By rANS, or for raw data and where a short stream repeats itself by LZMA."""
        found = []
        if not stream.alphabet or stream.symbols.size < 1 << 16:
            found.append(bytes([OTHER]) + deflate(stream.symbols.tobytes()))
        if stream.alphabet and stream.symbols.size:
            head, layout, shares, rest = plan(stream)
            found.append(head + code(shares, layout.lanes) + rest)
        return min(found, key=len)

    def decode(self, data: bytes, count: int, dtype: np.dtype, alphabet: int, width: int) -> np.ndarray:
        if data[:1] == bytes([OTHER]):
            return array(data[1:], count, dtype)
        try:
            layout, at = self._layout(data, count, width)
            return self._symbols(data, at, layout, dtype)
        except ArtifactError:
            raise
        except (struct.error, ValueError, IndexError) as error:
            raise ArtifactError(f"a rans stream does not decode ({error}); fetch the file again") from error

    def _layout(self, data: bytes, count: int, width: int) -> tuple[Layout, int]:
        """What is coded, and where the lane states begin. Raises ArtifactError where it cannot be."""
        kind, low, span, matrices, *sizes = PREFIX.unpack_from(data)
        at = PREFIX.size + 5 * matrices
        heights = np.frombuffer(data, "<u4", matrices, PREFIX.size).astype(np.int64)
        base = np.frombuffer(data, "u1", matrices, at - matrices).astype(np.int64)
        if int(heights.sum()) == count:
            width = 1
        number = int(heights.sum()), matrices * width
        if kind or not span or not 0 < count == number[0] * width < ALWAYS_ALLOWED + GROWTH * len(data):
            raise ArtifactError(f"a rans stream does not hold {count:,} symbols; fetch the file again")
        if not -len(MAGNITUDES) < low <= low + span <= len(MAGNITUDES) or (width == 1 and any(sizes)):
            raise ArtifactError("the tables of a rans stream are impossible; fetch the file again")
        sides = [np.zeros(length, np.int64) for length in number]
        for side, size in zip(sides, sizes):
            if size:
                side[:] = self.decode(data[at : at + size], len(side), np.dtype("i1"), 2 * SIDE + 1, 0)
            at += size
        return Layout(low, span + 1, width, heights, base, *sides), at

    def _symbols(self, data: bytes, at: int, layout: Layout, dtype: np.dtype) -> np.ndarray:
        states = np.frombuffer(data, "<i8", layout.lanes, at).astype(np.int64)
        at += 8 * layout.lanes
        words = np.frombuffer(data, "<u4", (len(data) - at) // 4, at).astype(np.int64)
        span, read = layout.span, 0
        weights = layout.weights()
        tokens = np.empty((layout.width, len(layout.rows)), np.int16)
        for rows, columns, kinds, renewed in layout.chunks(weights):
            if renewed is not None:
                begin, size = renewed[:, :-1].ravel(), np.diff(renewed).ravel()
                lookup = np.repeat(np.tile(np.arange(span, dtype=np.uint8), len(weights)), size)
            places = kinds * span
            state = states[: kinds.shape[1]]
            for slots, place in zip(kinds << 16, places):
                slot = state & 65535
                slots += slot
                place += lookup.take(slots)
                state >>= 16
                state *= size.take(place)
                slot -= begin.take(place)
                state += slot
                (short,) = (state < LOWEST).nonzero()
                state[short] = state[short] << 32 | words[read : read + len(short)]
                read += len(short)
            learn(weights, places)
            tokens[columns, rows].flat = places - kinds * span + layout.low
        if (states != LOWEST).any():
            raise ArtifactError("the lanes of a rans stream do not end where they began; fetch the file again")
        return join(tokens.T.ravel(), data[at + 4 * read :], dtype)


def join(tokens: np.ndarray, data: bytes, dtype: np.dtype) -> np.ndarray:
    """The symbols of tokens and low bits, all of them used."""
    size, at = MAGNITUDES.astype(np.int32)[np.abs(tokens)], 0
    for places, bits in low_bits(tokens):
        for bit in range(bits):
            packed = np.frombuffer(data, "u1", -(-len(places) // 8), at)
            size[places] += np.unpackbits(packed, count=len(places)).astype(np.int32) << bit
            at += len(packed)
    size *= np.sign(tokens)
    symbols = size.astype(dtype)
    if at != len(data) or (symbols != size).any():
        raise ArtifactError("the end of a rans stream is not its own; fetch the file again")
    return symbols
