"""C2c and D1 over a whole stream: what no excerpt shows, because it begins where the excerpts do not reach.

`walk` asks for single distributions deep in the stream and compares them with what stretches said there; `recognized`
and `known_by_heart` tell a model that predicts from one that looks the text up, however its copy is kept.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from golf.eval.validity import driver
from golf.eval.validity.causality import CLOSE, FLOOR
from golf.eval.validity.verdict import Verdict, failed, passed, unchecked

# Single distributions asked for along a stream: a leak at one target in a hundred is met in 99 % of walks.
WALK = 500
# Targets right after a changed token, which may cost what they like.
SETTLES = 64
# What one changed token at the beginning may change of the rest: adaptation remembers, but not by this much.
DEPENDS = 0.05
# Validation text that costs less than training text by this share, and by so many standard errors, is known.
BETTER, SIGMAS = 0.1, 6.0


def walk(
    predictor: Any, artifact: Any, tokens: np.ndarray, recorded: np.ndarray, draw: np.random.Generator, seconds: float
) -> Verdict:
    """C2c: along the whole stream, single distributions charge what was on record.

    recorded: nats of targets 1 .. N, NaN where none are.  Half of the places are drawn at random, half are the cheapest
    ones, where a leak pays; their number is what there is time for.
    """
    state = predictor.observe(predictor.open(artifact), int(tokens[0]))
    begin = time.monotonic()
    predictor.distribution(state)
    once = max(time.monotonic() - begin, 1e-4)
    known = np.flatnonzero(np.isfinite(recorded))
    count = int(min(WALK, max(2, seconds / once), len(known)))
    cheap = known[np.argsort(recorded[known])]
    cheap = cheap[: max(count, len(cheap) // 20)]
    places = np.unique([known[-1], *draw.choice(known, count), *draw.choice(cheap, count)])
    shown, worst = 1, 0.0
    for place in (places + 1).tolist():
        while shown < place:
            end = min(place, shown + min(driver.STRETCH, driver.horizon(predictor, state, shown)))
            state, shown = driver.advance(predictor, state, tokens[shown:end]), end
        row = driver.record(predictor.distribution(state), 1, None, place).double().numpy()[0]
        numbers = [float(recorded[place - 1]), -float(row[tokens[place]])]
        gap = abs(min(numbers[0], -FLOOR) - min(numbers[1], -FLOOR))
        worst = max(worst, gap)
        if not gap <= CLOSE:
            why = (
                f"target {place} costs {numbers[0]:.6f} nats with the targets in hand, {numbers[1]:.6f} by the "
                f"distribution that is asked for after {place} tokens and before it"
            )
            return failed("C2c", why, position=place, tokens=[int(tokens[place])], numbers=numbers)
    return passed("C2c", f"{len(places)} targets along the whole stream, asked for alone, within {worst:.1g} nats")


def recognized(first: np.ndarray, second: np.ndarray) -> Verdict:
    """D1: nats of one stream, and of the same with its first tokens changed: the rest is predicted alike.

    A copy that is found by what has been read so far is found no more.
    """
    rest = [nats[SETTLES:][: len(nats)].clip(max=-FLOOR) for nats in (first, second)]
    if len(rest[0]) < SETTLES:
        return passed("D1", "the stream is too short for a copy to be recognized by its beginning")
    plain, changed = (float(nats.mean()) for nats in rest)
    words = f"with its first tokens changed, the stream's rest costs {changed:.6f} nats a token instead of {plain:.6f}"
    if changed - plain > DEPENDS * max(changed, 1e-9):
        at = int((rest[1] - rest[0]).argmax())
        numbers = [float(rest[0][at]), float(rest[1][at])]
        why = f"{words}: the text is recognized, not predicted"
        return failed("D1", why, position=SETTLES + at + 1, numbers=numbers)
    return passed("D1", words)


def known_by_heart(val: Sequence[float], train: Sequence[float]) -> Verdict:
    """D1: mean nats of excerpts of the validation and of the training text, each from a fresh start. Nobody predicts
    text better that was never seen than text that was learned from, if they are of a kind."""
    if min(len(val), len(train)) < 4:
        return unchecked("D1", "too few excerpts to tell how well the texts are known")
    means = [statistics.fmean(each) for each in (val, train)]
    error = math.hypot(*(statistics.stdev(each) / math.sqrt(len(each)) for each in (val, train)))
    words = (
        f"{means[0]:.4f} nats a token on validation text, {means[1]:.4f} on training text "
        f"({len(val)} and {len(train)} excerpts, +- {error:.4f})"
    )
    if means[0] < (1 - BETTER) * means[1] and means[1] - means[0] > SIGMAS * error:
        return failed("D1", f"{words}: what it was not trained on is known better", numbers=means)
    return passed("D1", words)
