"""The sliding window as a predictor: the same numbers as `golf.eval.sliding`, asked for through the interface."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from golf.eval.sliding import SlidingWindow
from golf.host import Host


@dataclass
class State:
    """seen: the last tokens of the stream, at most a window of them.  position: of the last one, in the stream.
    document: position of the token that begins the text windows may look at."""

    model: nn.Module
    seen: np.ndarray
    position: int = -1
    document: int = 0


class Piece(NamedTuple):
    """Targets that one window predicts: it begins at position `begin`, and predicts from `start` to before `end`."""

    begin: int
    start: int
    end: int


class Windows:
    """A fixed predictor around a model with `forward(ids_BT) -> logits_BTV`; `open` is given the model."""

    def __init__(self, spec: SlidingWindow, host: Host | None = None) -> None:
        self.spec, self.host = spec, host or Host()

    def open(self, artifact: nn.Module) -> State:
        return State(artifact.to(self.host.device).eval(), np.empty(0, np.int64))

    def observe(self, state: State, token: int) -> State:
        return self.advance(state, np.array([token]))

    def advance(self, state: State, targets_T: np.ndarray) -> State:
        if self.spec.documents == "isolated":
            for place in np.flatnonzero(targets_T == self.spec.bos).tolist():
                state.document = state.position + 1 + place
        state.position += len(targets_T)
        state.seen = np.concatenate([state.seen, targets_T])[-self.spec.window :]
        return state

    def distribution(self, state: State) -> Tensor:
        return self._rows(state, np.empty(0, np.int64), 1)[0]

    def logprobs(self, state: State, targets_T: np.ndarray) -> Tensor:
        # The last target is predicted, and no window needs to read it.
        return self._rows(state, targets_T[:-1], len(targets_T))

    def _rows(self, state: State, known: np.ndarray, count: int) -> Tensor:
        """Log probabilities of the `count` targets after position `state.position`, in as few windows as can be."""
        text = np.concatenate([state.seen, known])
        offset = state.position + 1 - len(state.seen)  # position of text[0]
        rows = []
        for begin, start, end in self._pieces(state, known, count):
            ids_T = np.zeros(self.spec.window, np.int64)  # one length for all: see `sliding.score`
            ids_T[: end - begin] = text[begin - offset : end - offset]
            rows.append(self._forward(state.model, ids_T, end - start, end - begin))
        return torch.cat(rows)

    def _pieces(self, state: State, known: np.ndarray, count: int) -> Iterator[Piece]:
        window, stride = self.spec.window, self.spec.stride
        begins = [state.document]
        if self.spec.documents == "isolated":
            begins += (state.position + 1 + np.flatnonzero(known == self.spec.bos)).tolist()
        ends = [*begins[1:], state.position + count]
        position = state.position
        for document, edge in zip(begins, ends):
            while position < edge:
                place = position - document
                step = max(0, place - window + stride) // stride * stride  # how far the window has moved on
                end = min(edge, document + window + step)
                yield Piece(document + step, position, end)
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
