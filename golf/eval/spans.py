"""Which tokens a window is fed and which of them it scores. No model, no device, no rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from golf.contracts import SpecError


class Span(NamedTuple):
    """Feed positions begin..end, score the predictions made at start..end (each range without its end).

    Position p holds token t_p and predicts t_(p+1).
    """

    begin: int
    start: int
    end: int


def spans(total: int, window: int, stride: int) -> Iterator[Span]:
    """Windows over positions 0..total, each position scored exactly once.

    Windows begin at 0, stride, 2 stride and so on. The first scores all it sees, each later one the positions
    after its first `window - stride`, which are context; the last one is cut where the stream ends.
    Raises SpecError for a stride that is not in 1..window.
    """
    if not 0 < stride <= window:
        raise SpecError(f"stride={stride} must be in 1..window={window}: a larger one would skip tokens")
    if not total:
        return
    end = min(window, total)
    yield Span(0, 0, end)
    while end < total:
        start, end = end, min(end + stride, total)
        yield Span(start + stride - window, start, end)


def isolated(starts: Iterable[int], total: int, window: int, stride: int) -> Iterator[Span]:
    """`spans` of each document by itself: no window looks across a document's first position.

    starts: rising positions where documents begin; what comes before the first is a document too. The last
    position of a document predicts the first token of the next, so every target is still scored exactly once.
    """
    begin = 0
    for edge in (*starts, total):
        for span in spans(min(edge, total) - begin, window, stride):
            yield Span(*(begin + place for place in span))
        begin = min(edge, total)
