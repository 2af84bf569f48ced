"""The artifact file: every stored tensor and what is needed to read it, in one flat run of bytes.

    "GOLF"  version  length of header (4)  header  streams, end to end  BLAKE2b-128 of all before (16)

The header is JSON, as it stands or as raw LZMA2 (`golf.pack.xz`) if that is smaller (the first byte tells):
    header    what the caller wants to travel along
    layouts   role, method, shape, and for each part its name, its stream and its shape (0: the tensor's)
    tensors   name and layout of each; their parts follow one another in the streams in this order
    streams   codec, type, alphabet, symbols per weight row, bytes: see `golf.pack.streams`
Nothing in the file is ever executed, and nothing is allocated by a length that the bytes at hand do not bear out.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from golf.contracts import ArtifactError, ChecksumError, Codec, QTensor, Role
from golf.pack.streams import Entry, Kind, count, encode, kind_of
from golf.pack.xz import deflate, inflate

MAGIC = b"GOLF"
VERSION = 2  # 1 had a zstd frame in the header's place
PREFIX = len(MAGIC) + 1 + 4
DIGEST = 16
# A header of a thousand tensors is 100 KB of JSON.
HEADER_ALLOWED = 1 << 20
# Streams grow 2 to 8 times when decoded, those of a ternary model of mostly zeros 30 times. More is a bomb.
GROWTH_LIMIT = 256
ALWAYS_ALLOWED = 1 << 24


@dataclass(frozen=True, kw_only=True)
class PackSpec:
    """How streams become bytes. The codec's name is written beside each stream, so any artifact can be read.

    script: how the one-file script is written: "dense" takes the fewest bytes, and many seconds to write and several
    to unpack; "plain" takes a quarter more and no time, for sweeps and short runs."""

    codec: Codec
    script: str = "dense"


def dump(qtensors: Mapping[str, QTensor], header: Mapping[str, Any], spec: PackSpec) -> bytes:
    """The artifact. The same arguments give the same bytes. `header` is plain JSON values.

    Raises ArtifactError for parts that cannot be stored.
    """
    streams: dict[Kind, list[np.ndarray]] = {}
    layouts: dict[str, int] = {}
    tensors = []
    for name, qtensor in qtensors.items():
        parts = []
        for part, array in qtensor.parts.items():
            kind = kind_of(name, qtensor, part)
            streams.setdefault(kind, []).append(array)
            shape = 0 if array.shape == qtensor.shape else list(array.shape)
            parts.append([part, list(streams).index(kind), shape])
        layout = _json([qtensor.role, qtensor.method, list(qtensor.shape), parts])
        tensors.append([name, layouts.setdefault(layout, len(layouts))])
    encoded = _encode_all(spec.codec, streams)
    entries = [Entry(spec.codec.name, k.type, k.alphabet, k.width, len(encoded[k])) for k in streams]
    text = _json(
        {
            "header": header,
            "layouts": [json.loads(layout) for layout in layouts],
            "tensors": tensors,
            "streams": [astuple(entry) for entry in entries],
        }
    ).encode()
    text = min(text, deflate(text), key=len)
    prefix = MAGIC + bytes([VERSION]) + len(text).to_bytes(4, "little")
    body = b"".join([prefix, text, *(encoded[kind] for kind in streams)])
    _check_growth(sum(array.nbytes for arrays in streams.values() for array in arrays), len(body))
    return body + _digest(body)


def load(data: bytes) -> tuple[dict[str, Any], dict[str, QTensor]]:
    """The caller's header and the tensors, whose arrays are read-only. Raises ArtifactError for anything that
    `dump` did not write: truncated, altered, of a newer format, or forged to a matching checksum but
    inconsistent inside."""
    text, payload = _split(data)
    try:
        whole = json.loads(text)
        if not isinstance(whole["header"], dict):
            raise ArtifactError("the artifact's header is no object; fetch the file again")
        return whole["header"], _tensors(whole, payload)
    except ArtifactError:
        raise
    # The rest of what unpacking a forged header can run into: fields missing, too many, of the wrong type, too deep.
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise ArtifactError(f"the artifact's header does not make sense ({error}); fetch the file again") from error


def header(data: bytes) -> dict[str, Any]:
    """The caller's header alone, of which a good artifact's checksum holds; no tensor is unpacked.

    Raises ArtifactError for one that is truncated, altered or of a newer format.
    """
    try:
        return dict(json.loads(_split(data)[0])["header"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtifactError(f"the artifact's header does not make sense ({error}); fetch the file again") from error


def contents(data: bytes) -> list[tuple[Entry, list[tuple[str, str]]]]:
    """Each stream of an artifact with the (tensor, part) it holds, in order; what the streams leave of the file is
    the header. For reports: `load` reads. Raises ArtifactError like `load`."""
    load(data)
    whole = json.loads(_split(data)[0])
    found: list[tuple[Entry, list[tuple[str, str]]]] = [(Entry(*entry), []) for entry in whole["streams"]]
    for name, layout in whole["tensors"]:
        for part, stream, _ in whole["layouts"][layout][3]:
            found[stream][1].append((name, part))
    return found


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _digest(body: bytes | memoryview) -> bytes:
    return blake2b(body, digest_size=DIGEST).digest()


def _encode_all(codec: Codec, streams: Mapping[Kind, list[np.ndarray]]) -> dict[Kind, bytes]:
    """Streams side by side, since compressors let go of the interpreter lock; the longest first, to end together."""
    order = sorted(streams, key=lambda kind: -sum(array.nbytes for array in streams[kind]))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(order, pool.map(lambda kind: encode(codec, kind, streams[kind]), order)))


def _check_growth(decoded: int, stored: int) -> None:
    limit = ALWAYS_ALLOWED + GROWTH_LIMIT * stored
    if decoded > limit:
        raise ArtifactError(
            f"{stored:,} bytes would decode to {decoded:,}, over the limit of {limit:,}; "
            f"no real model packs so well, fetch the file again"
        )


def _split(data: bytes) -> tuple[bytes, memoryview]:
    """Header text and stream bytes of a file whose checksum holds."""
    if data[: len(MAGIC)] != MAGIC or len(data) < PREFIX + DIGEST:
        raise ArtifactError(f"{len(data):,} bytes that begin {data[:4]!r} are no artifact; one begins {MAGIC!r}")
    if data[len(MAGIC)] != VERSION:
        other = "a newer golf" if data[len(MAGIC)] > VERSION else "the golf that wrote it"
        raise ArtifactError(f"the artifact has format {data[len(MAGIC)]}, this golf reads {VERSION}; use {other}")
    body = memoryview(data)[:-DIGEST]
    if _digest(body) != data[-DIGEST:]:
        raise ChecksumError(
            f"{len(data):,} bytes do not match their checksum; the file was cut or altered, fetch it again"
        )
    end = PREFIX + int.from_bytes(data[PREFIX - 4 : PREFIX], "little")
    if end > len(body):
        raise ArtifactError(f"the header would end at byte {end:,} of {len(body):,}; fetch the file again")
    text = bytes(body[PREFIX:end])
    if not text.startswith(b"{"):
        text = inflate(text, HEADER_ALLOWED + GROWTH_LIMIT * len(text))
    return text, body[end:]


Layout = tuple[str, str, tuple[int, ...], list[tuple[str, int, tuple[int, ...]]]]


def _tensors(whole: Mapping[str, Any], payload: memoryview) -> dict[str, QTensor]:
    entries = [Entry(*entry) for entry in whole["streams"]]
    layouts = [_layout(*layout) for layout in whole["layouts"]]
    tensors = {_text(name): layouts[count(layout)] for name, layout in whole["tensors"]}
    if len(tensors) != len(whole["tensors"]):
        raise ArtifactError("two tensors have one name; fetch the file again")
    elements = [0] * len(entries)
    for _, _, _, parts in tensors.values():
        for _, stream, shape in parts:
            elements[stream] += math.prod(shape)
    _check_growth(sum(entry.dtype.itemsize * n for entry, n in zip(entries, elements)), len(payload))
    symbols = _decode_all(entries, elements, payload)
    taken = [0] * len(entries)
    found = {}
    for name, (role, method, shape, parts) in tensors.items():
        arrays, alphabets = {}, {}
        for part, stream, part_shape in parts:
            begin, taken[stream] = taken[stream], taken[stream] + math.prod(part_shape)
            arrays[part] = symbols[stream][begin : taken[stream]].reshape(part_shape)
            if entries[stream].alphabet:
                alphabets[part] = entries[stream].alphabet
        found[name] = QTensor(shape, method, arrays, alphabets, role)
    return found


def _decode_all(entries: list[Entry], elements: list[int], payload: memoryview) -> list[np.ndarray]:
    stored = sum(entry.bytes for entry in entries)
    if stored != len(payload):
        raise ArtifactError(f"streams of {stored:,} bytes in {len(payload):,}; fetch the file again")
    symbols, begin = [], 0
    for entry, wanted in zip(entries, elements):
        symbols.append(entry.decode(bytes(payload[begin : begin + entry.bytes]), wanted))
        begin += entry.bytes
    return symbols


def _layout(role: str, method: str, shape: list[int], parts: list[list[Any]]) -> Layout:
    whole = _shape(shape)
    found = [
        (_text(part), count(stream), whole if part_shape == 0 else _shape(part_shape))
        for part, stream, part_shape in parts
    ]
    if len({part for part, _, _ in found}) != len(found):
        raise ArtifactError("two parts of a tensor have one name; fetch the file again")
    return Role(role).value, _text(method), whole, found


def _shape(sizes: list[int]) -> tuple[int, ...]:
    return tuple(count(size) for size in sizes)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ArtifactError(f"the header says {value!r} where a name belongs; fetch the file again")
    return value
