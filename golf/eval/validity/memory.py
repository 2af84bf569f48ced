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
from golf.eval.validity.verdict import Status, Verdict, failed, passed, unchecked

# Targets right after a changed token, which may cost what they like.
SETTLES = 64
# What a document before everything may change of the rest: adaptation remembers, but not by this much. And what the
# first tokens of a document may change of it from so many tokens after them on: they do say what it is about.
DEPENDS, OPENS, NEAR = 0.05, 0.25, 16
# Of single targets some cost a nat more behind it and some a nat less, about as many: so many more of the dear ones
# than chance has it, by its standard deviation, are what was looked up and is not found.
JUMP, LOST = 1.0, 4.5
# Stretches and single distributions differ by rounding, which takes no side: by no more than this on average.
LEANS = 1e-4
# Tokens of that document, and tokens that a document begins with.
BEFORE, OPENING = 7, 4
# Validation text that costs less than training text by this share, and by so many standard errors, is known.
BETTER, SIGMAS = 0.1, 6.0


def walk(
    predictor: Any, artifact: Any, tokens: np.ndarray, recorded: np.ndarray, draw: np.random.Generator,
    seconds: float, most: float = math.inf, check: str = "C2c",
) -> Verdict:  # fmt: skip
    """C2c: along the whole stream, single distributions charge what was on record. C2b: what a loop charged.

    predictor: in a process that was never shown a stretch, so that it can remember no target.  recorded: nats of
    targets 1 .. N, NaN where none are.  seconds: for distributions.  most: for all of it, reading included.  All places
    are asked for where there is time, else some: by chance, among the cheapest, where a leak pays, and among all tokens
    alike, for one may show at a rare token alone.
    """
    begin = time.monotonic()
    state = predictor.observe(predictor.open(artifact), int(tokens[0]))
    predictor.distribution(state)
    once = max(time.monotonic() - begin, 1e-4)
    known = np.flatnonzero(np.isfinite(recorded))
    count = int(max(2, seconds / once))
    few = ""
    if count >= len(known):
        places = known
    else:
        count = max(2, count // 3)
        cheap = known[np.argsort(recorded[known])]
        cheap = cheap[: max(count, len(cheap) // 20)]
        rare = 1 / np.bincount(tokens)[tokens[known + 1]]
        alike = draw.choice(known, count, p=rare / rare.sum())
        places = np.unique([known[-1], *draw.choice(known, count), *draw.choice(cheap, count), *alike])
        few = f" of {len(known):,}, which could miss a leak at fewer than {3 / count:.2%} of them"  # 95 times in 100
    shown, gaps = 1, []
    for place in (places + 1).tolist():
        while shown < place:
            end = min(place, shown + min(driver.STRETCH, driver.horizon(predictor, state, shown)))
            state, shown = driver.advance(predictor, state, tokens[shown:end]), end
        if time.monotonic() - begin > most:
            return unchecked(check, f"after {shown:,} of {len(tokens):,} tokens there was no time for single questions")
        row = driver.record(predictor.distribution(state), 1, None, place).double().numpy()[0]
        numbers = [float(recorded[place - 1]), -float(row[tokens[place]])]
        gaps.append(min(numbers[0], -FLOOR) - min(numbers[1], -FLOOR))
        if not abs(gaps[-1]) <= CLOSE:
            why = (
                f"target {place} costs {numbers[0]:.6f} nats with the targets in hand, {numbers[1]:.6f} by the "
                f"distribution that is asked for after {place} tokens and before it"
            )
            return failed(check, why, position=place, tokens=[int(tokens[place])], numbers=numbers)
    mean = statistics.fmean(gaps)
    if mean < -LEANS:
        place = int(places[np.argmin(gaps)]) + 1
        why = f"{len(places):,} targets cost {-mean:.6f} nats less with the targets in hand than asked for before them"
        why += f", target {place} for one: so much rounding, all to one side, is none"
        return failed(check, why, position=place, tokens=[int(tokens[place])], numbers=[mean, 0.0])
    words = f"{len(places):,} targets along the whole stream{few}, asked for alone"
    return passed(check, f"{words}, within {max(map(abs, gaps)):.1g} nats")


def moved(tokens: np.ndarray, bos: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(another stream, for each of its tokens the position it had, -1 for those that are new or stand near new ones).

    A short document of tokens by chance goes before everything, so that nothing is at its place any more, nor in its
    document by number; in the second half the first tokens of every document are others.
    """
    vocab = int(tokens.max()) + 1
    new = np.setdiff1d(draw.integers(vocab, size=4 * BEFORE), [bos])[:BEFORE]
    stream = np.concatenate([tokens[:1], new, [bos], tokens[1:]])
    origin = np.concatenate([np.full(len(new) + 2, -1), np.arange(1, len(tokens))])
    origin[: len(new) + 2 + SETTLES] = -1
    starts = np.flatnonzero(stream == bos)
    for start in starts[starts > len(stream) // 2].tolist():
        end = min(start + 1 + OPENING, len(stream))
        stream[start + 1 : end] = (stream[start + 1 : end] + draw.integers(1, vocab, end - start - 1)) % vocab
        origin[start + 1 : end + NEAR] = -1
    return stream, origin


def recognized(recorded: np.ndarray, again: np.ndarray, origin: np.ndarray) -> list[Verdict]:
    """D1 and C4b: nats of a stream and of what `moved` made of it, by the same process: what stayed is predicted alike.

    A copy that is found by its place, by what was read so far or by how a document begins is found no more, and costs
    more; what a process kept of the first time costs less.
    """
    half = len(again) // 2
    first = _alike(recorded, again[:half], origin[1 : half + 1], DEPENDS, "behind another document")
    return [
        first if first.status is Status.FAIL else _none_lost(recorded, again[:half], origin[1 : half + 1]),
        _alike(recorded, again[half:], origin[half + 1 :], OPENS, "in documents that begin otherwise"),
    ]


def _alike(recorded: np.ndarray, again: np.ndarray, origin: np.ndarray, most: float, where: str) -> Verdict:
    kept = np.flatnonzero(origin > 0)
    if len(kept) < SETTLES:
        return passed("D1", f"the stream is too short to see what its targets cost {where}")
    places = origin[kept]
    before, after = recorded[places - 1].clip(max=-FLOOR), again[kept].clip(max=-FLOOR)
    plain, changed = float(before.mean()), float(after.mean())
    words = f"{where} {len(kept):,} targets cost {changed:.6f} nats each instead of {plain:.6f}"
    at = int(np.abs(after - before).argmax())
    facts = {"position": int(places[at]), "numbers": [float(before[at]), float(after[at])]}
    if changed - plain > most * max(changed, 1e-9):
        return failed("D1", f"{words}: the text is recognized, not predicted", **facts)
    if plain - changed > DEPENDS * max(plain, 1e-9):
        return failed("C4b", f"scored for the second time, {words}: something is kept", **facts)
    return passed("D1", words)


def _none_lost(recorded: np.ndarray, again: np.ndarray, origin: np.ndarray) -> Verdict:
    """D1: few targets kept by their place change the average little, but all of them to one side."""
    kept = np.flatnonzero(origin > 0)
    places = origin[kept]
    before, after = recorded[places - 1].clip(max=-FLOOR), again[kept].clip(max=-FLOOR)
    dearer, cheaper = int((after - before > JUMP).sum()), int((before - after > JUMP).sum())
    words = f"behind another document {dearer:,} of {len(kept):,} targets cost a nat more, {cheaper:,} a nat less"
    if dearer - cheaper > LOST * math.sqrt(max(1, dearer + cheaper)):
        at = int((after - before).argmax())
        numbers = [float(before[at]), float(after[at])]
        return failed("D1", f"{words}: they were known by their place", position=int(places[at]), numbers=numbers)
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
