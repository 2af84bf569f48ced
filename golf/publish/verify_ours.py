"""Entry point of a golf artifact for its sandbox: the installed golf reads it and answers as its evaluation would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from golf.eval.sliding import SlidingWindow
from golf.eval.validity.windows import Windows
from golf.host import Host
from golf.publish.scoring import evaluation
from golf.publish.source import open_source


class Ours:
    """The predictor of the evaluation that travels in the artifact; known when the artifact is opened."""

    def __init__(self) -> None:
        self._inner: Any = None

    def open(self, artifact: str) -> Any:
        source = open_source(Path(artifact), Path("tokenizer.model"))
        spec = evaluation(source.about["eval"])
        self._inner = Windows(spec, Host()) if isinstance(spec, SlidingWindow) else spec.predictor(Host())
        return self._inner.open(source.build())

    def observe(self, state: Any, token: int) -> Any:
        return self._inner.observe(state, token)

    def distribution(self, state: Any) -> Any:
        return self._inner.distribution(state)

    def logprobs(self, state: Any, targets_T: Any) -> Any:
        return self._inner.logprobs(state, targets_T)

    def advance(self, state: Any, targets_T: Any) -> Any:
        return self._inner.advance(state, targets_T)

    def digest(self, state: Any) -> Any:
        return state.model
