"""C2 to C4 for a predictor: what is recorded adds up to 1, asking changes nothing, a second pass says the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from golf.eval.validity import causality, driver
from golf.eval.validity.causality import FLOOR, SAME, STRUCTURAL, Excerpt, apart
from golf.eval.validity.driver import MASS_TOLERANCE, Scored
from golf.eval.validity.interface import Stretches
from golf.eval.validity.verdict import Budget, Verdict, failed, passed, unchecked

# Fewer sampled positions say little about a distribution that is off in places.
ENOUGH_MASSES = 1000


class Masses:
    """C2a, fed with everything that is recorded: every distribution adds up to 1."""

    def __init__(self) -> None:
        self.seen, self.worst, self.at = 0, 1.0, 0

    def watch(self, scored: Iterator[Scored], begin: int = 0) -> Iterator[Scored]:
        """Passes pieces on. begin: the stream position of the excerpt they come from."""
        for piece in scored:
            place = int(np.abs(piece.mass_T - 1).argmax())
            self.seen += len(piece.mass_T)
            if not abs(piece.mass_T[place] - 1) <= abs(self.worst - 1):
                self.worst, self.at = float(piece.mass_T[place]), begin + piece.first + place
            yield piece

    def count(self, rows_TV: np.ndarray, begin: int) -> None:
        """Rows of an excerpt that begins at a position of the stream."""
        scored = Scored(1, np.zeros(len(rows_TV)), np.exp(rows_TV).sum(1))
        for _ in self.watch(iter([scored]), begin):
            pass

    def verdict(self) -> Verdict:
        why = f"of {self.seen:,} distributions the one at target {self.at} adds up to {self.worst:.8f}"
        if not abs(self.worst - 1) <= MASS_TOLERANCE:
            return failed("C2a", why, position=self.at, numbers=[self.worst, 1.0])
        if not self.seen:
            return unchecked("C2a", "no distribution was recorded")
        few = f", fewer than the {ENOUGH_MASSES:,} wanted here" if self.seen < ENOUGH_MASSES else ""
        return passed("C2a", f"{self.seen:,} distributions, the farthest adds up to {self.worst:.8f}{few}")


def repeat(predictor: Any, artifact: Any, piece: Excerpt, stretch: int | None) -> Verdict:
    """C4b: scored a second time in the same process, the stream gets the scores it got when it was new.

    A predictor that keeps what it saw (two passes, a cache between runs) is better the second time.
    """
    first, second = (_nats(predictor, artifact, piece.tokens, stretch) for _ in range(2))
    gap = np.abs(first - second)
    if gap.max() > SAME:
        at = int(np.argmax(gap > SAME))
        numbers = [float(first[at]), float(second[at])]
        why = (
            f"target {piece.begin + at + 1} scores {numbers[0]:.6f} nats when its stream is new to the process and "
            f"{numbers[1]:.6f} when it was scored before: something is kept from pass to pass, or drawn at random"
        )
        place = [piece.begin, len(piece.tokens)]
        return failed("C4b", why, position=piece.begin + at + 1, tokens=[int(piece.targets[at])], numbers=numbers,
                      excerpt=place)  # fmt: skip
    return passed("C4b", f"{len(first):,} targets score the same when a process meets them a second time")


def asking(predictor: Any, artifact: Any, piece: Excerpt, budget: Budget) -> list[Verdict]:
    """C3b: two questions about one state get one answer, and scoring a stretch leaves no trace."""
    state = predictor.observe(predictor.open(artifact), int(piece.tokens[0]))
    shown, made = 1, 0
    for end in np.unique(np.linspace(1, len(piece.tokens) - 1, 12).astype(int)).tolist():
        state = driver.advance(predictor, state, piece.tokens[shown:end]) if end > shown else state
        shown = max(shown, end)
        answers = [("asked once", driver.record(predictor.distribution(state), 1, None, end).double().numpy())]
        if isinstance(predictor, Stretches):
            count = min(len(piece.tokens) - end, driver.horizon(predictor, state, end))
            predictor.logprobs(state, piece.tokens[end : end + count].copy())
        again = driver.record(predictor.distribution(state), 1, None, end).double().numpy()
        answers.append(("asked again", again))
        gap, made = float(apart(answers[0][1], again).max()), made + 1
        if gap > SAME:
            token = int(np.abs(np.maximum(answers[0][1], FLOOR) - np.maximum(again, FLOOR)).argmax())
            numbers = [float(answers[0][1][0, token]), float(again[0, token])]
            why = (
                f"target {piece.begin + end}: log p of token {token} is {numbers[0]:.6f}, and {numbers[1]:.6f} after "
                "it was asked for: scoring changes the state"
            )
            return [failed("C3b", why, position=piece.begin + end, tokens=[token], numbers=numbers)]
        if budget.over and made >= min(2, budget.least // 2):
            break
    return [passed("C3b", f"{made} states give the same answer after they were asked")]


def flips(
    predictor: Any, artifact: Any, piece: Excerpt, base: np.ndarray | None, draw: np.random.Generator, budget: Budget
) -> list[Verdict]:
    """C3a and C3c: one target inside a stretch is flipped; no row up to its own moves. What fits itself to the
    targets it scores (SLOT), or learns from a stretch before the stretch is recorded, moves them."""
    if not isinstance(predictor, Stretches):
        return [passed(check, STRUCTURAL) for check in ("C3a", "C3c")]
    made = 0
    for cut in causality.cuts(piece, base, draw):
        changed = piece.tokens.copy()
        changed[cut + 1] = causality.others(changed[cut + 1 : cut + 2], base.shape[1], draw)[0]
        moved = causality.rows(predictor, artifact, changed)[: cut + 1]
        gap, made = apart(base[: cut + 1], moved), made + 1
        if gap.max() > SAME:
            row = int(gap.argmax())
            token = int(piece.targets[row])
            numbers = [float(base[row, token]), float(moved[row, token])]
            why = (
                f"flipping target {piece.begin + cut + 1} ({int(piece.tokens[cut + 1])} -> {int(changed[cut + 1])}) "
                f"moves log p of target {piece.begin + row + 1} {numbers[0]:.6f} -> {numbers[1]:.6f}: "
                f"{int((gap > SAME).sum())} of {cut + 1} rows up to it move"
            )
            evidence = {"position": piece.begin + row + 1, "changed": [piece.begin + cut + 1], "numbers": numbers,
                        "tokens": [int(piece.tokens[cut + 1]), int(changed[cut + 1])]}  # fmt: skip
            return [failed("C3c", why, **evidence), failed("C3a", why, **evidence)]
        if budget.enough(made) or made >= causality.MOST:
            break
    why = f"{made} targets flipped, no recorded row up to theirs moves"
    return [passed("C3a", why), passed("C3c", why)]


def _nats(predictor: Any, artifact: Any, tokens: Sequence[int], stretch: int | None) -> np.ndarray:
    return np.concatenate([piece.nats_T for piece in driver.drive(predictor, artifact, tokens, stretch=stretch)])
