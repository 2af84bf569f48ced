"""Work that holds on to the interpreter, shared out among processes.

Searching for codes, or coding them, is many short NumPy calls one after the other. Two threads of these wait for one
another more than they work. Processes forked for the purpose do not: they see the arguments as they stood, and only
what they find travels back. As in `golf.quant.abreast`, what the pieces are does not depend on how many there are.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import torch

from golf.quant import abreast

Item, Found = TypeVar("Item"), TypeVar("Found")
# What is at work, as the processes find it when they are forked.
_task: tuple[Callable[[Any], Any], list[Any]] | None = None


def each(work: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """`work` of every item, in order; what it changes is not seen outside. In threads where a process that uses a GPU
    must not fork, or the system cannot."""
    global _task
    items = list(items)
    with abreast.alone() as threads:
        if threads == 1 or len(items) < 2:
            return [work(item) for item in items]
        if torch.cuda.is_initialized() or sys.platform != "linux" or _task is not None:
            return abreast.each(work, items)
        _task = work, items
        try:
            with ProcessPoolExecutor(min(threads, len(items)), multiprocessing.get_context("fork")) as processes:
                return list(processes.map(_piece, range(len(items))))
        finally:
            _task = None


def _piece(place: int) -> Any:
    work, items = _task
    return work(items[place])
