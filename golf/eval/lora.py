"""Legal test-time training by documents: adapters of its own learn each document chunk by chunk (track B).

Source: openai/parameter-golf pull request 1530; the conditions are those of its issue 1017. A chunk's nats are on
record before a step is taken on it, and nothing passes from one document to the next: so documents may be scored side
by side, in stream order, with the numbers the validity driver gets one target after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from golf.contracts import ByteTable, Score, Sink, SpecError, quiet
from golf.eval.adapters import Adapters, adaptable, frozen
from golf.eval.sliding import Report, SlidingWindow, Tally, find, forward_tail, read, weigh
from golf.eval.spans import Span
from golf.eval.validity import driver
from golf.host import Host


class Document(NamedTuple):
    """Positions begin..end of a stream, without the end."""

    begin: int
    end: int


@dataclass(frozen=True, kw_only=True)
class DocumentLoRA:
    """Each document by itself, in windows that end where a chunk ends, over adapters that learn it as it passes.

    window: tokens fed at most, all of one document; a multiple of `chunk`.
    chunk: targets scored between two steps; the last chunk of a document is never learned from.
    bos: the token that begins a document.
    rank, alpha: of the adapters, which are scaled by alpha / rank.  layers: hidden matrices that get one, by the
        ends of their names; empty for all.  seed: of where adapters start.
    lr, beta2, weight_decay: of AdamW, one step a chunk, without momentum.
    rows: neighboring documents adapted side by side (speed and memory only).
    """

    kind: ClassVar[str] = "document-lora"

    window: int = 2048
    chunk: int = 256
    bos: int = 1
    rank: int = 8
    alpha: float = 16.0
    layers: tuple[str, ...] = ()
    lr: float = 0.001
    beta2: float = 0.99
    weight_decay: float = 0.5
    rows: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("window", "chunk", "rank", "rows"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name}={getattr(self, name)} must be at least 1")
        if self.window % self.chunk:
            near = max(1, self.window // self.chunk) * self.chunk
            raise SpecError(f"window={self.window} is no multiple of chunk={self.chunk}; {near} would be")
        if not self.lr > 0:
            raise SpecError(f"lr={self.lr} must be above 0")
        if not 0 <= self.beta2 < 1:
            raise SpecError(f"beta2={self.beta2} must be at least 0 and below 1")

    @property
    def fixed(self) -> SlidingWindow:
        """The same contexts without adapters."""
        return SlidingWindow(window=self.window, stride=self.chunk, documents="isolated", bos=self.bos)

    @property
    def plain(self) -> SlidingWindow:
        return self.fixed.plain

    def tiny(self) -> DocumentLoRA:
        return replace(self, window=64, chunk=16, rank=2)

    def predictor(self, host: Host | None = None) -> DocumentPredictor:
        return DocumentPredictor(self, host)

    def adapt(self, model: nn.Module, rows: int, device: torch.device) -> tuple[Adapters, torch.optim.Optimizer]:
        """Fresh adapters for so many documents, and what moves them."""
        layers = adaptable(model, self.layers)
        adapters = Adapters(layers, rows, self.rank, self.alpha / self.rank, self.seed).to(device)
        options = {"betas": (0.0, self.beta2), "eps": 1e-10, "weight_decay": self.weight_decay}
        return adapters, torch.optim.AdamW(adapters.parameters(), self.lr, **options)

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
        """As `SlidingWindow.score`. One document at a time goes through the validity driver; several side by side,
        and ranks, which take turns with groups of them, get the same numbers by themselves."""
        host = host or Host()
        if self.rows == host.world == 1:
            stretch = max(1, driver.STRETCH_LOGITS // table.vocab)
            return driver.score(self.predictor(host), model, tokens, table, stretch=stretch, sink=sink, report=report)
        tally = Tally(tokens, host, sink, report)
        for group in islice(groups(documents(tokens, self.bos), self.rows), host.rank, None, host.world):
            adapters, optimizer = self.adapt(model, len(group), host.device)
            for at in range(0, max(end - begin for begin, end in group), self.chunk):
                active = [row for row, (begin, end) in enumerate(group) if end - begin > at]
                batch = [self.span(group[row], at) for row in active]
                width = min(at + self.chunk, self.window)
                ids_BT, targets_BT, lengths = read(tokens, batch, width, self.chunk, table)
                goes_on = torch.tensor([group[row].end - group[row].begin > at + self.chunk for row in active])
                learns = bool(goes_on.any())
                with frozen(model, host, learns), adapters.attached(torch.tensor(active, device=host.device)):
                    logits_BTV = forward_tail(model)(torch.from_numpy(ids_BT).to(host.device), self.chunk)
                    nats_BT = weigh(logits_BTV, targets_BT).view(targets_BT.shape)
                # On record here, before the step below changes anything.
                tally.add(batch, nats_BT.flatten(), targets_BT, lengths)
                if learns:
                    # A sum over documents: each one's adapters feel the mean of its own chunk alone.
                    step(optimizer, nats_BT[goes_on.to(host.device)].mean(1).sum())
        return tally.total()

    def span(self, document: Document, at: int) -> Span:
        """What predicts the chunk that begins `at` positions into a document."""
        start = document.begin + at
        return Span(max(document.begin, start + self.chunk - self.window), start, min(start + self.chunk, document.end))


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def documents(tokens: Sequence[int], bos: int) -> Iterator[Document]:
    """The documents of a stream; what comes before the first `bos` is one too."""
    last = len(tokens) - 1
    edges = (edge for edge in find(tokens, bos) if 0 < edge < last)
    yield from (Document(*pair) for pair in pairwise(chain((0,), edges, (last,))))


def groups(items: Iterator[Document], size: int) -> Iterator[list[Document]]:
    while group := list(islice(items, size)):
        yield group


@dataclass
class State:
    """text: the document so far.  waiting: of its targets, those seen since the adapters last moved.
    kept: the text that predicted a whole chunk, and the logits with their graph, to learn from without a second
    forward; None where the chunk was asked for piece by piece.
    """

    model: nn.Module
    adapters: Adapters
    optimizer: torch.optim.Optimizer
    text: np.ndarray
    waiting: int = 0
    kept: tuple[np.ndarray, Tensor] | None = None


class DocumentPredictor:
    """`DocumentLoRA` through the interface of `golf.eval.validity`; `open` is given the model and leaves it alone."""

    def __init__(self, spec: DocumentLoRA, host: Host | None = None) -> None:
        self.spec, self.host = spec, host or Host()

    def open(self, artifact: nn.Module) -> State:
        return self._fresh(artifact.to(self.host.device), np.empty(0, np.int64))

    def observe(self, state: State, token: int) -> State:
        return self.advance(state, np.array([token]))

    def horizon(self, state: State) -> int:
        """Targets until the adapters move, or later where a document ends before."""
        return self.spec.chunk - state.waiting % self.spec.chunk

    def advance(self, state: State, targets_T: np.ndarray) -> State:
        while len(targets_T):  # chunk by chunk, though nobody asked for a distribution between them
            if state.waiting == self.spec.chunk and targets_T[0] != self.spec.bos:
                self._learn(state)
            count = min(len(targets_T), self.horizon(state) + (not len(state.text)))
            state, targets_T = self._show(state, targets_T[:count]), targets_T[count:]
        return state

    def _show(self, state: State, targets_T: np.ndarray) -> State:
        *_, begin = 0, *np.flatnonzero(targets_T == self.spec.bos).tolist()
        if targets_T[begin] == self.spec.bos or not len(state.text):
            # A new document, and for the stream's first token no target before it.
            return self._fresh(state.model, targets_T[begin:].astype(np.int64))
        state.text, state.waiting = np.concatenate([state.text, targets_T]), state.waiting + len(targets_T)
        return state

    def distribution(self, state: State) -> Tensor:
        return self.logprobs(state, np.zeros(1, np.int64))[0]

    def logprobs(self, state: State, targets_T: np.ndarray) -> Tensor:
        if state.waiting == self.spec.chunk:
            self._learn(state)
        known, rows = targets_T[:-1], []
        edges = [0, *np.flatnonzero(known == self.spec.bos).tolist(), len(known)]
        for number, (begin, end) in enumerate(pairwise(edges)):
            text = known[begin:end]
            if number == 0:
                whole, count = np.concatenate([state.text, text]), len(text) + 1
                learns = count == self.spec.chunk
                rows.append(self._rows(state, whole, count, learns))
                state.kept = (whole, rows[0]) if learns else None
            else:
                rows.append(self._rows(self._fresh(state.model, text), text, len(text), learns=False))
        return torch.cat([each.detach() for each in rows]).log_softmax(-1)

    def _fresh(self, model: nn.Module, text: np.ndarray) -> State:
        return State(model, *self.spec.adapt(model, 1, self.host.device), text, max(0, len(text) - 1))

    def _learn(self, state: State) -> None:
        """A step on the chunk that is on record."""
        chunk, text = self.spec.chunk, state.text[:-1]
        if state.kept is not None and np.array_equal(state.kept[0], text):
            logits_TV = state.kept[1]
        else:
            logits_TV = self._rows(state, text, chunk, learns=True)
        step(state.optimizer, weigh(logits_TV[None], state.text[None, -chunk:]).mean())
        state.waiting, state.kept = 0, None

    def _rows(self, state: State, text: np.ndarray, count: int, learns: bool) -> Tensor:
        """Logits [count, V] after the last `count` tokens of a document's text, all in one chunk."""
        at = (len(text) - 1) // self.spec.chunk * self.spec.chunk
        begin, _, _ = self.spec.span(Document(0, len(text)), at)
        width = min(at + self.spec.chunk, self.spec.window)
        ids_BT = torch.zeros(1, width, dtype=torch.long)
        ids_BT[0, : len(text) - begin] = torch.from_numpy(text[begin:])
        rows = torch.zeros(1, dtype=torch.long, device=self.host.device)
        with frozen(state.model, self.host, learns), state.adapters.attached(rows):
            logits_TV = forward_tail(state.model)(ids_BT.to(self.host.device), self.spec.chunk)[0].float()
        end = len(text) - at
        return logits_TV[end - count : end]
