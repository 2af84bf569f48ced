"""Legal test-time training by chunks: a chunk of the stream is scored, then all weights learn from it (track B).

Sources: openai/parameter-golf pull requests 461, 549 and 1413; the conditions are those of its issue 1017. The
predictor runs under the validity driver, which puts a distribution on record before it shows the target, so no score
can depend on weights that have seen it. The model it is given is left as it was.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from golf.contracts import ByteTable, Score, Sink, SpecError, quiet
from golf.eval.recent import Recent, distributions
from golf.eval.sliding import UNSCORED, Report, SlidingWindow, keeps_apart
from golf.eval.validity import driver
from golf.host import Host


@dataclass(frozen=True, kw_only=True)
class ChunkSGD:
    """Sliding windows over weights that take SGD steps on every chunk once it is scored.

    window, stride: as for `SlidingWindow`; `window` is also the length of the sequences learned from.
    chunk: targets scored between two rounds of learning; the last chunk of a stream is never learned from.
    epochs: passes over a chunk.  rows: sequences in a step.
    lr, momentum, grad_clip: of SGD; the gradient's norm is clipped.
    decay_chunks: lr falls to zero as a cosine over so many chunks; 0 leaves it as it is. A number rather than the
        stream's length, which a decoder would not know.
    """

    kind: ClassVar[str] = "chunk-sgd"

    window: int = 2048
    stride: int = 64
    chunk: int = 32_768
    epochs: int = 3
    rows: int = 4
    lr: float = 0.002
    momentum: float = 0.9
    grad_clip: float = 1.0
    decay_chunks: int = 0

    def __post_init__(self) -> None:
        SlidingWindow(window=self.window, stride=self.stride)
        for name, least in (("chunk", 1), ("epochs", 1), ("rows", 1), ("decay_chunks", 0)):
            if getattr(self, name) < least:
                raise SpecError(f"{name}={getattr(self, name)} must be at least {least}")
        for name in ("lr", "grad_clip"):
            if not getattr(self, name) > 0:
                raise SpecError(f"{name}={getattr(self, name)} must be above 0")
        if not 0 <= self.momentum < 1:
            raise SpecError(f"momentum={self.momentum} must be at least 0 and below 1")

    @property
    def fixed(self) -> SlidingWindow:
        return SlidingWindow(window=self.window, stride=self.stride)

    @property
    def plain(self) -> SlidingWindow:
        return self.fixed.plain

    def tiny(self) -> ChunkSGD:
        return replace(self, window=64, stride=32, chunk=512)

    def predictor(self, host: Host | None = None) -> ChunkPredictor:
        return ChunkPredictor(self, host)

    def rate(self, chunk: int) -> float:
        """The learning rate for the chunk with that number."""
        share = min(chunk / self.decay_chunks, 1.0) if self.decay_chunks else 0.0
        return self.lr * 0.5 * (1 + math.cos(math.pi * share))

    def score(
        self,
        model: nn.Module,
        tokens: Sequence[int],
        table: ByteTable,
        *,
        host: Host | None = None,
        sink: Sink = quiet,
        report: Report | None = None,
    ) -> Score:
        """As `driver.score`; ranks share windows and gradients and all return the same. Only rank 0 reports."""
        host = host or Host()
        stretch = max(1, driver.STRETCH_LOGITS // table.vocab)
        told = report if host.is_main else None
        return driver.score(self.predictor(host), model, tokens, table, stretch=stretch, sink=sink, report=told)


@dataclass
class State:
    """waiting: targets seen since weights last moved.  chunks: rounds of learning so far."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    past: Recent = field(default_factory=Recent)
    waiting: int = 0
    chunks: int = 0


class ChunkPredictor:
    """`ChunkSGD` through the interface of `golf.eval.validity`; `open` is given the model and copies it."""

    def __init__(self, spec: ChunkSGD, host: Host | None = None) -> None:
        self.spec, self.host = spec, host or Host()

    def open(self, artifact: nn.Module) -> State:
        model = copy.deepcopy(artifact).to(self.host.device).eval().requires_grad_()
        return State(model, torch.optim.SGD(model.parameters(), self.spec.lr, self.spec.momentum))

    def observe(self, state: State, token: int) -> State:
        return self.advance(state, np.array([token]))

    def advance(self, state: State, targets_T: np.ndarray) -> State:
        while len(targets_T):  # chunk by chunk, though nobody asked for a distribution between them
            if state.waiting == self.spec.chunk:
                self.learn(state)
            # The stream's first token is shown too, and is no target.
            count = min(len(targets_T), self.horizon(state) + (not state.past.end))
            state.waiting += count if state.past.end else count - 1
            state.past.extend(targets_T[:count].astype(np.int64), keeps_apart(state.model))
            if state.waiting < self.spec.chunk:
                state.past.forget(max(self.spec.window, state.waiting + 1))
            targets_T = targets_T[count:]
        return state

    def horizon(self, state: State) -> int:
        """Targets until the weights move."""
        return self.spec.chunk - state.waiting % self.spec.chunk

    def distribution(self, state: State) -> Tensor:
        return self.logprobs(state, np.zeros(1, np.int64))[0]

    def logprobs(self, state: State, targets_T: np.ndarray) -> Tensor:
        if state.waiting == self.spec.chunk:
            self.learn(state)
        window, stride = self.spec.window, self.spec.stride
        return distributions(state.model, state.past, targets_T[:-1], len(targets_T), window, stride, self.host)

    def learn(self, state: State) -> None:
        """Some epochs on the chunk that is on record. All ranks take the same steps."""
        spec = self.spec
        for group in state.optimizer.param_groups:
            group["lr"] = spec.rate(state.chunks)
        text = state.past.text[-state.waiting - 1 :]
        for _ in range(spec.epochs):
            for begin in range(0, state.waiting, spec.rows * spec.window):
                end = min(begin + spec.rows * spec.window, state.waiting)
                self._step(state, text[begin : end + 1])
        state.waiting, state.chunks = 0, state.chunks + 1
        state.past.forget(spec.window)

    def _step(self, state: State, text: np.ndarray) -> None:
        """One step on the mean loss of the targets text[1:], which stand in sequences of a window each."""
        spec, host, parameters = self.spec, self.host, list(state.model.parameters())
        ids_BT, targets_BT = sequences(text, spec.window)
        ids_BT, targets_BT = (part[host.rank :: host.world].to(host.device) for part in (ids_BT, targets_BT))
        state.optimizer.zero_grad(set_to_none=False)
        if len(ids_BT):
            share = (targets_BT != UNSCORED).sum().item() / (len(text) - 1)
            low = host.compute_dtype != torch.float32
            with torch.enable_grad(), torch.autocast(host.device.type, dtype=host.compute_dtype, enabled=low):
                (state.model.loss(ids_BT, targets_BT) * share).backward()
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            host.sum(parameter.grad)
        nn.utils.clip_grad_norm_(parameters, spec.grad_clip)
        state.optimizer.step()


def sequences(text: np.ndarray, window: int) -> tuple[Tensor, Tensor]:
    """Inputs text[:-1] and targets text[1:] as rows of `window`, the last one filled up with what is not scored."""
    count = -(-(len(text) - 1) // window)
    ids_N, targets_N = np.zeros(count * window, np.int64), np.full(count * window, UNSCORED, np.int64)
    ids_N[: len(text) - 1], targets_N[: len(text) - 1] = text[:-1], text[1:]
    return torch.from_numpy(ids_N).view(count, window), torch.from_numpy(targets_N).view(count, window)
