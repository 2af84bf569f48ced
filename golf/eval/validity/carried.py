"""D1 of a submission's own files: no passage of the validation text lies in them, however it is wrapped.

Files are looked into as archives, as compressed streams (whole, or beginning anywhere), and as text with literals in
it; what is found is read as text and as tokens of every width. What is encrypted stays hidden here, and shows where
the text is predicted: see `memory`.
"""

from __future__ import annotations

import ast
import base64
import binascii
import bz2
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import zstandard

from golf.eval.validity.splits import SHINGLE, rolling, scan, shingles, weights
from golf.eval.validity.verdict import Verdict, failed, passed, unchecked

# Passages of SHINGLE symbols that have to lie in a file before it counts as carrying the text. Boilerplate of 32
# characters is common, 32 tokens that are the same are not.
AS_TEXT, AS_TOKENS = 8, 2
# What a file is unpacked to at most, and how deep: more is a bomb, and nobody needs it for text.
MOST, DEEP = 1 << 28, 3
# Where a compressed stream may begin, and how many such places are tried.
MAGIC = {b"\x78\x01": "zlib", b"\x78\x9c": "zlib", b"\x78\xda": "zlib", b"\x1f\x8b": "gzip", b"BZh": "bz2",
         b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}  # fmt: skip
TRIED = 300
LITERAL = 64  # characters of an encoded literal that is looked into
LONG_WORDS = re.compile(rf"[^\s\"']{{{LITERAL},}}")
NUMBERS = re.compile(rb"(?:\b\d{1,9}\b[\s,;]+){64,}")
# Numbers that tokens may be kept as, and at how many places one may begin.
WIDTHS = {"<u2": 2, "<u4": 1, "<i8": 1, "<f4": 1, "<f8": 1}
BEYOND_16_BITS = {"<u4": 4}


def carried(files: Mapping[str, bytes], text: bytes, tokens: np.ndarray) -> Verdict:
    """No passage of the validation text, given as text and as tokens, lies in any of the files."""
    words, spelled = weights(), np.frombuffer(text, np.uint8).astype(np.uint16)
    # Both ways round: a text kept from its end costs nobody anything.
    as_text = shingles([(0, spelled), (len(text), spelled[::-1])], words)
    as_tokens = shingles([(0, np.asarray(tokens)), (len(tokens), np.asarray(tokens)[::-1])], words)
    wide = bool(len(tokens) and np.max(tokens) >> 16)
    # Zeros, of which every file has some, are no passage, though the first token of a tokenizer.json is a text's too.
    told = as_tokens.hashes != rolling(np.zeros(SHINGLE, np.uint16), words)
    as_tokens = replace(
        as_tokens, hashes=as_tokens.hashes[told], document=as_tokens.document[told], place=as_tokens.place[told]
    )
    for name, data in files.items():
        unpacked = 0
        for inside in insides(data):
            unpacked += len(inside)
            if unpacked > MOST + len(data):
                why = f"{name} unpacks to more than {MOST:,} bytes, of which the rest was not looked into"
                return unchecked("D1", why, file=name)
            for held, enough, form in ((as_text, AS_TEXT, "text"), (as_tokens, AS_TOKENS, "tokens")):
                spelled = np.frombuffer(inside, np.uint8).astype(np.uint16)
                for symbols in [spelled] if form == "text" else arrays(inside, wide):
                    found = int(scan(held, [symbols], words)[0].sum())
                    if found >= enough:
                        why = f"{name} holds {found} passages of the validation text as {form}"
                        return failed("D1", why, file=name, numbers=[found, 0])
    return passed("D1", f"no passage of the validation text in {len(files)} files of the submission")


def insides(data: bytes, deep: int = DEEP) -> Iterator[bytes]:
    """A file, and whatever can be unpacked from it."""
    yield data
    if deep == 0:
        return
    for inner in (*archived(data), *inflated(data), *literals(data)):
        yield from insides(inner, deep - 1)


def archived(data: bytes) -> Iterator[bytes]:
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as bag:
            for entry in bag.namelist():
                with bag.open(entry) as file:
                    yield file.read(MOST)


def inflated(data: bytes) -> Iterator[bytes]:
    """Compressed streams in some bytes, wherever they begin."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        return  # its entries were read
    for magic, kind in MAGIC.items():
        begin = -1
        for _ in range(TRIED):
            begin = data.find(magic, begin + 1)
            if begin < 0:
                break
            yield from filter(None, [inflate(kind, memoryview(data)[begin:])])


def inflate(kind: str, data: memoryview) -> bytes:
    """What a stream holds, as far as it can be read; b"" for what is none."""
    if kind == "zstd":
        try:
            return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read(MOST)
        except zstandard.ZstdError:
            return b""
    reader = {
        "zlib": zlib.decompressobj, "gzip": lambda: zlib.decompressobj(31), "bz2": bz2.BZ2Decompressor,
        "xz": lzma.LZMADecompressor,
    }[kind]()  # fmt: skip
    try:
        # The first bytes tell whether it is a stream at all.
        head = reader.decompress(bytes(data[: 1 << 12]), 1 << 16)
        if reader.eof:
            return head
        return head + reader.decompress(bytes(getattr(reader, "unconsumed_tail", b"")) + bytes(data[1 << 12 :]), MOST)
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error):
        return b""


def literals(data: bytes) -> Iterator[bytes]:
    """What the literals of a text decode to: bytes of a Python source, base64, base85 and hexadecimal runs, lists of
    numbers."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    try:
        constants = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        constants = LONG_WORDS.findall(text)
    for value in constants:
        if isinstance(value, (str, bytes)) and len(value) >= LITERAL and value != text:
            raw = value.encode("utf-8", "replace") if isinstance(value, str) else value
            yield raw
            for decode in (base64.b64decode, base64.b85decode, base64.a85decode, binascii.unhexlify):
                try:
                    yield decode(raw)
                except (ValueError, binascii.Error):
                    continue  # not this one
    for run in NUMBERS.findall(data):
        yield np.array([int(number) for number in re.findall(rb"\d+", run)], "<u4").tobytes()


def arrays(data: bytes, wide: bool) -> Iterator[np.ndarray]:
    """Some bytes as numbers of every width that tokens are kept in; those that are no tokens as 0.

    wide: tokens go beyond 65,535, and may be kept in three bytes each. Their lower halves alone tell them too.
    """
    for shift in range(3 * wide):
        planes = np.frombuffer(data, np.uint8)[shift:]
        planes = planes[: len(planes) // 3 * 3].reshape(-1, 3).astype(np.uint32)
        yield planes[:, 0] | planes[:, 1] << 8 | planes[:, 2] << 16
    for width, shifts in (WIDTHS | (BEYOND_16_BITS if wide else {})).items():
        size = np.dtype(width).itemsize
        for shift in range(shifts):
            whole = data[shift : shift + (len(data) - shift) // size * size]
            values = np.frombuffer(whole, width)
            if width != "<u2":
                values = np.where((values >= 0) & (values < 1 << 32), values, 0)
            yield values.astype(np.uint16 if width == "<u2" else np.uint32)
