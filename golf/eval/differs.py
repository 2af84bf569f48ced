"""Why a document that comes back from a tokenizer is not the one that went in."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from itertools import combinations

# What stock normalizers do to a text (SentencePiece's nmt_nfkc among them), in the order in which they do it.
CAUSES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("control and zero-width characters dropped", lambda text: re.sub(_DROPPED, "", text)),
    ("line ends, tabs and other spaces became spaces", lambda text: re.sub(r"[\s\u200b\u200e\u200f\ufeff]", " ", text)),
    ("letters composed", lambda text: unicodedata.normalize("NFC", text)),
    ("compatibility characters folded", lambda text: unicodedata.normalize("NFKC", text)),
    ("capitals lowered", str.lower),
    ("runs of spaces became one", lambda text: re.sub(" {2,}", " ", text)),
    ("spaces at the ends cut", lambda text: text.strip(" ")),
)
_DROPPED = r"[\x00-\x08\x0b\x0e-\x1f\x7f\x80-\x84\x86-\x9f\u200b-\u200f\ufeff]"
# How SentencePiece spells a token whose text it has lost.
UNKNOWN = " \u2047 "


def why(raw: str, decoded: str) -> str:
    """The fewest of CAUSES that turn one text into the other, in words; else where the two part.

    Empty for texts that are equal.
    """
    for count in range(len(CAUSES) + 1):
        for chosen in combinations(CAUSES, count):
            text = raw
            for _, change in chosen:
                text = change(text)
            if text == decoded:
                return ", ".join(name for name, _ in chosen)
            if UNKNOWN in decoded and _with_holes(text, decoded.split(UNKNOWN)):
                return ", ".join([*(name for name, _ in chosen), "characters unknown to the vocabulary lost"])
    at = next((place for place, (a, b) in enumerate(zip(raw, decoded)) if a != b), min(len(raw), len(decoded)))
    return f"character {at} on: {raw[at : at + 12]!r} became {decoded[at : at + 12]!r}"


def _with_holes(text: str, parts: list[str]) -> bool:
    """Whether a text is these parts in order, with something lost between each two of them."""
    place = len(parts[0])
    if not text.startswith(parts[0]):
        return False
    for part in parts[1:-1]:
        place = text.find(part, place + 1) + len(part)
        if place < len(part):
            return False
    return text.endswith(parts[-1]) and len(text) - len(parts[-1]) > place
