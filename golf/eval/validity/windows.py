"""The sliding window as a predictor: the same numbers as `golf.eval.sliding`, asked for through the interface."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from golf.eval.recent import Recent, starts
from golf.eval.sliding import SlidingWindow, keeps_apart
from golf.eval.spans import Span
from golf.host import Host


@dataclass
class State:
    model: nn.Module
    past: Recent = field(default_factory=Recent)


class Windows:
    """A fixed predictor around a model with `forward(ids_BT) -> logits_BTV`; `open` is given the model.

    Nothing that comes later decides which window predicts a target, not even how long documents are: so where later
    tokens change nothing, they change not one bit.
    """

    def __init__(self, spec: SlidingWindow, host: Host | None = None) -> None:
        self.spec, self.host = spec, host or Host()

    def open(self, artifact: nn.Module) -> State:
        return State(artifact.to(self.host.device).eval())

    def observe(self, state: State, token: int) -> State:
        return self.advance(state, np.array([token]))

    def advance(self, state: State, targets_T: np.ndarray) -> State:
        state.past.extend(targets_T, self._edge(state.model))
        state.past.forget(self.spec.window)
        return state

    def distribution(self, state: State) -> Tensor:
        return self._rows(state, np.empty(0, np.int64), 1)[0]

    def logprobs(self, state: State, targets_T: np.ndarray) -> Tensor:
        # The last target is predicted, and no window needs to read it.
        return self._rows(state, targets_T[:-1], len(targets_T))

    def _edge(self, model: nn.Module) -> int | None:
        """The token beyond which no window looks back, if there is one: as in `SlidingWindow.plan`."""
        if self.spec.documents == "isolated":
            return self.spec.bos
        return keeps_apart(model) if 2 * self.spec.stride <= self.spec.window else None

    def _rows(self, state: State, known: np.ndarray, count: int) -> Tensor:
        """Log probabilities of the `count` targets after the past, in as few windows as can be."""
        text, offset = np.concatenate([state.past.text, known]), state.past.offset
        rows = []
        for begin, start, end in self._pieces(state, known, count):
            ids_T = np.zeros(self.spec.window, np.int64)  # one length for all: see `sliding.score`
            ids_T[: end - begin] = text[begin - offset : end - offset]
            rows.append(self._forward(state.model, ids_T, end - start, end - begin))
        return torch.cat(rows)

    def _pieces(self, state: State, known: np.ndarray, count: int) -> Iterator[Span]:
        window, stride, edge = self.spec.window, self.spec.stride, self._edge(state.model)
        edges = starts([state.past.document], known, state.past.end, edge)
        anchor = 1 if self.spec.documents == "isolated" else stride
        position = state.past.end - 1
        last = position + count
        while position < last:
            document = max(begin for begin in edges if begin <= position)
            first = document - document % anchor + window
            reach = first if position < first else position - (position - first) % stride + stride
            # What begins later in the window is seen from its beginning on, by a model that keeps it apart.
            ends = (last, reach) if edge == keeps_apart(state.model) else (last, reach, *edges)
            end = min(each for each in ends if each > position)
            yield Span(document if position < first else reach - window, position, end)
            position = end

    def _forward(self, model: nn.Module, ids_T: np.ndarray, count: int, length: int) -> Tensor:
        """Log probabilities of the last `count` of the first `length` positions."""
        ids_BT = torch.from_numpy(ids_T).to(self.host.device)[None]
        low = self.host.compute_dtype != torch.float32
        tail = self.spec.window - length + count
        with torch.inference_mode(), torch.autocast(self.host.device.type, self.host.compute_dtype, enabled=low):
            if "tail" in inspect.signature(model.forward).parameters:
                logits_TV = model(ids_BT, tail=tail)[0, :count]
            else:
                logits_TV = model(ids_BT)[0, length - count : length]
        return logits_TV.float().log_softmax(-1)
