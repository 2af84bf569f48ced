"""A `tokenizer.json` of Hugging Face in use, and the bytes each of its tokens spells.

Taken are those whose bytes can be counted: BPE over bytes, each written as a character of GPT-2's alphabet, and BPE
over pieces in which a marker stands for the space, as SentencePiece's. Special tokens spell nothing and bound the
text; a text that happens to hold their names is text. Added tokens that are not special are text as well.

What golf keeps of such a tokenizer is one file: the JSON as it came, its `tokenizer_config.json` if there was one,
and which tokens open and end documents, which neither has to say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golf.contracts import ByteTable, DataError
from golf.data.pieces import Pieces
from golf.data.speaking import is_json
from golf.data.tokenizer import Tokenizer
from golf.host import write_atomic

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
# The one read last, by its hash: a large one takes a second, and a command asks several times.
_OPENED: dict[str, tuple[Pieces, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class TokenizerJson:
    """A `tokenizer.json` for the corpus of a recipe, or one as golf keeps it (`tokenizer.model` of a run).

    bos, eos: the tokens that open documents and end the assistant's turns, where `tokenizer_config.json` beside it
    does not say so.
    """

    file: str
    bos: str = ""
    eos: str = ""

    def read(self) -> bytes:
        return read(Path(self.file), bos=self.bos, eos=self.eos)


def read(path: Path, *, bos: str = "", eos: str = "") -> bytes:
    """A tokenizer's file as golf keeps it: a SentencePiece model as it is, a tokenizer.json with what belongs to it.

    bos, eos: tokens that open and end documents, rather than what `tokenizer_config.json` says.
    Raises DataError for a file that is missing, cannot be counted in bytes, or names no such token.
    """
    if not path.is_file():
        raise DataError(f"tokenizer {path} does not exist; correct the path")
    data = path.read_bytes()
    if not is_json(data):
        if bos or eos:
            raise DataError(f"{path} is a SentencePiece model, which says itself what opens documents; leave out --bos")
        return data
    held, config = _object(data, str(path)), path.parent / CONFIG
    if "files" not in held:
        held = {"files": {FILE: data.decode()}}
        if config.is_file():
            said = config.read_bytes()
            _object(said, str(config))
            held["files"][CONFIG] = said.decode()
    held |= {role: name for role, name in (("bos", bos), ("eos", eos)) if name}
    kept = json.dumps(held, ensure_ascii=False, sort_keys=True).encode()
    JsonTokenizer(kept, name=str(path))
    return kept


def widened(kept: bytes, vocab: int) -> bytes:
    """The kept file for a model with rows for `vocab` tokens, of which the last few may stand for nothing."""
    return json.dumps(json.loads(kept) | {"vocab": vocab}, ensure_ascii=False, sort_keys=True).encode()


def files(kept: bytes) -> dict[str, str]:
    """Texts of the files of Hugging Face: the tokenizer as it came, and its configuration, which knows its roles."""
    held = json.loads(kept)
    said = held["files"].get(CONFIG, "{}")
    config = json.loads(said)
    roles = {f"{role}_token": name for role, name in _roles(held).items()}
    wanted = config | {key: name for key, name in roles.items() if _content(config.get(key)) != name}
    if wanted.pop("auto_map", None) or "tokenizer_class" not in wanted:  # code of its own does not come along
        wanted["tokenizer_class"] = "PreTrainedTokenizerFast"
    return {FILE: held["files"][FILE], CONFIG: said if wanted == config else json.dumps(wanted, indent=2)}


def write(folder: Path, kept: bytes) -> list[Path]:
    """Write what `read` gave into a folder under its usual names; returns the files."""
    texts = {name: text.encode() for name, text in files(kept).items()} if is_json(kept) else {"tokenizer.model": kept}
    for name, data in texts.items():
        write_atomic(folder / name, data)
    return [folder / name for name in texts]


class JsonTokenizer(Tokenizer):
    """A tokenizer.json in use."""

    def __init__(self, source: Path | bytes, *, name: str = "") -> None:
        """From a file, or the bytes of one that golf keeps; `name` is for messages. Raises DataError for one whose
        bytes cannot be counted, and where nobody says what opens documents.
        """
        data = read(source) if isinstance(source, Path) else source
        name = name or (str(source) if isinstance(source, Path) else f"of {len(data):,} bytes")
        held = _object(data, name)
        if FILE not in held.get("files", {}):
            held = {"files": {FILE: data.decode()}}
        self.sha256 = hashlib.sha256(data).hexdigest()
        if self.sha256 not in _OPENED:
            settings = _object(held["files"][FILE], name)
            pieces = Pieces(settings, _roles(held), int(held.get("vocab", 0)), name)
            _OPENED.clear()
            _OPENED[self.sha256] = pieces, _library(settings, name)
        self._processor, self._library = _OPENED[self.sha256]
        ids = self._processor.roles
        if "bos" not in ids:
            some = next(iter(self._processor.special.values()), "<|endoftext|>")
            raise DataError(
                f"tokenizer {name} does not say which token opens documents; name one with --bos (of `golf import` and "
                f"`golf data shard`, or bos= in a recipe), such as {some!r}"
            )
        self.vocab = self._processor.vocab_size()
        self.bos, self.eos, self.pad = (ids.get(role, -1) for role in ("bos", "eos", "pad"))
        self.lossless = self._processor.keeps and self._processor.complete

    def opening(self) -> str:
        """What a text must begin with for the library to open a document: nothing where it does so by itself."""
        by_itself = self._library.encode("").ids[:1] == [self.bos]
        return "" if by_itself else self._processor.special[self.bos]

    def encode_batch(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """Token ids of each text, without BOS, int64; the batch is encoded by several threads.

        Raises DataError for a text that the tokens do not spell to the byte, where they should.
        """
        for text, found in zip(texts, self._library.encode_batch_fast(list(texts), add_special_tokens=False)):
            ids = np.array(found.ids, int)
            pieces = self._processor
            if pieces.keeps and (spelled := pieces.lengths_V[ids].sum()) != len(text.encode()):
                raise DataError(
                    f"the tokenizer spells {spelled:,} bytes of a text of {len(text.encode()):,} that begins with "
                    f"{text[:40]!r}; it lacks tokens for some bytes, use one that has all 256"
                )
            yield ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text that tokens spell."""
        spelled = self._processor.spelled
        if spelled is None:
            return self._library.decode([int(token) for token in ids], skip_special_tokens=True)
        return b"".join(spelled[int(token)] for token in ids).decode("utf-8", "replace")

    def table(self) -> ByteTable:
        """Bytes that each token spells: where tokens are bytes their number, else by the rules of SentencePiece.

        A token that opens with a space, where one is put before the text, counts it unless it follows a boundary.
        """
        found = self._processor
        if found.spelled is None:
            return super().table()
        opens_V = np.array([found.opens and each[:1] == b" " for each in found.spelled])
        return ByteTable(found.lengths_V - opens_V, opens_V, found.lengths_V == 0)


def _roles(held: Mapping[str, Any]) -> dict[str, str]:
    """Names of the tokens by role: as chosen, else as the configuration says."""
    config = _object(held["files"].get(CONFIG, "{}"), CONFIG)
    said = {role: _content(config.get(f"{role}_token")) for role in ("bos", "eos", "pad")}
    return {role: name for role in said if (name := held.get(role) or said[role])}


def _content(token: Any) -> str:
    """A token in a configuration: its text, or a table that has it."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""


def _object(data: bytes | str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise DataError(f"tokenizer {name} is no readable JSON ({error}); fetch or copy it again") from error
    if not isinstance(value, dict):
        raise DataError(f"tokenizer {name} holds no JSON object; name the tokenizer.json itself")
    return value


def _library(settings: Mapping[str, Any], name: str) -> Any:
    """The tokenizer of the library `tokenizers`, which takes special tokens in a text for text."""
    try:
        import tokenizers
    except ImportError as error:
        raise DataError(
            "reading a tokenizer.json needs the package tokenizers; install it with `pip install 'golf[hf]'`"
        ) from error
    try:
        found = tokenizers.Tokenizer.from_str(json.dumps(settings))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"tokenizer {name} cannot be read ({error}); fetch or copy it again") from error
    found.no_truncation()
    found.no_padding()
    found.encode_special_tokens = True
    return found
