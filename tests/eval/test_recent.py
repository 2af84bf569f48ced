"""Windows over the recent past: the spans and the distributions of the sliding window, stretch by stretch."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from golf.arch.unet import UNetSpec
from golf.contracts import ByteTable
from golf.eval.recent import Recent, between, distributions
from golf.eval.sliding import SlidingWindow, keeps_apart
from golf.eval.spans import isolated
from golf.host import Host

VOCAB, BOS = 30, 1


def unet(**changes):
    torch.manual_seed(1)
    model = UNetSpec(vocab=VOCAB, bos=BOS, rope_length=16, **changes).tiny().build()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def context(plan, edges):
    found = {}
    for span in plan:
        for place in range(span.start, span.end):
            assert place not in found and span.begin <= span.start
            found[place] = max(span.begin, max(edge for edge in edges if edge <= place))
    return found


@settings(deadline=None)
@given(
    st.integers(1, 30).flatmap(lambda window: st.tuples(st.just(window), st.integers(1, window))),
    st.sets(st.integers(1, 99)),
    st.sets(st.integers(1, 99)),
)
def test_stretches_of_a_plan_give_the_plan(sizes, starts, cuts):
    window, stride = sizes
    edges, cuts = [0, *sorted(starts)], [0, *sorted(cuts), 100]
    plan = []
    for first, last in itertools.pairwise(cuts):
        known = [edge for edge in edges if edge <= first][-1:] + [edge for edge in edges if first < edge < last]
        plan += between(first, last, known, window, stride)
    assert all(span.end - span.begin <= window for span in plan)
    assert context(plan, edges) == context(isolated(edges[1:], 100, window, stride, anchor=stride), edges)


@pytest.mark.parametrize("documents", [True, False])
@pytest.mark.parametrize("stretch", [1, 13, 200])
def test_distributions_are_those_of_the_sliding_window(documents, stretch):
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, VOCAB, 121)
    tokens[rng.random(121) < 0.08] = BOS
    model, nats = unet(documents=documents), np.full(121, np.nan)
    table = ByteTable(np.ones(VOCAB, np.int64), np.zeros(VOCAB, bool), np.zeros(VOCAB, bool))
    SlidingWindow(window=16, stride=4).score(model, tokens, table, report=nats.__setitem__)
    past, bos = Recent(), keeps_apart(model)
    past.extend(tokens[:1], bos)
    for first in range(1, 121, stretch):
        targets = tokens[first : first + stretch]
        rows = distributions(model, past, targets[:-1], len(targets), 16, 4, Host())
        np.testing.assert_allclose(
            -rows.numpy()[range(len(targets)), targets], nats[first : first + stretch], atol=5e-5
        )
        past.extend(targets, bos)
        past.forget(16)
        assert len(past.text) <= 16 and past.end == min(first + stretch, 121)
