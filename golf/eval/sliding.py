"""Bits per byte by sliding windows: every target of a token stream is scored exactly once."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.contracts import ByteTable, DataError, DivergedError, Score, Sink, SpecError, emit, quiet
from golf.eval.spans import Span, isolated, packed, spans
from golf.host import Host

Report = Callable[[np.ndarray, np.ndarray], None]

# Tokens looked through at once for document starts: 2 MB, however large the stream.
SCAN = 1 << 20

# Tokens of a batch where the caller leaves it open. What a CPU computes on should stay in its cache; a GPU wants
# to be filled.
CPU_TOKENS, GPU_TOKENS = 2048, 131_072
# What a logit costs while its row is scored: itself, its capped copy and its logarithm in float32, and what the
# allocator leaves unused beside them; and a generous guess at the activations and the mask of a token.
LOGIT_BYTES, TOKEN_BYTES = 24, 65_536

# The target that cross entropy skips: padding, and what an earlier window has scored.
UNSCORED = -100


@dataclass(frozen=True, kw_only=True)
class SlidingWindow:
    """Scores by windows of one length, each of which adds `stride` predictions to those before.

    window: tokens fed at once.  stride: tokens newly scored by each window after the first.
    batch_tokens: tokens fed in one batch of windows (speed and memory only; at least one window); None leaves
        it to the device.
    documents: "stream" reads on across documents, "isolated" scores each by itself.
    bos: the token that begins a document; only "isolated" looks for it.
    """

    kind: ClassVar[str] = "sliding"

    window: int = 2048
    stride: int = 64
    batch_tokens: int | None = None
    documents: Literal["stream", "isolated"] = "stream"
    bos: int = 1

    def __post_init__(self) -> None:
        next(spans(1, self.window, self.stride))
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise SpecError(f"batch_tokens={self.batch_tokens} must be at least 1; None leaves it to the device")
        if self.documents not in ("stream", "isolated"):
            raise SpecError(f'documents={self.documents!r} must be "stream" or "isolated"')

    @property
    def fixed(self) -> SlidingWindow:
        """The same score without adaptation: a window never adapts."""
        return self

    @property
    def plain(self) -> SlidingWindow:
        """Windows without overlap: every token fed once."""
        return replace(self, stride=self.window)

    def tiny(self) -> SlidingWindow:
        return replace(self, window=64, stride=32)

    def plan(self, model: nn.Module, tokens: Sequence[int]) -> Iterator[Span]:
        """What is fed and scored, in stream order, one span at a time.

        For a model that by itself keeps documents apart, neighboring ones share a window, and what lies before a
        document is left out of its windows: the same predictions, to rounding, for fewer tokens fed.
        """
        apart = keeps_apart(model)
        if self.documents == "isolated":
            edge, anchor = self.bos, 1
        else:
            # With less overlap than half a window, the cuts at documents would cost more than they spare.
            edge, anchor = apart if 2 * self.stride <= self.window else None, self.stride
        starts = () if edge is None else find(tokens, edge)
        plan = isolated(starts, len(tokens) - 1, self.window, self.stride, anchor)
        return plan if edge is None or edge != apart else packed(plan, self.window)

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
        """Nats, count and bytes of t_1..t_N under a model with `forward(ids_BT) -> logits_BTV`.

        tokens: t_0..t_N; anything one-dimensional with a length and slices that become arrays.
        report: called on each rank with positions of targets and their nats (float32), as they are scored.

        Windows are fed at one length whatever the stream's. Short ones are padded on the right, which no causal
        model sees: so nothing is compiled twice, and a model that changes with the length of its input (the
        U-Net stretches its rotary base) computes the same in every window. Where `forward` takes `tail`, only
        scored positions reach the head. Ranks share the spans and add up in float64; all return the same Score.
        Raises DataError for fewer than two tokens or one outside the table, DivergedError for a sum that is not
        finite.
        """
        host = host or Host()
        tally = Tally(tokens, host, sink, report)
        plan = islice(self.plan(model, tokens), host.rank, None, host.world)
        rows = max(1, (self.batch_tokens or fitting(host, table.vocab)) // self.window)
        forward, apart = forward_tail(model), keeps_apart(model)
        with scoring(model, host):
            for batch, tail in batches(plan, self.window, self.stride, rows):
                ids_BT, targets_BT, lengths = read(tokens, batch, self.window, tail, table)
                whole = not (ids_BT[:, 1:] == apart).any()
                logits_BTV = forward(torch.from_numpy(ids_BT).to(host.device), tail, whole)
                tally.add(batch, weigh(logits_BTV, targets_BT), targets_BT, lengths)
        return tally.total()


def score(model: nn.Module, tokens: Sequence[int], table: ByteTable, **settings: Any) -> Score:
    """`SlidingWindow.score` with the specification's fields and the method's options side by side."""
    options = {name: settings.pop(name) for name in ("host", "sink", "report") if name in settings}
    return SlidingWindow(**settings).score(model, tokens, table, **options)


def weigh(logits_BTV: Tensor, targets_BT: np.ndarray) -> Tensor:
    """Nats of each target in float32, row by row; 0 for UNSCORED."""
    targets_N = torch.from_numpy(targets_BT).flatten().to(logits_BTV.device)
    return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_N, ignore_index=UNSCORED, reduction="none")


class Tally:
    """What this rank has scored so far of a stream, told as it grows.

    Raises DataError for a stream of fewer than two tokens.
    """

    def __init__(self, tokens: Sequence[int], host: Host, sink: Sink, report: Report | None) -> None:
        self.positions, self.host, self.sink, self.report = len(tokens) - 1, host, sink, report
        if self.positions < 1:
            raise DataError(f"scoring needs at least 2 tokens, the stream has {len(tokens)}; give more text")
        self.nats, self.counts = torch.zeros((), dtype=torch.float64, device=host.device), np.zeros(2, np.int64)
        emit(sink, "score", done=0, total=self.positions)

    def add(self, batch: list[Span], nats_N: Tensor, targets_BT: np.ndarray, lengths: int) -> None:
        """The nats of a batch of spans, as `weigh` gives them, and the bytes that their targets spell."""
        self.nats += nats_N.detach().sum(dtype=torch.float64)
        self.counts += [sum(span.end - span.start for span in batch), lengths]
        done = min(int(self.counts[0]) * self.host.world, self.positions)
        emit(self.sink, "score", done=done, total=self.positions)
        if self.report is not None:
            places = np.concatenate([np.arange(span.start, span.end) for span in batch])
            self.report(places + 1, nats_N.detach().cpu().numpy()[targets_BT.ravel() != UNSCORED])

    def total(self) -> Score:
        """Of all ranks. Raises DivergedError for a sum that is not finite."""
        counts = self.host.sum(torch.from_numpy(self.counts).to(self.host.device)).tolist()
        score = Score(self.host.sum(self.nats).item(), *counts)
        assert score.tokens == self.positions, f"{score.tokens} targets scored instead of {self.positions}"
        if not math.isfinite(score.nats):
            raise DivergedError(
                f"the model's loss over {score.tokens} tokens is {score.nats}; its weights cannot be used"
            )
        return score


def fitting(host: Host, vocab: int) -> int:
    """Tokens of a batch that suit the device and fit its free memory."""
    if host.device.type == "cpu":
        return CPU_TOKENS
    return min(GPU_TOKENS, torch.cuda.mem_get_info(host.device)[0] // (LOGIT_BYTES * vocab + TOKEN_BYTES))


@contextmanager
def scoring(model: nn.Module, host: Host) -> Iterator[None]:
    """Evaluation mode, no gradients, the host's type for matrices; the model's own mode is put back."""
    was_training, low = model.training, host.compute_dtype != torch.float32
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(host.device.type, dtype=host.compute_dtype, enabled=low):
            yield
    finally:
        model.train(was_training)


def keeps_apart(model: nn.Module) -> int | None:
    """The token over which a model by itself never looks back; None where there is no such token."""
    spec = getattr(model, "spec", None)
    return spec.bos if getattr(spec, "documents", False) else None


def forward_tail(model: nn.Module) -> Callable[..., Tensor]:
    """(ids, tail, whole) -> logits of the last `tail` positions, computed alone where the model knows how.

    whole: whether no document begins inside the rows, which a model that keeps documents apart may like to know.
    """
    known = inspect.signature(getattr(model, "_orig_mod", model).forward).parameters

    def forward(ids_BT: Tensor, tail: int, whole: bool = False) -> Tensor:
        told = {"tail": tail, "whole": whole}
        return model(ids_BT, **{name: told[name] for name in told if name in known})[:, -tail:]

    return forward


def find(tokens: Sequence[int], token: int) -> Iterator[int]:
    """Positions of a token, rising."""
    for begin in range(0, len(tokens), SCAN):
        yield from (begin + np.flatnonzero(np.asarray(tokens[begin : begin + SCAN]) == token)).tolist()


def batches(plan: Iterable[Span], window: int, stride: int, rows: int) -> Iterator[tuple[list[Span], int]]:
    """Spans in batches, each with a bound on the last positions it scores.

    Windows that begin a text and the others are kept apart, for the two differ in shape. Within each, the last
    batch is filled up with empty spans to the size of the first.
    """
    waiting: dict[int, list[Span]] = {}
    sizes: dict[int, int] = {}
    for span in plan:
        tail = stride if span.start - span.begin >= window - stride else window
        batch = waiting.setdefault(tail, [])
        batch.append(span)
        if len(batch) == rows:
            sizes[tail] = rows
            yield waiting.pop(tail), tail
    for tail, batch in waiting.items():
        yield batch + [Span(0, 0, 0)] * (sizes.get(tail, 0) - len(batch)), tail


def read(
    tokens: Sequence[int], batch: list[Span], window: int, tail: int, table: ByteTable
) -> tuple[np.ndarray, np.ndarray, int]:
    """Inputs [B, window], targets [B, tail] and the bytes that the targets spell. Raises DataError."""
    ids_BT = np.zeros((len(batch), window), np.int64)
    targets_BT = np.full((len(batch), tail), UNSCORED, np.int64)
    spelled = 0
    for row, (begin, start, end) in enumerate(batch):
        if begin == end:
            continue
        text = np.asarray(tokens[begin : end + 1], dtype=np.int64)
        if text.max() >= table.vocab:
            raise DataError(
                f"token id {text.max()} near position {begin} is outside 0..{table.vocab - 1}; "
                "score with the tokenizer that made the stream"
            )
        ids_BT[row, : end - begin] = text[:-1]
        prev, next = text[start - begin : -1], text[start - begin + 1 :]
        first = start - begin - (window - tail)
        targets_BT[row, first : first + len(next)] = next
        spelled += int(table.count(prev, next).sum())
    return ids_BT, targets_BT, spelled
