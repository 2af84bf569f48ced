"""What the tokens of a `tokenizer.json` are, and the bytes they spell; told from the file alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from golf.contracts import DataError
from golf.data.tokenizer import MARKER

# Steps before the merges that lose no byte of the text; some can be told to.
KEEPING = frozenset("ByteLevel Digits FixedLength Metaspace Punctuation Split UnicodeScripts".split())
# Bytes that UTF-8 never uses.
UNUSED = frozenset((0xC0, 0xC1, *range(0xF5, 0x100)))


class Pieces:
    """What the tokens of a tokenizer.json are, asked as a SentencePiece model is asked.

    roles: ids by role.  special: what each special token is called.  keeps: every byte of any text is that of a token.
    complete: there is a token for every byte.  opens: a space is put before the text.  spelled: bytes by token where
    tokens are bytes, else None; lengths_V: their numbers.
    """

    def __init__(self, settings: dict[str, Any], roles: Mapping[str, str], vocab: int, name: str) -> None:
        """settings: the JSON, in which the tokens of roles become special ones.  vocab: ids at least.

        Raises DataError for a tokenizer whose bytes cannot be counted.
        """
        model, added = settings.get("model"), settings.get("added_tokens") or []
        if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
            raise DataError(f"tokenizer {name} is no tokenizer.json of a BPE model; name such a file")
        before = [*_steps(settings.get("pre_tokenizer"))]
        normalizers = [*_steps(settings.get("normalizer"))]
        check(model, before, normalizers, name)
        for entry in added:
            entry["special"] = entry.get("special", False) or entry["content"] in roles.values()
        known = {entry["content"]: entry["id"] for entry in added}
        for role in ("bos", "eos"):
            if role in roles and roles[role] not in known:
                some = ", ".join(map(repr, list(known)[:8])) or "none"
                raise DataError(
                    f"{roles[role]!r}, the {role} of tokenizer {name}, is no special token; there are {some}"
                )
        self.roles = {role: known[each] for role, each in roles.items() if each in known}
        self.special = {entry["id"]: entry["content"] for entry in added if entry["special"]}
        self._added = {entry["id"]: entry["content"] for entry in added if not entry["special"]}
        self._names = {token: piece for piece, token in model["vocab"].items()} | self.special | self._added
        self._size = max(vocab, 1 + max(self._names, default=0))
        self.unknown = model["vocab"].get(model.get("unk_token"), -1)
        self._fallback = bool(model.get("byte_fallback"))
        prefix = any(map(_puts_a_space, (*before, *normalizers)))
        eats = [entry["content"] for entry in added if not entry["special"] and (entry["lstrip"] or entry["rstrip"])]
        if odd := eats or [*self._added.values()] * prefix:
            raise DataError(f"tokenizer {name} has a token {odd[0]!r} with spaces of its own; bytes cannot be counted")
        self.spelled, self.complete = None, False
        if in_bytes := any(each["type"] == "ByteLevel" for each in before):
            self.spelled, self.complete = self._in_bytes(model["vocab"])
            self.lengths_V = np.array([len(each) for each in self.spelled], np.int64)
        self.keeps, self.opens = in_bytes and not normalizers and not prefix, in_bytes and prefix

    def _in_bytes(self, vocab: Mapping[str, int]) -> tuple[list[bytes], bool]:
        """(the bytes of each token, whether every byte of UTF-8 is one)"""
        # A character that is not of the alphabet becomes one that Latin-1 lacks, and its piece no bytes.
        as_latin = dict.fromkeys(range(256), "\ufffd") | {ord(char): chr(byte) for char, byte in alphabet().items()}
        found = [b""] * self._size
        for piece, token in vocab.items():
            if token not in self.special and token != self.unknown:
                spelled = piece.translate(as_latin)
                found[token] = b"" if max(spelled, default="") > "\xff" else spelled.encode("latin-1")
        singles = {each[0] for each in found if len(each) == 1}
        for token, content in self._added.items():
            found[token] = content.encode()
        return found, singles | UNUSED >= set(range(256))

    def vocab_size(self) -> int:
        return self._size

    def id_to_piece(self, token: int) -> str:
        return self._names.get(token, "")

    def unk_id(self) -> int:
        return self.unknown

    def is_control(self, token: int) -> bool:
        return token in self.special

    def is_unknown(self, token: int) -> bool:
        return token == self.unknown

    def is_unused(self, token: int) -> bool:
        return token not in self._names

    def is_byte(self, token: int) -> bool:
        piece = self._names[token]
        return self._fallback and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")


def alphabet() -> dict[str, int]:
    """The character of GPT-2's alphabet for each byte: itself where that is visible, else the next beyond 255."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


def check(model: Mapping[str, Any], before: list[Any], normalizers: list[Any], name: str) -> None:
    """Raises DataError where it cannot be told what tokens spell.  before: pre-tokenizers."""
    wrong, kinds = [], [each["type"] for each in normalizers]
    if model.get("type", "BPE") != "BPE":
        wrong.append(f"its model is {model['type']}, not BPE")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        wrong.append("it marks parts of words")
    if model.get("dropout"):
        wrong.append("it draws its merges at random (dropout)")
    for each in before:
        if each["type"] not in KEEPING or each.get("behavior") == "Removed":
            wrong.append(f"its pre-tokenizer {each['type']} drops characters")
    marks = any(each["type"] == "Replace" and each.get("content") == MARKER for each in normalizers)
    marks |= any(each["type"] == "Metaspace" for each in before)
    if "ByteLevel" in kinds or not (marks or any(each["type"] == "ByteLevel" for each in before)):
        wrong.append(f"its tokens are neither bytes nor pieces with {MARKER!r} for a space")
    if wrong:
        raise DataError(
            f"bytes of tokenizer {name} cannot be counted: {wrong[0]}; use a byte-level BPE or a SentencePiece model"
        )


def _puts_a_space(step: Mapping[str, Any]) -> bool:
    """Whether a step puts a space before the text."""
    match step["type"]:
        case "ByteLevel":
            return step.get("add_prefix_space", False)
        case "Metaspace":
            return step.get("prepend_scheme", "always") != "never"
        case kind:
            return kind == "Prepend"


def _steps(node: Any) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, sequences resolved."""
    if isinstance(node, dict) and node.get("type") == "Sequence":
        for each in node.get("normalizers") or node.get("pretokenizers") or []:
            yield from _steps(each)
    elif node:
        yield node
