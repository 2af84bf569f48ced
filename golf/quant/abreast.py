"""Several threads at work on one machine, with the same result for any number of them.

Torch's own threads split a sum where there are many of them and not where there is one, and the sums then differ in
the last bit. Here each piece of work has one thread, and what the pieces are does not depend on how many threads
there are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from golf.host import Host, eagerly

# Parts that calibration text is read in, each with sums of its own: more take memory.
PARTS = 2

Item, Found = TypeVar("Item"), TypeVar("Found")
_given: ContextVar[int | None] = ContextVar("threads torch had before `alone`", default=None)


@contextmanager
def alone() -> Iterator[int]:
    """Torch on one thread; how many it was given, which is what the functions below share out."""
    before = torch.get_num_threads()
    threads = _given.get() or before
    token = _given.set(threads)
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(before)
        _given.reset(token)


def pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))


def each(work: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """`work` of every item, in order."""
    with alone() as threads, pool(threads) as workers:
        return list(workers.map(work, items))


def in_parts(work: Callable[[Sequence[Tensor], Host], Found], batches: Sequence[Tensor], host: Host) -> Found:
    """What `work` makes of all batches, where it is made for ranks that have a share of them each, as `fisher.collect`
    is: on a CPU, PARTS of them read in threads and meet where ranks would."""
    parts = min(PARTS, len(batches))
    if host.world > 1 or host.device.type != "cpu" or parts < 2:
        return work(batches, host)
    # Threads that leave it in another order than they came in would leave it in force for good.
    with alone() as threads, eagerly(), pool(parts) as workers:
        meeting = Meeting(parts, threads)
        hosts = [Part(rank, parts, host.device, meeting) for rank in range(parts)]
        begun = [workers.submit(meeting.attend, partial(work, batches[part.rank :: parts], part)) for part in hosts]
    if meeting.failed:
        raise meeting.failed
    return begun[0].result()


class Meeting:
    """Where the threads of `in_parts` add up what they have; no more than `threads` of them work at a time.

    failed: the first error of any of them.
    """

    def __init__(self, parts: int, threads: int) -> None:
        self.failed: BaseException | None = None
        self._free, self._all = threading.Semaphore(threads), threading.Barrier(parts)
        self._brought: list[Any] = [None] * parts

    def attend(self, work: Callable[[], Found]) -> Found:
        with self._free:
            try:
                return work()
            except BaseException as error:
                self.failed = self.failed or error
                self._all.abort()  # or the others would wait for ever
                raise

    def sum(self, rank: int, tensor: Tensor) -> Tensor:
        self._brought[rank] = tensor
        self._free.release()
        try:
            self._all.wait()
            total = sum(self._brought[1:], self._brought[0].clone())
            self._all.wait()
        finally:
            self._free.acquire()
        return total


@dataclass(frozen=True)
class Part(Host):
    """A thread that takes itself for a rank."""

    meeting: Meeting | None = None

    def sum(self, tensor: Tensor) -> Tensor:
        return self.meeting.sum(self.rank, tensor)
