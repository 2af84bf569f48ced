"""A corpus that is on every machine: the documentation inside numpy, scipy and torch, as English text.

A document is one docstring, or one documentation text handed to a function such as `add_docstr`. The source
files are parsed, never executed. Validation documents are chosen by their hash; a training document that
shares a passage of SHINGLE_WORDS words with any of them is dropped.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.util
import re
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from golf.contracts import Corpus, DataError, Sink, SpecError, emit
from golf.data import corpus
from golf.data.corpus import Source

PACKAGES = ("numpy", "scipy", "torch")
# Bodies of tests hardly hold prose, and take half of the time to parse.
SKIPPED_FOLDERS = {"tests", "testing", "_vendor"}
SHINGLE_WORDS = 12
# Shorter texts are headings and stubs.
DOCUMENT_WORDS = 32
# Raised whenever the same packages would give another text, so that an older cache is not taken for it.
TEXT_VERSION = 2
# Control characters, halves of surrogate pairs, and the character with which tokenizers write a space.
UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2581\ufeff]")


@dataclass(frozen=True, kw_only=True)
class BuiltIn:
    """The built-in corpus. `vocab`: pieces of the tokenizer trained on it.  `val_share`: share of the
    documents that validate, of which a few fall to the rule that no two share a passage.
    """

    vocab: int = 1024
    val_share: float = 0.05

    def __post_init__(self) -> None:
        if not 300 <= self.vocab <= 65536:
            raise SpecError(f"data.vocab={self.vocab} is out of range; give 300..65536")
        if not 0 < self.val_share < 0.5:
            raise SpecError(f"data.val_share={self.val_share} is out of range; give more than 0 and less than 0.5")

    def open(self, cache: Path, sink: Sink) -> Corpus:
        """The corpus under `cache`, prepared on first use. Raises DataError when a package's sources are
        missing.
        """
        key = corpus.digest_of(self.identity())
        return corpus.prepare(cache / "corpora" / f"builtin_{key}", partial(self.source, sink), sink)

    def identity(self) -> Any:
        """A JSON value that changes whenever the text does."""
        versions = {package: metadata.version(package) for package in (*PACKAGES, "sentencepiece")}
        return {"versions": versions, "spec": asdict(self), "text": TEXT_VERSION}

    def source(self, sink: Sink) -> Source:
        train, val = split(read_packages(sink), self.val_share)
        return Source(name="builtin", train=lambda: train, val=lambda: val, vocab=self.vocab)


def read_packages(sink: Sink) -> list[str]:
    """The distinct normalized documents of the installed packages, ordered by their hash."""
    texts: set[str] = set()
    for done, package in enumerate(PACKAGES):
        emit(sink, "data", what="documentation", done=done, total=len(PACKAGES))
        found = importlib.util.find_spec(package)  # of a top-level package: locates it, executes nothing
        if found is None or not found.submodule_search_locations:
            raise DataError(
                f"package {package} is not installed, and its text is part of the built-in corpus; install it"
            )
        texts.update(read_folder(Path(found.submodule_search_locations[0])))
    emit(sink, "data", what="documentation", done=len(PACKAGES), total=len(PACKAGES))
    return sorted(texts, key=_hash)


def read_folder(folder: Path) -> Iterator[str]:
    """Normalized documents of at least DOCUMENT_WORDS words in the Python files under `folder`."""
    collecting = gc.isenabled()
    gc.disable()  # a syntax tree is many small objects that all live: collecting triples the time of parsing
    try:
        for path in folder.rglob("*.py"):
            if SKIPPED_FOLDERS.isdisjoint(path.relative_to(folder).parts):
                for text in map(normalize, strings(path.read_bytes(), path)):
                    if len(text.split()) >= DOCUMENT_WORDS:
                        yield text
    finally:
        if collecting:
            gc.enable()


def strings(source: bytes, path: Path) -> Iterator[str]:
    """The documentation texts of one Python file: docstrings, long strings handed to a function or assigned
    to a name with "doc" in it. Only statements are visited, which is most of the speed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            pending: list[ast.AST] = [ast.parse(source)]
    except SyntaxError as error:
        raise DataError(f"{path} is no Python this interpreter reads ({error}); reinstall the package") from error
    while pending:
        node = pending.pop()
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text
            case ast.Expr(value=ast.Call(func=name) as value) if _speaks_of_doc(name):
                yield from _constants(value)
            case ast.Assign(targets=[name], value=value) if _speaks_of_doc(name):
                yield from _constants(value)
        for name in ("body", "orelse", "finalbody", "handlers"):
            pending += getattr(node, name, ())


def _speaks_of_doc(name: ast.AST) -> bool:
    """Whether "doc" is in the last part of a dotted name, or in what an item is taken from."""
    while isinstance(name, ast.Subscript):
        name = name.value
    return "doc" in getattr(name, "attr", getattr(name, "id", "")).lower()


def _constants(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value


def normalize(text: str) -> str:
    """Without common indentation, unwanted characters, trailing spaces and runs of blank lines.

    Written out rather than taken from `inspect`, whose treatment of docstrings changes between Python
    versions.
    """
    text = UNWANTED.sub("", text.replace("\r\n", "\n").replace("\r", "\n").expandtabs())
    first, *rest = text.split("\n")
    margin = min((len(line) - len(line.lstrip(" ")) for line in rest if line.strip()), default=0)
    lines = [first.strip(), *(line[margin:].rstrip() for line in rest)]
    return re.sub("\n{3,}", "\n\n", "\n".join(lines)).strip()


def split(texts: list[str], val_share: float) -> tuple[list[str], list[str]]:
    """(train, val): documents whose hash falls in the share validate; then no passage of SHINGLE_WORDS words
    stands in two validation documents or on both sides. Order is kept.
    """
    limit = int(val_share * (1 << 32))
    chosen = [int.from_bytes(_hash(text)[-4:], "big") < limit for text in texts]
    hashes = shingles(texts)
    taken: set[int] = set()
    val = []
    for text, is_val, found in zip(texts, chosen, hashes):
        if is_val and taken.isdisjoint(passages := found.tolist()):
            taken.update(passages)
            val.append(text)
    held = np.fromiter(taken, np.uint64, len(taken))
    borders = np.cumsum([len(found) for found in hashes])[:-1]
    shared = np.split(np.isin(np.concatenate(hashes), held), borders)
    train = [text for text, is_val, hits in zip(texts, chosen, shared) if not is_val and not hits.any()]
    return train, val


def shingles(texts: list[str]) -> list[np.ndarray]:
    """For each text the hashes of all its runs of SHINGLE_WORDS words, uint64. Equal runs have equal
    hashes.
    """
    numbers: dict[str, int] = {}
    coded = [np.array([numbers.setdefault(word, len(numbers)) for word in text.split()]) for text in texts]
    draw = np.random.default_rng(0)
    word_hash = draw.integers(1 << 64, size=len(numbers), dtype=np.uint64)
    place_hash = draw.integers(1 << 64, size=SHINGLE_WORDS, dtype=np.uint64) | np.uint64(1)
    return [
        np.lib.stride_tricks.sliding_window_view(word_hash[words], SHINGLE_WORDS) @ place_hash
        if len(words) >= SHINGLE_WORDS
        else np.empty(0, np.uint64)
        for words in coded
    ]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
