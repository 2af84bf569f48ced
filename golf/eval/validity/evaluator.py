"""The conditions for a submission's own scoring loop, which has all tokens in hand and hands back numbers.

    evaluate(tokens) -> (positions, nats)   targets in the order they were scored, and what each was charged

Nothing is known of what goes on inside. But a number that is read off a distribution fixed before its target has a
property that can be tested from outside: put another token in the target's place, and it is charged what that same
distribution gives it. An update with the target, a gate that looks at it, the better of two models and a cache asked
for the true token alone charge less, so that over the vocabulary they charge for more than there is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from golf.eval.validity.causality import CLOSE, FLOOR, MOST, SAME, Excerpt, others
from golf.eval.validity.verdict import Budget, Status, Verdict, failed, passed, unchecked

# Trying the whole vocabulary at one target may always take so long.
WHOLE_SECONDS = 0.5

Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def once(positions: np.ndarray, total: int) -> Verdict:
    """C4a: of targets 1 .. total each is scored exactly once, the tail included."""
    inside = positions[(positions >= 1) & (positions <= total)]
    counts = np.bincount(inside, minlength=total + 1)[1:]
    stray = len(positions) - len(inside)
    wrong = np.flatnonzero(counts != 1)
    if len(wrong) or stray:
        missing, twice = int((counts == 0).sum()), int((counts > 1).sum())
        at = int(wrong[0]) + 1 if len(wrong) else int(positions[(positions < 1) | (positions > total)][0])
        times = int(counts[wrong[0]]) if len(wrong) else 1
        why = (
            f"of {total:,} targets {missing:,} are not scored, {twice:,} more than once, {stray:,} scores are of none; "
            f"the first is target {at}, scored {times} times"
        )
        return failed("C4a", why, position=at, numbers=[times, 1], missing=missing, repeated=twice, stray=stray)
    return passed("C4a", f"{total:,} targets, each scored once")


def in_order(
    evaluate: Evaluate, piece: Excerpt, scored: np.ndarray, bos: int, draw: np.random.Generator
) -> Verdict:
    """C1d: scored from left to right, whatever the documents hold and however long they are.

    scored: positions of the excerpt's targets as they were scored.
    """
    shorter = piece.tokens.copy()
    shorter[draw.integers(2, len(shorter), max(1, len(shorter) // 50))] = bos  # other documents, other lengths
    found = left_to_right(scored, piece.tokens)
    if found.status is Status.FAIL:
        return found
    found = left_to_right(evaluate(shorter)[0], shorter, " once documents are cut elsewhere")
    if found.status is Status.FAIL:
        return found
    return passed("C1d", f"{len(piece.targets):,} targets are scored from left to right, also with other documents")


def left_to_right(positions: np.ndarray, tokens: np.ndarray, what: str = "") -> Verdict:
    """C1d of one scoring, whose positions are in the order they were scored."""
    back = np.flatnonzero(np.diff(positions) < 0)
    if not len(back):
        return passed("C1d", f"{len(positions):,} targets are scored from left to right{what}")
    pair = [int(positions[back[0]]), int(positions[back[0] + 1])]
    why = (
        f"target {pair[0]} is scored before target {pair[1]}{what}: {len(back)} steps back, so what is known "
        "of a text decides when it is scored, and later text may inform earlier"
    )
    named = [int(tokens[place]) for place in pair if 0 <= place < len(tokens)]
    return failed("C1d", why, position=pair[1], numbers=pair, tokens=named)


def flips(
    evaluate: Evaluate, piece: Excerpt, base: np.ndarray, vocab: int, draw: np.random.Generator, budget: Budget
) -> list[Verdict]:
    """C1a, C1c and C3c: with one target flipped, or all from it on, no score before it changes.

    base: charges `by_position` of the excerpt as it is.
    """
    count = len(piece.targets)
    inner = [edge + shift for edge in piece.edges[:8] for shift in (0, -1, 1)]
    inner = [place for place in inner if 1 <= place <= count]
    places = [count // 2 + 1, count, 1, *inner, *(draw.permutation(count) + 1).tolist()]
    made = 0
    for place in places:
        for check, end in (("C3c", place + 1), ("C1c", len(piece.tokens))):
            changed = piece.tokens.copy()
            changed[place:end] = others(changed[place:end], vocab, draw)
            moved = by_position(evaluate(changed), count)
            gap = np.abs(moved[1:place] - base[1:place])
            made += 1
            if len(gap) and not np.nanmax(gap, initial=0.0) <= SAME:
                at = int(np.nanargmax(gap)) + 1
                numbers = [float(base[at]), float(moved[at])]
                what = "flipping it" if end == place + 1 else "replacing everything from it on"
                why = (
                    f"target {piece.begin + at} is charged {numbers[0]:.6f} nats, and {numbers[1]:.6f} after target "
                    f"{piece.begin + place} changed ({what}): {int((gap > SAME).sum())} earlier scores change"
                )
                tokens = [int(piece.tokens[place]), int(changed[place])]
                facts = {"position": piece.begin + at, "changed": [piece.begin + place], "tokens": tokens}
                return [failed(name, why, **facts, numbers=numbers) for name in dict.fromkeys((check, "C1a", "C1c"))]
        if budget.enough(made) or made >= MOST:
            break
    why = f"the submission's own loop: {made} changes, no score before one changes"
    return [passed(check, why) for check in ("C1a", "C1c", "C3c")]


def charges(
    evaluate: Evaluate,
    piece: Excerpt,
    base: np.ndarray,
    seconds: float,
    vocab: int,
    row_of: Callable[[np.ndarray], np.ndarray],
    draw: np.random.Generator,
    budget: Budget,
) -> list[Verdict]:
    """C1b, C2c and C3a: other tokens put in a target's place are charged what one distribution gives them.

    row_of: log probabilities of what follows some tokens, from a predictor that has not seen it. All tokens of the
    vocabulary are tried where there is time for it, else some of them.  seconds: that one scoring takes.
    """
    count, made, tried = len(piece.targets), 0, 0
    sure = (np.argsort(np.nan_to_num(base[1:], nan=np.inf)) + 1).tolist()
    for place in dict.fromkeys([count, 1, *np.stack([draw.permutation(count) + 1, sure], 1).ravel().tolist()]):
        # What comes after cannot matter to a sound score, and a shorter text is scored sooner.
        text, row = piece.tokens[: place + 1].copy(), row_of(piece.tokens[:place])
        whole = seconds * vocab < max(budget.left, WHOLE_SECONDS)
        others = np.arange(vocab) if whole else _some(row, draw)[: max(3, budget.least)]
        charged = np.empty(len(others))
        for slot, token in enumerate(others.tolist()):
            text[place] = token
            charged[slot] = by_position(evaluate(text), place)[place]
        made, tried = made + 1, tried + len(others)
        gap = np.abs(np.minimum(charged, -FLOOR) - np.minimum(-row[others], -FLOOR))
        worst, mass = int(np.nan_to_num(gap, nan=np.inf).argmax()), float(np.exp(-charged).sum())
        if not gap[worst] <= CLOSE:
            token, numbers = int(others[worst]), [float(charged[worst]), float(-row[others[worst]])]
            total = f"; over the whole vocabulary the charges add up to {mass:.6f}" if len(others) == vocab else ""
            why = (
                f"with token {token} as target {piece.begin + place} the charge is {numbers[0]:.6f} nats, the "
                f"distribution that was there before the target gives it {numbers[1]:.6f}{total}"
            )
            facts = {"position": piece.begin + place, "tokens": [token], "numbers": numbers}
            return [failed(check, why, **facts) for check in ("C2c", "C3a", "C1b")]
        if budget.over:
            break
    why = f"the submission's own loop: {tried:,} tokens tried at {made} targets cost what the distributions said before"
    return [passed(check, why) for check in ("C2c", "C3a", "C1b")]


def _some(row: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The likeliest two, the least likely, and a few at random."""
    order = np.argsort(row)
    return np.unique([order[-1], order[-2], order[0], *draw.integers(len(row), size=3)])


def read_off(
    positions: np.ndarray, nats: np.ndarray, recorded: np.ndarray, tokens: np.ndarray, begin: int = 0
) -> Verdict:
    """C2b: each charge is minus the log probability its target has in the recorded distribution.

    recorded: nats of targets 1 .. N, as the driver took them from whole distributions.
    """
    inside = (positions >= 1) & (positions <= len(recorded))
    if not inside.any():
        return unchecked("C2b", "the submission's own loop scored no target of the excerpt")
    places, charged = positions[inside], nats[inside]
    gap = np.abs(charged - recorded[places - 1])
    worst = int(np.nan_to_num(gap, nan=np.inf).argmax())
    at, numbers = int(places[worst]), [float(charged[worst]), float(recorded[places[worst] - 1])]
    if not gap[worst] <= CLOSE:
        why = f"target {begin + at} is charged {numbers[0]:.6f} nats, its distribution gives it {numbers[1]:.6f}"
        return failed("C2b", why, position=begin + at, tokens=[int(tokens[at])], numbers=numbers)
    return passed("C2b", f"{len(places):,} charges equal the recorded distributions within {gap[worst]:.1g} nats")


def by_position(scored: tuple[np.ndarray, np.ndarray], count: int) -> np.ndarray:
    """[count + 1] nats of targets 0 .. count; NaN where none was charged, the last charge where several were."""
    found = np.full(count + 1, np.nan)
    positions, nats = scored
    inside = (positions >= 0) & (positions <= count)
    found[positions[inside]] = nats[inside]
    return found
