"""Parts of tensors into streams of one kind, streams into bytes, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from golf.contracts import ArtifactError, Codec, QTensor, Stream
from golf.pack.codecs import codec

TYPES = {"i1": np.dtype("i1"), "i2": np.dtype("<i2"), "f2": np.dtype("<f2"), "f4": np.dtype("<f4")}


@dataclass(frozen=True)
class Kind:
    """What parts agree in that share a stream.

    Integers: role, alphabet and symbols per row, so that a codec sees rows of one sort.  Floats: the part's
    name (scales, kept values); their role is empty, alphabet and width are 0.
    """

    type: str
    alphabet: int
    width: int
    role: str
    part: str


def kind_of(name: str, qtensor: QTensor, part: str) -> Kind:
    """The kind of one part. Raises ArtifactError for a type or symbols that a stream cannot hold."""
    array = qtensor.parts[part]
    alphabet = qtensor.alphabets.get(part, 0)
    type_ = f"{array.dtype.kind}{array.dtype.itemsize}"
    if type_ not in TYPES or (array.dtype.kind == "i") != bool(alphabet):
        raise ArtifactError(
            f"{name}.{part} is {array.dtype} with alphabet {alphabet}; store int8 or int16 with one, "
            f"or float16 or float32 without"
        )
    if not alphabet:
        return Kind(type_, 0, 0, "", part)
    check_symbols(f"{name}.{part}", array, alphabet)
    return Kind(type_, alphabet, array.shape[-1] if array.ndim > 1 else 0, qtensor.role, part)


def check_symbols(what: str, symbols: np.ndarray, alphabet: int) -> None:
    """Raises ArtifactError for a symbol outside the alphabet."""
    low = -(alphabet // 2)
    if symbols.size and not low <= int(symbols.min()) <= int(symbols.max()) < low + alphabet:
        raise ArtifactError(
            f"{what} holds symbols {symbols.min()}..{symbols.max()}, its alphabet is "
            f"{low}..{low + alphabet - 1}; quantize again"
        )


def encode(chosen: Codec, kind: Kind, arrays: Sequence[np.ndarray]) -> bytes:
    """The arrays' elements one after the other. Floats as byte planes: all low bytes first, all signs and
    exponents, which repeat where mantissas do not, last."""
    symbols = np.concatenate([array.ravel() for array in arrays]).astype(TYPES[kind.type], copy=False)
    if not symbols.size:
        return b""
    if not kind.alphabet:
        symbols = np.ascontiguousarray(symbols.view(np.uint8).reshape(-1, symbols.itemsize).T).ravel()
    heights = tuple(array.size // kind.width for array in arrays) if kind.width else ()
    return chosen.encode(Stream(symbols, kind.alphabet, kind.width, heights))


@dataclass(frozen=True)
class Entry:
    """A stream as the header describes it. Everything is checked, because a file says it.

    codec: name.  type: key of TYPES.  alphabet: 0 for floats.  width: symbols per weight row, 0 for none.
    bytes: encoded length.
    """

    codec: str
    type: str
    alphabet: int
    width: int
    bytes: int

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            raise ArtifactError(f"a stream of type {self.type!r} is none of {', '.join(TYPES)}; fetch the file again")
        for number in (self.alphabet, self.width, self.bytes):
            count(number)
        largest = 256**self.dtype.itemsize if self.dtype.kind == "i" else 0
        if not min(largest, 1) <= self.alphabet <= largest:
            raise ArtifactError(f"alphabet {self.alphabet} does not suit type {self.type}; fetch the file again")

    @property
    def dtype(self) -> np.dtype:
        return TYPES[self.type]

    def decode(self, data: bytes, elements: int) -> np.ndarray:
        """Exactly `elements` of them, each within the alphabet, or ArtifactError."""
        if not elements:
            if data:
                raise ArtifactError(f"a stream of no elements has {len(data):,} bytes; fetch the file again")
            return np.empty(0, self.dtype)
        coder = codec(self.codec)
        if self.alphabet:
            symbols = coder.decode(data, elements, self.dtype, self.alphabet, self.width)
            check_symbols("a stream", symbols, self.alphabet)
            return symbols
        size = self.dtype.itemsize
        planes = coder.decode(data, elements * size, np.dtype(np.uint8), 0, 0)
        return np.ascontiguousarray(planes.reshape(size, elements).T).view(self.dtype).ravel()


def count(number: object) -> int:
    """A whole number of zero or more, or ArtifactError: JSON has other values too."""
    if type(number) is not int or number < 0:
        raise ArtifactError(f"the header says {number!r} where a count belongs; fetch the file again")
    return number
