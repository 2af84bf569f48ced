"""Processes find what one thread finds, and their errors are raised here."""

from __future__ import annotations

import os

import pytest
import torch

from golf.contracts import HessianError
from golf.quant import forked


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_each_in_order_in_processes_of_one_thread(threads):
    def work(number):
        return number, torch.get_num_threads(), os.getpid(), forked.each(str, [number, 7])

    found = forked.each(work, range(8))
    assert [(number, *rest) for number, *rest in found] == [(n, 1, rest[1], [str(n), "7"]) for n, *rest in found]
    assert [number for number, *_ in found] == list(range(8)) and torch.get_num_threads() == threads
    processes = {process for _, _, process, _ in found}
    assert len(processes) <= threads and (os.getpid() in processes) == (threads == 1)
    assert forked.each(work, []) == []


def test_an_error_is_raised_here_and_leaves_no_trace(threads):
    def work(number):
        if number == 3:
            raise HessianError(f"no curvature for {number}")
        return number

    for _ in range(2):
        with pytest.raises(HessianError, match="no curvature for 3"):
            forked.each(work, range(5))
    assert forked.each(work, range(3)) == [0, 1, 2]
