"""Bits per byte by a rolling cache: every token is computed once, and its attention window rolls over the stream.

This is another predictor than the sliding window, and its score another kind of number. In every block a token
attends to the `window` - 1 before it, as they were computed when it was their turn; through the blocks below it
depends on more of the stream than any window holds. It costs one pass over the stream, where windows of 2,048 at
stride 64 cost thirty-two.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from golf.contracts import ByteTable, Score, Sink, SpecError, quiet
from golf.eval.sliding import Report, SlidingWindow, Tally, read, scoring, weigh
from golf.eval.spans import Span
from golf.host import Host


@dataclass(frozen=True, kw_only=True)
class Rolling:
    """Scores with keys and values cached. The model needs `open_cache` and `read_on`.

    window: tokens a query sees in each block, its own included.
    chunk: tokens read at once (speed and memory only).
    lanes: stretches of the stream that are read side by side, which fills a GPU and lets ranks share the work.
        Each but the first is begun by `window` tokens that it does not score, so that lanes hardly change the
        score; yet they do, and so they are part of what the predictor is.
    """

    kind: ClassVar[str] = "rolling"

    window: int = 2048
    chunk: int = 512
    lanes: int = 1

    def __post_init__(self) -> None:
        for name in ("window", "chunk", "lanes"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name}={getattr(self, name)} must be at least 1")

    @property
    def fixed(self) -> Rolling:
        """The same: the cache remembers, the weights do not change."""
        return self

    @property
    def plain(self) -> SlidingWindow:
        return SlidingWindow(window=self.window, stride=self.window)

    def tiny(self) -> Rolling:
        return replace(self, window=64, chunk=32)

    def predictor(self, host: Host | None = None) -> RollingPredictor:
        return RollingPredictor(self, host)

    def stretches(self, positions: int) -> list[Span]:
        """What each lane is fed and scores, of equal length but for what begins it."""
        edges = [positions * lane // self.lanes for lane in range(self.lanes + 1)]
        return [
            Span(max(0, start - self.window), start, end) for start, end in itertools.pairwise(edges) if start < end
        ]

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
        """As `SlidingWindow.score`; raises SpecError for a model that cannot read on."""
        host = host or Host()
        tally = Tally(tokens, host, sink, report)
        check_reads_on(model)
        lanes = self.stretches(tally.positions)[host.rank :: host.world]
        cache = model.open_cache(len(lanes), self.window) if lanes else None
        longest = max((lane.end - lane.begin for lane in lanes), default=0)
        with scoring(model, host):
            for at in range(0, longest, self.chunk):
                batch = [piece(lane, at, self.chunk) for lane in lanes]
                ids_BT, targets_BT, lengths = read(tokens, batch, self.chunk, self.chunk, table)
                width = max(span.end - span.begin for span in batch)
                ids_BT, targets_BT = ids_BT[:, :width], targets_BT[:, :width]
                logits_BTV = model.read_on(torch.from_numpy(ids_BT).to(host.device), cache)
                tally.add(batch, weigh(logits_BTV, targets_BT), targets_BT, lengths)
        return tally.total()


def piece(lane: Span, at: int, chunk: int) -> Span:
    """The next `chunk` positions of a lane after its first `at`; an empty span when it is through."""
    begin = lane.begin + at
    if begin >= lane.end:
        return Span(0, 0, 0)
    end = min(begin + chunk, lane.end)
    return Span(begin, min(max(begin, lane.start), end), end)


def check_reads_on(model: nn.Module) -> None:
    """Raises SpecError."""
    if not hasattr(model, "read_on"):
        name = getattr(getattr(model, "spec", None), "family", type(model).__name__)
        raise SpecError(f"a model of kind {name} has no cache to roll; score it by sliding windows (--eval sliding)")


@dataclass
class State:
    """ahead_V: logits of the next target.  guess: what `logprobs` last read beyond the state, so that `advance`
    need not read it again: the tokens, and the cache after them."""

    model: nn.Module
    cache: Any
    ahead_V: Tensor | None = None
    guess: tuple[np.ndarray, Any] | None = None


class RollingPredictor:
    """One lane, through the interface of `golf.eval.validity`: the same numbers, asked for target by target."""

    def __init__(self, spec: Rolling, host: Host | None = None) -> None:
        self.spec, self.host = spec, host or Host()

    def open(self, artifact: nn.Module) -> State:
        check_reads_on(artifact)
        model = artifact.to(self.host.device).eval()
        return State(model, model.open_cache(1, self.spec.window))

    def distribution(self, state: State) -> Tensor:
        return state.ahead_V.log_softmax(-1)

    def observe(self, state: State, token: int) -> State:
        return self.advance(state, np.array([token]))

    def logprobs(self, state: State, targets_T: np.ndarray) -> Tensor:
        cache, known = state.cache.copy(), targets_T[:-1]
        logits_TV = torch.cat([state.ahead_V[None], self._read(state.model, cache, known)])
        state.guess = known, cache
        return logits_TV.log_softmax(-1)

    def advance(self, state: State, targets_T: np.ndarray) -> State:
        if state.guess is not None and np.array_equal(state.guess[0], targets_T[:-1]):
            state.cache, targets_T = state.guess[1], targets_T[-1:]
        state.guess = None
        state.ahead_V = self._read(state.model, state.cache, targets_T)[-1]
        return state

    def _read(self, model: nn.Module, cache: Any, ids_T: np.ndarray) -> Tensor:
        """Logits [T, V] after each of some more tokens; the cache goes on with them."""
        ids_BT = torch.from_numpy(np.asarray(ids_T, np.int64)).to(self.host.device)[None]
        empty_TV = torch.empty(0, model.spec.vocab, device=self.host.device)
        with scoring(model, self.host):
            parts = [part for part in ids_BT.split(self.spec.chunk, 1) if part.numel()]
            return torch.cat([empty_TV, *(model.read_on(part, cache)[0].float() for part in parts)])
