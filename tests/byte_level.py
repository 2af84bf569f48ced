"""Tokenizers of the library `tokenizers`, trained on the spot, as folders of Hugging Face hold them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

END = "<|endoftext|>"


def trained(texts: Iterable[str], vocab: int, special: Iterable[str] = (END,), **space: Any) -> Any:
    """A byte-level BPE with all 256 bytes. space: settings of its ByteLevel step."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(**{"add_prefix_space": False} | space)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    return made


def lifted(made: Any, by: int) -> dict[str, Any]:
    """The JSON of a tokenizer whose ids begin at `by`, behind pieces that no merge makes."""
    found = json.loads(made.to_str())
    fillers = {f"filler{number}": number for number in range(by)}
    found["model"]["vocab"] = fillers | {piece: token + by for piece, token in found["model"]["vocab"].items()}
    for entry in found["added_tokens"]:
        entry["id"] += by
    return found


def save(folder: Path, made: Any, **config: Any) -> Path:
    """`tokenizer.json` in a folder, beside a `tokenizer_config.json` that holds `config`, if anything."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(made) if isinstance(made, dict) else made.to_str(pretty=True)
    (folder / "tokenizer.json").write_text(text)
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder / "tokenizer.json"
