"""Continuing from given weights: fine-tuning, a further stage with other data, another length of context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.contracts import CheckpointError, Model
from golf.train.checkpoint import load_weights


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A weights file of golf, or the folder of the run that wrote it as `weights.safetensors`."""

    path: str

    def load(self, model: Model, about: Mapping[str, Any]) -> None:
        """Fill the model in place.

        Raises CheckpointError, with what differs, when the file holds a model of another shape or one that speaks
        another tokenizer than `about` says.
        """
        path = Path(self.path)
        path = path / "weights.safetensors" if path.is_dir() else path
        weights, theirs = load_weights(path)
        if "model" not in theirs:
            raise CheckpointError(f"{path} carries no model shape; make it one of golf's with `golf import` first")
        differing = differences(theirs["model"], about["model"])
        if differing:
            raise CheckpointError(
                f"{path} holds another model than the recipe: {', '.join(differing)}; set the recipe's model to match"
            )
        if theirs.get("tokenizer_sha256") != about["tokenizer_sha256"]:
            found, wanted = (str(value.get("tokenizer_sha256"))[:16] for value in (theirs, about))
            raise CheckpointError(
                f"{path} speaks the tokenizer with SHA-256 {found}..., the corpus {wanted}...; set data.tokenizer to "
                "the tokenizer.model of the run that wrote it"
            )
        model.load_state_dict(weights)


def differences(theirs: Any, ours: Any, where: str = "") -> list[str]:
    """`path there/here` of every value in which two JSON values differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        names = [*theirs, *(name for name in ours if name not in theirs)]
        return [
            text
            for name in names
            for text in differences(theirs.get(name), ours.get(name), f"{where}.{name}" if where else name)
        ]
    return [] if theirs == ours else [f"{where} is {theirs!r} there and {ours!r} here"]
