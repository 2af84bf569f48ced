"""Spans: which positions a window sees and scores."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.contracts import SpecError
from golf.eval.spans import Span, isolated, packed, spans

SIZES = st.integers(1, 40).flatmap(
    lambda window: st.tuples(st.integers(0, 200), st.just(window), st.integers(1, window))
)


@settings(deadline=None)
@given(SIZES)
def test_each_position_is_scored_once_in_order(sizes):
    total, window, stride = sizes
    scored = [place for span in spans(total, window, stride) for place in range(span.start, span.end)]
    assert scored == list(range(total))


@settings(deadline=None)
@given(SIZES)
def test_context_is_what_the_rule_gives(sizes):
    """Windows begin at multiples of the stride; after the first, `window - stride` positions are context."""
    total, window, stride = sizes
    for number, span in enumerate(spans(total, window, stride)):
        assert span.begin == number * stride
        assert span.end == min(span.begin + window, total)
        assert span.start == (0 if number == 0 else span.begin + window - stride)


def test_the_tail_is_scored_once():
    """The published loop opened windows up to the very end and scored the last tokens many times over."""
    assert list(spans(10, 6, 2)) == [(0, 0, 6), (2, 6, 8), (4, 8, 10)]
    assert list(spans(11, 6, 2))[-1] == Span(begin=6, start=10, end=11)
    assert list(spans(3, 6, 2)) == [(0, 0, 3)]
    assert list(spans(0, 6, 2)) == []


@settings(deadline=None)
@given(SIZES, st.sets(st.integers(0, 199)))
def test_documents_are_kept_apart(sizes, starts):
    total, window, stride = sizes
    plan = list(isolated(sorted(starts), total, window, stride))
    scored = [place for span in plan for place in range(span.start, span.end)]
    assert scored == list(range(total))
    for span in plan:
        assert span.end - span.begin <= window
        assert not any(span.begin < start < span.end for start in starts)


@settings(deadline=None)
@given(SIZES, st.sets(st.integers(0, 199)))
def test_the_grid_of_the_stream_gives_the_context_it_gives(sizes, starts):
    """A model that never looks past a document's start sees the same for every target, by either plan."""
    total, window, stride = sizes
    edges = [0, *sorted(starts - {0})]

    def context(plan):
        found = {}
        for span in plan:
            for place in range(span.start, span.end):
                assert place not in found
                found[place] = max(span.begin, max(edge for edge in edges if edge <= place))
        return found

    plan = list(isolated(sorted(starts), total, window, stride, anchor=stride))
    assert context(plan) == context(spans(total, window, stride))
    assert context(packed(plan, window)) == context(plan)


@settings(deadline=None)
@given(SIZES, st.sets(st.integers(0, 199)), st.booleans())
def test_packing_joins_whole_neighbors_and_nothing_else(sizes, starts, anchored):
    total, window, stride = sizes
    plan = list(isolated(sorted(starts), total, window, stride, anchor=stride if anchored else 1))
    rows = list(packed(plan, window))
    assert [p for row in rows for p in range(row.start, row.end)] == list(range(total))
    assert all(row.end - row.begin <= window for row in rows)
    for row in rows:
        inside = [span for span in plan if row.start <= span.start < row.end]
        assert inside == [row] or all(span.begin == span.start for span in inside)
    for left, right in itertools.pairwise(rows):
        if left.begin == left.start and right.begin == right.start == left.end:
            first = next(span for span in plan if span.start == right.start)
            assert first.end - left.begin > window


def test_a_document_is_spanned_like_a_stream():
    plan = list(isolated([0, 7], 20, 6, 2))
    assert plan[:2] == list(spans(7, 6, 2))
    assert plan[2:] == [tuple(place + 7 for place in span) for span in spans(13, 6, 2)]


@pytest.mark.parametrize(("window", "stride"), [(4, 5), (4, 0), (0, 0), (4, -1)])
def test_strides_that_would_skip_tokens(window, stride):
    with pytest.raises(SpecError, match=rf"stride={stride} must be in 1..window={window}"):
        list(spans(10, window, stride))
