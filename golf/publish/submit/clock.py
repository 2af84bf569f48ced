"""A run's clock, written down and played back.

Which step is the last one, how far the learning rate has fallen and when a stage begins follow from the seconds that
all ranks agree on, and these from `Host.largest` alone. A host that notes them makes a run that ends by the clock one
that can be repeated: another host answers with what was noted, however long the same steps take there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from golf.contracts import DataError
from golf.host import Host

DIGITS = 6  # of a second
FLAGS = 0.0, 1.0  # ranks also agree on yes and no: no clock shows these to the last bit


@dataclass(frozen=True)
class Noting(Host):
    """A host that goes by rounded seconds and keeps them, in the order in which they were agreed on."""

    agreed: list[float] = field(default_factory=list)

    def largest(self, value: float) -> float:
        agreed = super().largest(value)
        if agreed in FLAGS:
            return agreed
        self.agreed.append(round(agreed, DIGITS))
        return self.agreed[-1]


@dataclass(frozen=True)
class Replaying(Noting):
    """A host whose clock shows what another one's showed. Yes and no stay its own.

    Raises DataError when more is asked than was noted: the run has left the other one's path.
    """

    noted: Iterator[float] = field(default_factory=lambda: iter(()))

    def largest(self, value: float) -> float:
        agreed = Host.largest(self, value)
        if agreed in FLAGS:
            return agreed
        seconds = next(self.noted, None)
        if seconds is None:
            raise DataError("the noted clock has run out: this run asks more often than the one that wrote it down")
        self.agreed.append(seconds)
        return seconds


def noting(host: Host) -> Noting:
    return Noting(host.rank, host.world, host.device)


def replaying(host: Host, file: Path) -> Replaying:
    """By the seconds in a file that `spell` filled. Raises DataError when it holds anything else."""
    noted = parse(file.read_text(encoding="utf-8"), str(file))
    return Replaying(host.rank, host.world, host.device, noted=iter(noted))


def spell(seconds: list[float]) -> str:
    """One line: hundreds of figures belong in a log and in a record, but not on lines of their own."""
    return " ".join(f"{each:.{DIGITS}f}" for each in seconds)


def parse(text: str, where: str) -> list[float]:
    """What `spell` made of seconds. Raises DataError, naming `where` it stands, for anything else."""
    try:
        return [float(word) for word in text.split()]
    except ValueError as error:
        raise DataError(f"{where} holds no clock of a run: {error}") from error
