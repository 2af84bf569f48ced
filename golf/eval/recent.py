"""The recent past of a stream, and distributions of what follows by windows over it: for predictors that adapt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from golf.eval.sliding import batches, fitting, forward_tail, keeps_apart
from golf.eval.spans import Span, packed
from golf.host import Host


@dataclass
class Recent:
    """The last tokens of a stream.

    text: tokens at positions `offset` and on.  document: position where the text that windows may look at begins,
    which may lie before `offset`.
    """

    text: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    offset: int = 0
    document: int = 0

    @property
    def end(self) -> int:
        """The position after the last token."""
        return self.offset + len(self.text)

    def extend(self, tokens: np.ndarray, bos: int | None) -> None:
        """Append tokens; `bos` begins a document, None is no token."""
        self.document = starts([self.document], tokens, self.end, bos)[-1]
        self.text = np.concatenate([self.text, tokens])

    def forget(self, keep: int) -> None:
        """Drop all but the last `keep` tokens."""
        self.offset, self.text = max(self.offset, self.end - keep), self.text[-keep:]


def starts(before: list[int], tokens: np.ndarray, position: int, bos: int | None) -> list[int]:
    """Positions where documents begin: those known before and those among `tokens`, the first at `position`."""
    if bos is None:
        return before
    return before + (position + np.flatnonzero(tokens == bos)).tolist()


def between(first: int, last: int, edges: Sequence[int], window: int, stride: int) -> Iterator[Span]:
    """The part of `isolated(..., anchor=stride)` that scores positions first..last, in stream order.

    edges: rising positions where documents begin; the first one is not after `first`.
    """
    for begin, end in zip(edges, [*edges[1:], last]):
        place, end = max(begin, first), min(end, last)
        inside = begin - begin % stride + window  # the first window that begins inside the document predicts this
        while place < end:
            reach = inside if place < inside else place - (place - window) % stride + stride
            yield Span(begin if place < inside else reach - window, place, min(reach, end))
            place = min(reach, end)


@torch.no_grad()
def distributions(
    model: nn.Module, past: Recent, known: np.ndarray, count: int, window: int, stride: int, host: Host
) -> Tensor:
    """Log probabilities [count, V], float32, of the `count` targets after the recent past, all but the last of which
    are `known`: those of sliding windows. Ranks share the windows, and all return the same."""
    bos = keeps_apart(model)
    text, first = np.concatenate([past.text, known]), past.end - 1
    edges = starts([past.document], known, past.end, bos)
    plan = between(first, first + count, edges, window, stride)
    plan = list(plan if bos is None else packed(plan, window))
    forward, low, rows_TV = forward_tail(model), host.compute_dtype != torch.float32, None
    size = max(1, fitting(host, model.spec.vocab) // window)
    for batch, tail in list(batches(plan, window, stride, size))[host.rank :: host.world]:
        ids_BT = np.zeros((len(batch), window), np.int64)  # one length for all, as `SlidingWindow.score` feeds
        for row, (begin, _, end) in enumerate(batch):
            ids_BT[row, : end - begin] = text[begin - past.offset : end - past.offset] if end > begin else 0
        with torch.autocast(host.device.type, dtype=host.compute_dtype, enabled=low):
            logits_BTV = forward(torch.from_numpy(ids_BT).to(host.device), tail, not (ids_BT[:, 1:] == bos).any())
        if rows_TV is None:
            rows_TV = torch.zeros(count, logits_BTV.shape[-1], device=host.device)
        for row, (begin, start, end) in enumerate(batch):
            skip = begin + window - tail
            rows_TV[start - first : end - first] = logits_BTV[row, start - skip : end - skip].float().log_softmax(-1)
    if rows_TV is None:
        rows_TV = torch.zeros(count, model.spec.vocab, device=host.device)
    return host.sum(rows_TV)
