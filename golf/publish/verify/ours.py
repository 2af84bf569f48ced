"""Entry point of a golf artifact for its sandbox: the installed golf reads it and answers as its evaluation would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from golf.data.tokenizer import byte_table
from golf.eval.sliding import SlidingWindow
from golf.eval.validity.windows import Windows
from golf.host import Host
from golf.publish.use.scoring import evaluation
from golf.publish.use.source import open_source

TOKENIZER = "tokenizer.model"


class Ours:
    """The predictor of the evaluation that travels in the artifact; known when the artifact is opened."""

    def __init__(self) -> None:
        self._inner: Any = None

    def open(self, artifact: str) -> Any:
        source = open_source(Path(artifact), Path(TOKENIZER))
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

    def evaluate(self, artifact: str, tokens: Any) -> Iterator[tuple[int, float]]:
        """Positions and nats as `golf run` sums them up, in stream order: where nothing adapts, a batch of windows may
        score a later document first, and what a fixed model says of one does not depend on the other."""
        source, found = open_source(Path(artifact), Path(TOKENIZER)), {}
        spec = evaluation(source.about["eval"])

        def report(positions: Any, nats: Any) -> None:
            for position, each in zip(positions.tolist(), nats.tolist()):
                assert position not in found, f"target {position} is scored twice"
                found[position] = each

        spec.score(source.build(), tokens, byte_table(source.tokenizer), report=report)
        yield from sorted(found.items()) if spec.fixed is spec else found.items()

    def digest(self, state: Any) -> Any:
        return state.model
