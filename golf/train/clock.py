"""The training clock: one time for all ranks, and a decision before each step whether it still fits."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

# A step is expected to take as long as the longest of the last few, and a little more.
REMEMBERED, MARGIN = 32, 1.05


class Clock:
    """Seconds spent in the loop over all sessions of a run, on the slowest rank.

    Ranks agree on the time only when it is read; in between it is projected from agreed figures, so that each
    rank derives the same progress without a collective (and without waiting for the device) at every step.

    limit: seconds the loop may take, or None.  agree: maximum over ranks.  now: a monotone clock.
    """

    def __init__(
        self, limit: float | None, agree: Callable[[float], float], now: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit, self._agree, self._now = limit, agree, now
        self.elapsed = 0.0
        self._recent: deque[float] = deque(maxlen=REMEMBERED)
        self._unread = 0
        self._begin = now()

    def start(self, elapsed: float = 0.0) -> None:
        """Run on from `elapsed` seconds, those of the sessions before."""
        self.elapsed, self._unread = elapsed, 0
        self._begin = self._now() - elapsed

    def expect(self, seconds: float) -> None:
        """Start from how long a step took outside the timed loop, forgetting earlier ones."""
        self._recent.clear()
        self._recent.append(self._agree(seconds))

    def tick(self) -> None:
        """A step was handed to the device."""
        self._unread += 1

    def read(self) -> float:
        """Agree on the time, after the device has finished; time since the last reading goes to its steps."""
        before, self.elapsed = self.elapsed, self._agree(self._now() - self._begin)
        if self._unread:
            self._recent.append((self.elapsed - before) / self._unread)
        self._unread = 0
        return self.elapsed

    @property
    def step_seconds(self) -> float:
        """What the next step is expected to take at most; 0 before any was seen."""
        return MARGIN * max(self._recent, default=0.0)

    @property
    def projected(self) -> float:
        """The time, with steps since the last reading charged at the mean of recent ones."""
        return self.elapsed + self._unread * sum(self._recent) / max(1, len(self._recent))

    @property
    def seconds_left(self) -> float:
        return float("inf") if self.limit is None else self.limit - self.projected

    def fits(self, seconds: float) -> bool:
        """Whether something of that length would end within the limit."""
        return self.limit is None or self.elapsed + self._unread * self.step_seconds + seconds <= self.limit
