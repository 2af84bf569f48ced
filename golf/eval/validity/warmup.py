"""T3: what happens before the training clock starts leaves no trace in what is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from golf.eval.validity.verdict import Verdict, failed, passed


def pure(runs: Mapping[int, Sequence[Mapping[str, Any]]]) -> Verdict:
    """T3 from one training begun with several lengths of warm-up.

    runs: by steps of warm-up, what was told at each step of training: "path", the line of its log; "weights", a hash of
    all weights after it; "gradients", how many times gradients were taken since the warm-up began.

    Weights that agree after two steps had the same start, the same state of the optimizer, the same data and the same
    random numbers. Without warm-up, the first step takes as many gradients as the second.
    """
    (less, few), (more, many) = sorted(runs.items())
    for number, (one, other) in enumerate(zip(few, many), 1):
        if one["weights"] != other["weights"]:
            numbers = [one["weights"][:16], other["weights"][:16]]
            why = (
                f"after step {number} the weights are {numbers[0]} with {less} steps of warm-up and {numbers[1]} with "
                f"{more}: what is learned before the clock starts is kept"
            )
            return failed("T3", why, position=number, numbers=numbers, lines=[one["path"], other["path"]])
    first, second = few[0]["gradients"], few[1]["gradients"] - few[0]["gradients"]
    if less == 0 and first != second:
        why = f"without warm-up gradients are taken {first} times up to the first step, {second} times for the second"
        return failed("T3", why, position=1, numbers=[first, second])
    same = f"weights after each of {len(few)} steps are the same to the last bit"
    return passed("T3", f"{same} with {less} and {more} steps of warm-up")
