"""What the codec rans writes down about deviations: the level of every matrix, row and column, weighed by its bits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

CLASSES = 96  # deviations 2^-3 .. 2^8.875
SIDE = 40  # levels of rows and columns are within
BLOCK = 1 << 14  # rows whose levels are weighed at once


def rates() -> np.ndarray:
    """float32 [3, CLASSES]: bits of a zero, what any other symbol costs on top, and that times its square: near
    enough the code length of a rounded Gaussian, fine or coarse."""
    deviation = np.exp2((np.arange(CLASSES) - 24) / 8)
    below, within = (np.array([math.erf(edge / s / 8**0.5) for s in deviation]) for edge in (1, 3))
    zero, one, square = -np.log2(below), 1 - np.log2(within - below), 1 / (2 * math.log(2) * deviation**2)
    return np.array([zero, one - zero - square, square], np.float32)


def levels(parts: Sequence[np.ndarray], both: bool) -> list[np.ndarray]:
    """Levels of the matrices, of their rows and of their columns that make the code length of Gaussian symbols and
    what the levels cost themselves least, by a few alternations; those of rows and columns only if `both`."""
    tries, (zero, other, square) = np.arange(-SIDE, SIDE + 1), rates()
    base = [int(np.round(4 * np.log2((part**2.0).sum() / max(1, part.size) + 1e-2))) + 24 for part in parts]
    found = [[np.zeros(length, int) for length in part.shape] for part in parts]
    costs = [np.abs(tries) * 1.0] * 2
    for _ in range(6 * both):
        for n, part in enumerate(parts):
            for axis, matrix in enumerate((part, part.T)):
                kinds = (base[n] + found[n][1 - axis][:, None] + tries).clip(0, CLASSES - 1)
                alike = zero[kinds].sum(0) + costs[axis]
                for rows in (slice(at, at + BLOCK) for at in range(0, len(matrix), BLOCK)):
                    symbols = matrix[rows].astype(np.float32)
                    bits = symbols**2 @ square[kinds] + (symbols != 0).astype(np.float32) @ other[kinds] + alike
                    found[n][axis][rows] = tries[bits.argmin(1)]
                middle = int(np.median(found[n][axis])) if len(matrix) else 0
                base[n] += middle
                found[n][axis] = (found[n][axis] - middle).clip(-SIDE, SIDE)
        for axis in 0, 1:
            counts = np.bincount(np.concatenate([pair[axis] for pair in found]) + SIDE, minlength=len(tries)) + 0.1
            costs[axis] = -np.log2(counts / counts.sum())
    return [np.clip(base, 0, CLASSES - 1), *(np.concatenate([pair[axis] for pair in found]) for axis in (0, 1))]
