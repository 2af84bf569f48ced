"""Entry point of a golf artifact for its sandbox: the installed golf reads it and answers as its evaluation would."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from golf.contracts import Evaluation
from golf.data.speaking import byte_table
from golf.eval.sliding import SlidingWindow
from golf.eval.validity.windows import Windows
from golf.host import Host
from golf.publish.use.scoring import evaluation
from golf.publish.use.source import Source, open_source

TOKENIZER = "tokenizer.model"
# Where this lies beside an artifact, it is looked at through windows of so many tokens at most.
PROBE = "golf_probe.json"


@functools.cache
def source_of(artifact: str) -> Source:
    """The artifact, decoded once a process."""
    return open_source(Path(artifact), Path(TOKENIZER))


def spec_of(source: Source) -> Evaluation:
    """The evaluation that travels in an artifact, in windows and chunks no longer than PROBE says."""
    spec = evaluation(source.about["eval"])
    if not Path(PROBE).is_file():
        return spec
    most = json.loads(Path(PROBE).read_text())["window"]
    lengths = {field.name for field in fields(spec)} & {"window", "stride", "chunk"}
    return replace(spec, **{name: min(getattr(spec, name), most) for name in lengths})


class Ours:
    """The predictor of the evaluation that travels in the artifact; known when the artifact is opened."""

    def __init__(self) -> None:
        self._inner: Any = None
        self._model: Any = None

    def open(self, artifact: str) -> Any:
        source = source_of(artifact)
        spec = spec_of(source)
        self._inner = Windows(spec, Host()) if isinstance(spec, SlidingWindow) else spec.predictor(Host())
        if spec.fixed is not spec:  # it changes its model
            return self._inner.open(source.build())
        self._model = self._model or source.build()
        return self._inner.open(self._model)

    def observe(self, state: Any, token: int) -> Any:
        return self._inner.observe(state, token)

    def distribution(self, state: Any) -> Any:
        return self._inner.distribution(state)

    def logprobs(self, state: Any, targets_T: Any) -> Any:
        return self._inner.logprobs(state, targets_T)

    def advance(self, state: Any, targets_T: Any) -> Any:
        return self._inner.advance(state, targets_T)

    def horizon(self, state: Any) -> int | None:
        return self._inner.horizon(state) if hasattr(self._inner, "horizon") else None

    def evaluate(self, artifact: str, tokens: Any) -> Iterator[tuple[int, float]]:
        """Positions and nats as `golf run` sums them up, in stream order: where nothing adapts, a batch of windows may
        score a later document first, and what a fixed model says of one does not depend on the other."""
        source, found = source_of(artifact), {}
        spec = spec_of(source)
        if spec.fixed is spec and self._model is None:
            self._model = source.build()
        model = self._model if spec.fixed is spec else source.build()

        def report(positions: Any, nats: Any) -> None:
            for position, each in zip(positions.tolist(), nats.tolist()):
                assert position not in found, f"target {position} is scored twice"
                found[position] = each

        spec.score(model, tokens, byte_table(source.tokenizer), report=report)
        yield from sorted(found.items()) if spec.fixed is spec else found.items()

    def digest(self, state: Any) -> Any:
        return state.model
