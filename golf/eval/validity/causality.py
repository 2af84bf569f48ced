"""C1: what a distribution may depend on is what came before it. Shown by changing what came after.

These checks matter for the stretch form of a predictor, which is handed targets before it answers. The step form
cannot see them: there, they say so.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from golf.eval.validity import driver
from golf.eval.validity.interface import Stretches
from golf.eval.validity.verdict import Budget, Verdict, beside_the_point, failed, passed, unchecked

# Between calls of one shape nothing but the tokens differs, and float32 arithmetic on equal numbers is equal.
SAME = 1e-5
# Between calls of different shapes sums are taken in another order.
CLOSE = 1e-3
# Log probabilities below this are compared as if they were this: what remains weighs nothing.
FLOOR = -30.0
# Cuts that are enough however fast the predictor is.
MOST = 400

FIXED = "a fixed predictor: nothing adapts, C1a says what it depends on"
STRUCTURAL = "one distribution is on record before its target leaves the driver's process"


@dataclass(frozen=True)
class Excerpt:
    """A piece of the validation stream, scored as a stream of its own: `tokens[0]` is given, the others targets.

    begin: its position in the stream.  edges: positions within it that hold a document's first token.
    """

    begin: int
    tokens: np.ndarray
    edges: tuple[int, ...]

    @property
    def targets(self) -> np.ndarray:
        return self.tokens[1:]


def excerpts(tokens: Sequence[int], bos: int, lengths: Sequence[int], draw: np.random.Generator) -> list[Excerpt]:
    """The beginning, the end, and pieces that begin at documents somewhere between; `lengths` in targets."""
    total, found = len(tokens), []
    for number, length in enumerate(lengths):
        length = min(length, total - 1)
        last = total - 1 - length
        begin = (0, last, int(draw.integers(last + 1)))[min(number, 2)]
        if number >= 2:  # back to where a document begins, if one does nearby
            near = np.flatnonzero(np.asarray(tokens[begin : begin + length + 1]) == bos)
            begin = min(begin + int(near[0]), last) if len(near) else begin
        piece = np.asarray(tokens[begin : begin + length + 1], np.int64)
        edges = tuple(np.flatnonzero(piece == bos).tolist())
        if all(begin != excerpt.begin or length > len(excerpt.targets) for excerpt in found):
            found.append(Excerpt(begin, piece, edges))
    return found


def rows(predictor: Any, artifact: Any, tokens: np.ndarray) -> np.ndarray:
    """[T, V] log probabilities of targets tokens[1:], as the stretch form gives them; cut where it has a horizon."""
    state = predictor.observe(predictor.open(artifact), int(tokens[0]))
    found, done = [], 1
    while done < len(tokens):
        count = min(len(tokens) - done, driver.horizon(predictor, state, done))
        targets = tokens[done : done + count]
        found.append(driver.record(predictor.logprobs(state, targets.copy()), count, None, done).double().numpy())
        state = driver.advance(predictor, state, targets)
        done += count
    return np.concatenate(found)


def step(predictor: Any, artifact: Any, tokens: np.ndarray) -> np.ndarray:
    """[V] log probabilities of what follows `tokens`, as the step form gives them."""
    state = predictor.observe(predictor.open(artifact), int(tokens[0]))
    state = driver.advance(predictor, state, tokens[1:]) if len(tokens) > 1 else state
    return driver.record(predictor.distribution(state), 1, None, len(tokens)).double().numpy()[0]


def steps(predictor: Any, artifact: Any, tokens: np.ndarray) -> np.ndarray:
    """[T, V] log probabilities of targets tokens[1:], each asked for before it is shown."""
    state, found = predictor.open(artifact), []
    for place, token in enumerate(tokens[:-1].tolist()):
        state = predictor.observe(state, token)
        found.append(driver.record(predictor.distribution(state), 1, None, place + 1).double().numpy()[0])
    return np.stack(found)


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Largest difference of two sets of log probabilities along the last axis."""
    return np.abs(np.maximum(a, FLOOR) - np.maximum(b, FLOOR)).max(-1)


def cuts(excerpt: Excerpt, base: np.ndarray, draw: np.random.Generator) -> Iterator[int]:
    """Rows to look at, the most telling first: around document borders, first and last, those that are surest of
    their target (a leak pays there), the least sure, and at random. Row i predicts targets[i]."""
    count = len(base)
    sure = np.argsort(base[np.arange(count), excerpt.targets])[::-1]
    borders = [edge + shift for edge in excerpt.edges[:8] for shift in (0, -1, 1, -2)]
    ends = [count // 2, 0, count - 1]
    mixed = np.stack([draw.permutation(count), sure, draw.permutation(count)], 1).ravel().tolist()
    seen = set()
    for row in (*ends, *borders, *mixed):
        if 0 <= row < count and row not in seen:
            seen.add(row)
            yield row


def others(tokens: np.ndarray, vocab: int, draw: np.random.Generator) -> np.ndarray:
    """Tokens that differ from the given ones at every place."""
    return (tokens + draw.integers(1, vocab, len(tokens))) % vocab


def later_tokens(
    predictor: Any,
    artifact: Any,
    pieces: Sequence[Excerpt],
    bases: Sequence[np.ndarray],
    draw: np.random.Generator,
    budget: Budget,
) -> list[Verdict]:
    """C1a and C1b: with everything from a target on replaced, its row and those before it stay what they were.

    bases: `rows` of the excerpts as they are.
    """
    if not isinstance(predictor, Stretches):
        return [passed(check, STRUCTURAL) for check in ("C1a", "C1b")]
    plans = [(piece, base, cuts(piece, base, draw)) for piece, base in zip(pieces, bases)]
    made, looked, worst = 0, 0, 0.0
    while plans and made < MOST and not budget.enough(made):
        piece, base, plan = plans[made % len(plans)]
        cut = next(plan, None)
        if cut is None:
            del plans[made % len(plans)]
            continue
        changed = piece.tokens.copy()
        changed[cut + 1 :] = others(changed[cut + 1 :], base.shape[1], draw)
        gap = apart(base[: cut + 1], rows(predictor, artifact, changed)[: cut + 1])
        if gap.max() > SAME:
            return _caught(predictor, artifact, piece, base, changed, cut)
        made, looked, worst = made + 1, looked + cut + 1, max(worst, float(gap.max()))
    seen = f"{looked:,} distributions move by at most {worst:.1g}"
    return [
        passed("C1a", f"{made} cuts with every later token replaced: {seen}", cuts=made),
        passed("C1b", f"{made} targets replaced: {seen}", cuts=made),
    ]


def _caught(
    predictor: Any, artifact: Any, piece: Excerpt, base: np.ndarray, changed: np.ndarray, cut: int
) -> list[Verdict]:
    """C1a and C1b of a row that moves: with what comes after its target, or with the target alone."""
    found = {}
    for begin, end in ((cut + 2, None), (cut + 1, cut + 2), (cut + 1, None)):
        trial = piece.tokens.copy()
        trial[begin:end] = changed[begin:end]
        moved = apart(base[: cut + 1], rows(predictor, artifact, trial)[: cut + 1])
        if moved.max() > SAME and (end is not None or begin == cut + 2 or not found):
            verdict = reproduce(predictor, artifact, piece, base, trial, cut)
            found.setdefault(verdict.check, verdict)
    if "C1b" not in found:
        found["C1b"] = unchecked("C1b", "a row moves with later tokens: see C1a")
    # Its own target is the first of the tokens that come later.
    own = found["C1b"]
    return [found.get("C1a") or failed("C1a", own.why, **own.evidence), own]


def reproduce(
    predictor: Any, artifact: Any, piece: Excerpt, base: np.ndarray, changed: np.ndarray, cut: int
) -> Verdict:
    """The smallest change found that moves a row before it, as a failed C1b (its own target) or C1a (later ones).

    changed: the excerpt's tokens, some replaced behind row `cut`, so that a row up to it moves. Of what was replaced,
    halves are put back as long as a row still moves.
    """

    def try_out(places: list[int]) -> tuple[int, np.ndarray] | None:
        trial = piece.tokens.copy()
        trial[places] = changed[places]
        moved = rows(predictor, artifact, trial)
        gap = apart(base[: cut + 1], moved[: cut + 1])
        return (int(gap.argmax()), moved) if gap.max() > SAME else None

    places = np.flatnonzero(changed != piece.tokens).tolist()
    row, moved = try_out(places)
    while len(places) > 1:
        half = len(places) // 2
        for kept in (places[:half], places[half:]):
            if (hit := try_out(kept)) is not None:
                places, (row, moved) = kept, hit
                break
        else:
            break  # only together do they move it
    token = int(np.abs(np.maximum(base[row], FLOOR) - np.maximum(moved[row], FLOOR)).argmax())
    numbers = [float(base[row][token]), float(moved[row][token])]
    target, place = piece.begin + row + 1, places[0]
    tokens = [int(piece.tokens[place]), int(changed[place])]
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    why = (
        f"target {target}: log p of token {token} goes {numbers[0]:.6f} -> {numbers[1]:.6f} when the token at "
        f"{piece.begin + place}{more} goes {tokens[0]} -> {tokens[1]}"
    )
    evidence = {
        "position": target, "changed": [piece.begin + each for each in places[:8]], "tokens": tokens,
        "of_token": token, "numbers": numbers, "excerpt": [piece.begin, len(piece.tokens)],
    }  # fmt: skip
    return failed("C1b" if places == [row + 1] else "C1a", why, **evidence)


def step_equals_stretch(
    predictor: Any,
    artifact: Any,
    pieces: Sequence[Excerpt],
    bases: Sequence[np.ndarray],
    draw: np.random.Generator,
    budget: Budget,
    shorter: bool = True,
) -> list[Verdict]:
    """C2c: what the stretch form says is what the step form says, which has not been shown the target.

    shorter: also what it says when it is asked for less at once.
    """
    if not isinstance(predictor, Stretches):
        return [passed("C2c", STRUCTURAL)]
    made, worst = 0, 0.0
    count, seconds = len(pieces), 0.0
    share = [Budget(max(0.0, budget.left) * (number + 1) / count) for number in range(count)]
    for piece, base, until in zip(pieces, bases, share):
        # How many there is time for is seen from the first that were asked.
        fitting = int(until.left / seconds) if seconds else len(base) if len(base) < 32 else 16
        wanted = max(-(-budget.least // count), min(len(base), fitting))
        chosen = sorted(itertools.islice(cuts(piece, base, draw), wanted))
        state, shown = predictor.observe(predictor.open(artifact), int(piece.tokens[0])), 1
        for row in chosen:
            if row + 1 > shown:
                state = driver.advance(predictor, state, piece.tokens[shown : row + 1])
                shown = row + 1
            begin = time.monotonic()
            alone = driver.record(predictor.distribution(state), 1, None, row).double().numpy()[0]
            seconds = time.monotonic() - begin
            gap, made = float(apart(base[row], alone)), made + 1
            worst = max(worst, gap)
            if gap > CLOSE:
                token = int(np.abs(np.maximum(base[row], FLOOR) - np.maximum(alone, FLOOR)).argmax())
                target, numbers = piece.begin + row + 1, [float(base[row][token]), float(alone[token])]
                why = (
                    f"target {target}: log p of token {token} is {numbers[0]:.6f} with the targets in hand and "
                    f"{numbers[1]:.6f} before any is shown"
                )
                place, tokens = [piece.begin, len(piece.tokens)], [int(piece.targets[row]), token]
                return [failed("C2c", why, position=target, tokens=tokens, numbers=numbers, excerpt=place)]
            if until.over and made >= budget.least:
                break
        if shorter and (found := _shorter(predictor, artifact, piece, base, draw)) is not None:
            return [found]
    return [passed("C2c", f"{made:,} rows of stretches equal those asked for one by one within {worst:.1g}")]


def _shorter(
    predictor: Any, artifact: Any, piece: Excerpt, base: np.ndarray, draw: np.random.Generator
) -> Verdict | None:
    """C2c: how many targets are asked for at once tells a row nothing. An odd and an even number of them are tried."""
    if len(base) < 4:
        return None
    count = int(draw.integers(2, len(base) - 1))
    for length in (count, count + 1):
        shorter = rows(predictor, artifact, piece.tokens[: length + 1])
        gap = apart(base[:length], shorter)
        if gap.max() > CLOSE:
            row = int(gap.argmax())
            token = int(np.abs(np.maximum(base[row], FLOOR) - np.maximum(shorter[row], FLOOR)).argmax())
            numbers = [float(base[row][token]), float(shorter[row][token])]
            why = (
                f"target {piece.begin + row + 1}: log p of token {token} is {numbers[0]:.6f} when {len(base):,} "
                f"targets are asked for, {numbers[1]:.6f} when {length:,} are"
            )
            place = [piece.begin, len(piece.tokens)]
            return failed("C2c", why, position=piece.begin + row + 1, tokens=[token], numbers=numbers, excerpt=place)
    return None


def adaptation(predictor: Any, artifact: Any, tokens: np.ndarray, draw: np.random.Generator) -> list[Verdict]:
    """C1c: with the last quarter of a stream replaced, what was recorded before it is the same to the last bit."""
    if not isinstance(predictor, Stretches):
        return [passed("C1c", STRUCTURAL)]
    if not hasattr(predictor, "horizon"):
        return [beside_the_point("C1c", FIXED)]
    cut = len(tokens) * 3 // 4
    base = rows(predictor, artifact, tokens)
    changed = tokens.copy()
    changed[cut:] = others(changed[cut:], base.shape[1], draw)
    gap = apart(base[:cut], rows(predictor, artifact, changed)[:cut])
    if gap.max() > SAME:
        found = reproduce(predictor, artifact, Excerpt(0, tokens, ()), base, changed, cut - 1)
        return [failed("C1c", found.why, **found.evidence)]
    return [passed("C1c", f"{cut:,} recorded distributions stay when the {len(tokens) - cut:,} targets after change")]


def isolation(
    predictor: Any, artifact: Any, pieces: Sequence[Excerpt], isolated: bool, draw: np.random.Generator
) -> list[Verdict]:
    """C1e: with a document's tokens replaced, the distributions of the one after it are what they were."""
    if not isolated:
        return [beside_the_point("C1e", "documents are read on from one to the next, as the submission declares")]
    form = rows if isinstance(predictor, Stretches) else steps
    looked = 0
    for piece in pieces:
        inner = [edge for edge in piece.edges if edge > 1 and edge < len(piece.tokens) - 1]
        for edge in inner[:2]:
            base, changed = form(predictor, artifact, piece.tokens), piece.tokens.copy()
            changed[1:edge] = others(changed[1:edge], base.shape[1], draw)
            gap = apart(base[edge:], form(predictor, artifact, changed)[edge:])
            looked += 1
            if gap.max() > SAME:
                row = edge + int(np.argmax(gap > SAME))
                return [
                    failed(
                        "C1e",
                        f"target {piece.begin + row + 1} moves by {gap.max():.6f} with the document before its own, "
                        f"which ends at {piece.begin + edge - 1}",
                        position=piece.begin + row + 1, changed=[piece.begin + 1, piece.begin + edge - 1],
                        tokens=piece.tokens[edge : edge + 2].tolist(), numbers=[0.0, float(gap.max())],
                    )
                ]  # fmt: skip
    return [passed("C1e", f"{looked} documents replaced, nothing moves in those after them")]
