"""The last bytes under a cap: two roundings of the same weights, one a little finer, joined at some row.

Rows of a matrix are rounded independently of each other, and its columns' factors do not depend on the step. So rows
of two roundings may stand in one tensor, and the size becomes a fine function of where the one ends and the other
begins, even where steps of many rows change at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import accumulate

import numpy as np

from golf.contracts import QTensor

# A guess stays this share of the bracket away from its ends, so the bracket shrinks even where the line misleads.
MARGIN = 0.04
# How often what cannot be split is left behind.
ROUNDS = 3


def join(finer: Mapping[str, QTensor], coarser: Mapping[str, QTensor], place: int) -> dict[str, QTensor]:
    """Tensors that are `finer` in the rows that end before `place`, counted in weights of the whole model. A
    tensor whose methods differ, or that has no steps of rows, is of one kind as a whole."""
    found, begin = {}, 0
    for name, fine in finer.items():
        end = begin + _codes(fine)
        if end <= place:
            found[name] = fine
        elif begin >= place or "rows" not in fine.parts or fine.method != coarser[name].method:
            found[name] = coarser[name]
        else:
            found[name] = _split(fine, coarser[name], (place - begin) * len(fine.parts["rows"]) // (end - begin))
        begin = end
    return found


def _codes(qtensor: QTensor) -> int:
    return qtensor.parts["codes"].size if "codes" in qtensor.parts else 0


def _split(fine: QTensor, coarse: QTensor, row: int) -> QTensor:
    """Rows before `row` of the one, the others of the other; codes as wide as the wider ones."""
    parts = {}
    for part, array in fine.parts.items():
        if part == "columns":
            parts[part] = array
            continue
        both = [each.parts[part].reshape(len(fine.parts["rows"]), -1) for each in (fine, coarse)]
        parts[part] = np.concatenate([both[0][:row], both[1][row:]]).reshape(array.shape)
    widest = {part: max(size, coarse.alphabets[part]) for part, size in fine.alphabets.items()}
    return replace(fine, parts=parts, alphabets=widest)


def between(
    finer: Mapping[str, QTensor],
    coarser: Mapping[str, QTensor],
    sizes: tuple[int, int],
    wanted: range,
    size_of: Callable[[dict[str, QTensor]], int],
    rounds: int = ROUNDS,
) -> tuple[dict[str, QTensor], int]:
    """What of the two is within `wanted` bytes, or comes nearest below its end, and its size.

    sizes: of the finer, which is over the range, and of the coarser, which is not. Where one more row takes more than
    there is room for, as when codes of its tensor need two bytes instead of one, the tensors behind that one go on.
    """
    left, right = 0, sum(map(_codes, finer.values()))
    large, small = sizes
    best = dict(coarser), small
    while best[1] not in wanted and right - left > 1:
        share = (wanted[-1 - len(wanted) // 3] - small) / max(large - small, 1)
        place = left + round((right - left) * min(max(share, MARGIN), 1 - MARGIN))
        place = min(max(place, left + 1), right - 1)
        joined = join(finer, coarser, place)
        size = size_of(joined)
        if size < wanted.stop:
            left, small = place, size
            best = max(best, (joined, size), key=lambda each: each[1])
        else:
            right, large = place, size
    if best[1] in wanted or not rounds:
        return best
    begins = dict(zip(finer, accumulate(map(_codes, finer.values()), initial=0)))
    behind = {name: finer[name] if begin >= right else best[0][name] for name, begin in begins.items()}
    size = size_of(behind)
    if size < wanted.stop:
        return max(best, (behind, size), key=lambda each: each[1])
    return between(behind, best[0], (size, best[1]), wanted, size_of, rounds - 1)
