"""Attention without the keys of other documents is the attention that hides them."""

from __future__ import annotations

import pytest
import torch

from golf.arch import apart, attention


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), requires_grad=True)


@pytest.mark.parametrize("tail", [50, 7])
@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("begins", [None, [[0, 3, 40, 41], [20]], [[], [49]]])
def test_what_is_hidden_can_be_left_out(monkeypatch, tail, groups, begins):
    monkeypatch.setattr(apart.spans, "__defaults__", (16,))
    starts_BT = None
    if begins is not None:
        starts_BT = torch.zeros(2, 50, dtype=torch.bool)
        for row, places in zip(starts_BT, begins):
            row[places] = True
    bias = attention.bias(starts_BT, 50, tail, torch.zeros(()))
    parts = drawn(2, tail, 4, 8), drawn(2, 50, groups, 8), drawn(2, 50, groups, 8)
    upstream = drawn(2, tail, 4, 8).detach()
    plain = attention.attend(*parts, bias)
    with apart.on(torch.device("cpu")):
        found = attention.attend(*parts, bias)
    assert attention.chosen is None
    torch.testing.assert_close(found, plain)
    slopes, expected = (torch.autograd.grad(y, parts, upstream) for y in (found, plain))
    torch.testing.assert_close(slopes, expected)


def test_keys_begin_where_the_first_query_of_a_piece_sees_one():
    starts_BT = torch.zeros(1, 10, dtype=torch.bool)
    starts_BT[0, [3, 8]] = True
    bias = attention.bias(starts_BT, 10, 10, torch.zeros(()))
    assert list(apart.spans(bias, 4)) == [(0, 4, 0, 4), (4, 8, 3, 8), (8, 10, 8, 10)]


def test_a_gpu_keeps_its_kernel():
    with apart.on(torch.device("cuda")):
        assert attention.chosen is None
