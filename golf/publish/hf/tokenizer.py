"""A SentencePiece BPE model as the `tokenizer.json` of Hugging Face, built by hand.

The usual conversion takes the model for a Llama tokenizer and is silently wrong for others. What is written here is
what the model file says: pieces, their order as the order of merges, normalization, the space marker, byte pieces.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import sentencepiece

from golf.contracts import DataError
from golf.data.tokenizer import MARKER

BPE = 2  # of TrainerSpec.model_type
# Fields of the protocol buffers of a model file, by number.
TRAINER, NORMALIZER = 2, 3
MODEL_TYPE = 3
CHARSMAP, DUMMY_PREFIX, EXTRA_SPACES = 2, 3, 4
SPECIAL = {"bos_token": "bos_id", "eos_token": "eos_id", "unk_token": "unk_id", "pad_token": "pad_id"}


def files(spelled: bytes, context: int | None) -> dict[str, str]:
    """Text of `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json` for a SentencePiece model.

    context: tokens the model reads at most.
    Raises DataError for a model that is not BPE, or that splits text in a way these files cannot say.
    """
    processor = sentencepiece.SentencePieceProcessor(model_proto=spelled)
    model = dict(fields(spelled))
    trainer, normalizer = dict(fields(model.get(TRAINER, b""))), dict(fields(model.get(NORMALIZER, b"")))
    if trainer.get(MODEL_TYPE, 1) != BPE:
        raise DataError("the tokenizer is no BPE model, and only those can be exported; train one with `golf data`")
    special = {
        role: processor.id_to_piece(getattr(processor, name)())
        for role, name in SPECIAL.items()
        if getattr(processor, name)() >= 0
    }
    names = {"bos_token": special["bos_token"], "eos_token": special.get("eos_token", special["bos_token"])}
    names |= {role: special[role] for role in ("unk_token", "pad_token") if role in special}
    config = names | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    if context is not None:
        config["model_max_length"] = context
    return {
        "tokenizer.json": json.dumps(_tokenizer(processor, normalizer, special), ensure_ascii=False),
        "tokenizer_config.json": json.dumps(config, indent=2),
        "special_tokens_map.json": json.dumps(names, indent=2),
    }


def _tokenizer(
    processor: sentencepiece.SentencePieceProcessor, normalizer: dict[int, Any], special: dict[str, str]
) -> dict[str, Any]:
    count = processor.vocab_size()
    pieces = [processor.id_to_piece(token) for token in range(count)]
    prefix = bool(normalizer.get(DUMMY_PREFIX, 1))
    bos = special["bos_token"]
    controls = [token for token in range(count) if processor.is_control(token) or processor.is_unknown(token)]
    template = [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    decode = [
        {"type": "Replace", "pattern": {"String": MARKER}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    decode += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": token, "content": pieces[token], "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True,
            }
            for token in controls
        ],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(normalizer, prefix)},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": [*template, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {bos: {"id": bos, "ids": [processor.bos_id()], "tokens": [bos]}},
        },
        "decoder": {"type": "Sequence", "decoders": decode},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": special.get("unk_token"),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": processor.is_byte(processor.piece_to_id("<0x00>")),
            "ignore_merges": False,
            "vocab": {piece: token for token, piece in enumerate(pieces)},
            "merges": merges(processor),
        },
    }  # fmt: skip


def _normalizers(normalizer: dict[int, Any], prefix: bool) -> list[dict[str, Any]]:
    """What SentencePiece does to a text before it looks for pieces."""
    steps: list[dict[str, Any]] = []
    if normalizer.get(CHARSMAP):
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(normalizer[CHARSMAP]).decode()})
    if normalizer.get(EXTRA_SPACES, 1):
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if prefix:
        steps.append({"type": "Prepend", "prepend": MARKER})
    return [*steps, {"type": "Replace", "pattern": {"String": " "}, "content": MARKER}]


def merges(processor: sentencepiece.SentencePieceProcessor) -> list[list[str]]:
    """Every way to make a piece of two others, in the order in which SentencePiece prefers the pieces."""
    plain = [
        token
        for token in range(processor.vocab_size())
        if not (processor.is_control(token) or processor.is_unknown(token) or processor.is_byte(token))
        and not processor.is_unused(token)
    ]
    known = {processor.id_to_piece(token): token for token in plain}
    ranked = sorted((-processor.get_score(token), token) for token in plain)
    found = []
    for _, token in ranked:
        piece = processor.id_to_piece(token)
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        ways = [(known[left], known[right], left, right) for left, right in halves if left in known and right in known]
        found += [[left, right] for _, _, left, right in sorted(ways)]
    return found


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a protocol buffer: whole numbers, or bytes for texts and nested messages."""
    at = 0
    while at < len(message):
        key, at = _number(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _number(message, at)
        elif kind == 2:
            size, at = _number(message, at)
            value, at = message[at : at + size], at + size
        else:  # 4 or 8 bytes of a number that nobody here asks for
            size = {5: 4, 1: 8}[kind]
            value, at = message[at : at + size], at + size
        yield key >> 3, value


def _number(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
