"""Entry point of a golf submission for its sandbox: its own `train_gpt.py`, with no golf beside it, reads the artifact
and scores. What its modules call things is shortened and differs from script to script; what they call of other
libraries does not, and tells which function is which."""

from __future__ import annotations

import importlib
import inspect
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

SCRIPT, TOKENIZER = "train_gpt.py", "tokenizer.model"


class Script:
    """The evaluation of the script's recipe, as the script itself carries it out."""

    def __init__(self) -> None:
        # Under another name than __main__ it hands out its modules and trains nothing.
        runpy.run_path(SCRIPT, run_name="submission")
        self._spec = importlib.import_module("golf_record").RECIPE.eval

    def open(self, artifact: str) -> Any:
        """The model, as the script makes it of the artifact's bytes."""
        return the_one(importlib.import_module("golf.run"), "load_state_dict(", 1)(Path(artifact).read_bytes())

    def evaluate(self, artifact: str, tokens: Any) -> Iterator[tuple[int, float]]:
        """One pair: how many targets were scored, and the sum of their nats."""
        table = the_one(importlib.import_module("golf.data.tokenizer"), ".is_unused(", 1)
        with importlib.import_module("golf.host").join() as host:
            model = self.open(artifact).to(host.device)
            spelled = table(Path(TOKENIZER).read_bytes())
            score = self._spec.score(model, tokens, spelled, host=host, sink=lambda event: None)
        yield score.tokens, score.nats

    def digest(self, state: Any) -> Any:
        return state


def the_one(module: ModuleType, words: str, parameters: int) -> Callable[..., Any]:
    """The one function of a module with so many parameters whose text holds these words."""
    found = [
        each
        for each in vars(module).values()
        if inspect.isfunction(each) and each.__module__ == module.__name__
        and len(inspect.signature(each).parameters) == parameters and words in inspect.getsource(each)
    ]  # fmt: skip
    if len(found) != 1:
        raise LookupError(f"{len(found)} functions of {module.__name__} hold {words!r}: a script this golf cannot read")
    return found[0]
