"""The vocabulary of a tokenizer as its own library tells it, for comparison with the bytes golf counts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import sentencepiece

from golf.data.pieces import alphabet
from golf.data.speaking import is_json
from golf.data.tokenizer import Tokenizer
from golf.data.tokenizer_json import FILE, files, read
from golf.eval.validity.accounting import Piece

# How GPT-2's alphabet spells the three bytes of a character that no normalizer changes, and a space.
PROBE, IN_BYTES, SPACE = "日", "æĹ¥", "Ġ"
BYTE = re.compile("<0x[0-9A-F]{2}>")


def pieces(model: Path, speaker: Tokenizer) -> list[Piece]:
    """Every entry of the vocabulary of a SentencePiece model or a tokenizer.json, which `speaker` is made of."""
    return of_json(read(model), speaker) if is_json(model) else of_sentencepiece(model)


def of_sentencepiece(model: Path) -> list[Piece]:
    """The pieces of a model file."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    kinds = (
        ("byte", processor.is_byte), ("control", processor.is_control), ("unknown", processor.is_unknown),
        ("unused", processor.is_unused),
    )  # fmt: skip
    return [
        Piece(processor.id_to_piece(token), next((name for name, asks in kinds if asks(token)), "text"))
        for token in range(processor.vocab_size())
    ]


def of_json(kept: bytes, speaker: Tokenizer) -> list[Piece]:
    """The tokens of a tokenizer.json as golf keeps it.

    Whether they are bytes, and whether a space is put before a text, is seen from what becomes of a text.
    """
    import tokenizers

    text = files(kept)[FILE]
    library, model = tokenizers.Tokenizer.from_str(text), json.loads(text)["model"]
    seen = _before_merges(library, PROBE)
    in_bytes, opens = seen.endswith(IN_BYTES), seen.startswith(SPACE)
    byte_of, added = alphabet(), library.get_added_tokens_decoder()
    roles, unknown = {speaker.bos, speaker.eos, speaker.pad}, model.get("unk_token")

    def piece(token: int) -> Piece:
        name = library.id_to_token(token)
        if name is None:
            return Piece("", "unused")
        if token in roles:
            return Piece(name, "control")
        if name == unknown:
            return Piece(name, "unknown")
        if token in added and added[token].special:
            return Piece(name, "control")
        if not in_bytes:
            return Piece(name, "byte" if model.get("byte_fallback") and BYTE.fullmatch(name) else "text")
        spelled = name.encode() if token in added else bytes(byte_of[char] for char in name if char in byte_of)
        if not name or (token not in added and len(spelled) < len(name)):
            return Piece(name, "unused")  # no merge makes a piece of none, or of other characters
        return Piece(spelled.decode("latin-1"), "bytes", opens and name.startswith(SPACE))

    return [piece(token) for token in range(speaker.vocab)]


def _before_merges(library: Any, text: str) -> str:
    """What a text is when the merges begin."""
    text = library.normalizer.normalize_str(text) if library.normalizer else text
    steps = library.pre_tokenizer
    return "".join(part for part, _ in steps.pre_tokenize_str(text)) if steps else text
