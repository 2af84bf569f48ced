"""Which tokens a window is fed and which of them it scores. No model, no device, no rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
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
    return isolated((), total, window, stride)


def isolated(starts: Iterable[int], total: int, window: int, stride: int, anchor: int = 1) -> Iterator[Span]:
    """`spans` of each document by itself: no window looks across a document's first position.

    starts: rising positions where documents begin; what comes before the first is a document too. The last
    position of a document predicts the first token of the next, so every target is still scored exactly once.
    anchor: 1 lays windows from each document's start. `stride` lays them where `spans` of the whole stream has
        them: a model that by itself never looks past a document's start then makes the same predictions from
        the same context, but the part that every window saw from its start on is fed once.
    Raises SpecError for a stride that is not in 1..window.
    """
    if not 0 < stride <= window:
        raise SpecError(f"stride={stride} must be in 1..window={window}: a larger one would skip tokens")
    begin = 0
    for edge in chain(starts, (total,)):
        edge = min(edge, total)
        first = begin + window - begin % anchor
        if begin < edge:
            yield Span(begin, begin, min(first, edge))
        for start in range(first, edge, stride):
            yield Span(start + stride - window, start, min(start + stride, edge))
        begin = edge


def packed(plan: Iterable[Span], window: int) -> Iterator[Span]:
    """The same plan with neighboring texts, each fed from its first token on, in one window where they fit.

    Only for a model that keeps the documents in its input apart.
    """
    row = Span(0, 0, 0)
    for span in plan:
        joins = span.begin == span.start == row.end and span.end - row.begin <= window
        if not joins and row.begin < row.end:
            yield row
        if joins:
            row = Span(row.begin, row.begin, span.end)
        elif span.begin == span.start:
            row = span
        else:
            row = Span(0, 0, 0)
            yield span
    if row.begin < row.end:
        yield row
