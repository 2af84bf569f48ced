"""Spans: which positions a window sees and scores."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.contracts import SpecError
from golf.eval.spans import Span, isolated, spans

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


def test_a_document_is_spanned_like_a_stream():
    plan = list(isolated([0, 7], 20, 6, 2))
    assert plan[:2] == list(spans(7, 6, 2))
    assert plan[2:] == [tuple(place + 7 for place in span) for span in spans(13, 6, 2)]


@pytest.mark.parametrize(("window", "stride"), [(4, 5), (4, 0), (0, 0), (4, -1)])
def test_strides_that_would_skip_tokens(window, stride):
    with pytest.raises(SpecError, match=rf"stride={stride} must be in 1..window={window}"):
        list(spans(10, window, stride))
