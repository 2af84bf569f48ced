"""The phone book of evaluations: every kind of score golf can take."""

from __future__ import annotations

import difflib
import importlib

from golf.contracts import SpecError

# Kind to "module:spec class". Names stay text until used.
KINDS = {
    "sliding": "golf.eval.sliding:SlidingWindow",
    "rolling": "golf.eval.rolling:Rolling",
    "chunk-sgd": "golf.eval.chunks:ChunkSGD",
    "document-lora": "golf.eval.lora:DocumentLoRA",
}


def spec_class(kind: str) -> type:
    """Raises SpecError for a kind golf does not have."""
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KINDS)}"
        raise SpecError(f"unknown kind of evaluation {kind!r}; {hint}")
    module, name = KINDS[kind].split(":")
    return getattr(importlib.import_module(module), name)
