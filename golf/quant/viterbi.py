"""The best path of every row through the trellis of `golf.quant.trellis`, found for many rows side by side.

Each state has a survivor, the cheapest path that ends there, which owes later columns the errors of its own past, as
GPTQ has it. Between matrix products there are many small steps, for which NumPy takes a third of torch's time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# The next state by state and parity of the code. States 2 and 3 take the grid whose points but zero are half a step
# nearer to zero.
NEXT = ((0, 2), (2, 0), (1, 3), (3, 1))
STATES = len(NEXT)
# Per state: how much nearer to zero its points are, and the parity of the code that is tried first. With these, the
# first codes of states 0 and 1 both lead to state 0, of states 2 and 3 to state 1, and the second to states 2 and 3.
NEARER_S1, FIRST_S1 = np.array([[0.0], [0.0], [0.5], [0.5]]), np.array([[0.0], [1.0], [0.0], [1.0]])
# Columns settled before survivors touch the rest: speed only.
BLOCK = 16


class Survivors:
    """The cheapest path to each state, of every row.

    cost_SR: sums of squared errors.  A survivor's place is its state times R, plus its row.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.cost_SR = np.full((STATES, rows), np.inf)
        self.cost_SR[0] = 0
        # A new state is half of the codes times pair of states before it: [codes, pair, which of the pair, R].
        before_SR = np.arange(STATES * rows).reshape(2, 2, rows)[:, 0]
        self._before_SR = np.stack([before_SR, before_SR]).reshape(STATES, rows)
        self._found = np.empty((2, 2, STATES, rows))

    def step(self, w_SR: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Go on by the weights of one column, in steps, whose squared errors count by 1 / unit^2.

        Which of two each new survivor came from [S, R], its code and its error over unit, both [S, R].
        """
        codes, errors = self._found
        size_SR = np.abs(w_SR)
        size_SR += NEARER_S1
        first_SR = np.rint((size_SR - FIRST_S1) / 2, out=codes[0])
        first_SR *= 2
        first_SR += FIRST_S1
        zero_PR = size_SR[2:] < 1.25  # where the grid's gap around zero has the even code nearest
        first_SR[2][zero_PR[0]] = 0
        error_SR = np.subtract(size_SR, first_SR, out=errors[0])
        second_SR = np.add(first_SR, np.copysign(1.0, error_SR), out=codes[1])
        second_SR[3][zero_PR[1]] = 0
        np.subtract(size_SR, second_SR, out=errors[1])
        # Zero lies where it lies on either grid.
        errors[0, 2] -= 0.5 * zero_PR[0]
        errors[1, 3] -= 0.5 * zero_PR[1]
        errors /= unit
        cost = errors * errors
        cost += self.cost_SR
        one, other = np.moveaxis(cost.reshape(STATES, 2, self.rows), 1, 0)
        taken_SR = other < one
        self.cost_SR = np.minimum(one, other)
        self._found *= np.copysign(1.0, w_SR)
        one, other = np.moveaxis(self._found.reshape(2, STATES, 2, self.rows), 2, 0)
        return taken_SR, *np.where(taken_SR, other, one)

    def before(self, taken_SR: np.ndarray) -> np.ndarray:
        """Places of the survivors that those after a step came from, flat."""
        return (self._before_SR + taken_SR * self.rows).ravel()


def path(W_KR: Tensor, U_KK: Tensor, block: int = BLOCK) -> Tensor:
    """Codes [K, R], int16, on the CPU, of weights in steps and in visiting order.

    U_KK: that of `gptq.Factor`, of inputs in units of the columns' steps. Every row is a path of its own.
    """
    width, rows = W_KR.shape
    U_KK, survivors = U_KK.cpu(), Survivors(rows)
    W_KN = np.tile(W_KR.cpu().numpy(), (1, STATES))  # N: places
    taken_KSR, codes_KSR = np.empty((width, STATES, rows), bool), np.empty((width, STATES, rows), np.int16)
    errors_BN, moved_BN = np.empty((2, min(block, width), STATES * rows))
    for begin in range(0, width, block):
        end = min(begin + block, width)
        first_N = np.arange(STATES * rows)  # whose weights, as they were when the block began, a survivor goes on with
        for column in range(begin, end):
            done = column - begin
            w_N = np.take(W_KN[column], first_N, mode="clip")
            w_N -= torch.mv(torch.from_numpy(errors_BN[:done]).T, U_KK[begin:column, column]).numpy()
            taken_SR, codes_KSR[column], error_SR = survivors.step(
                w_N.reshape(STATES, rows), float(U_KK[column, column])
            )
            taken_KSR[column], before_N = taken_SR, survivors.before(taken_SR)
            np.take(errors_BN[:done], before_N, axis=1, out=moved_BN[:done], mode="clip")
            moved_BN[done], first_N = error_SR.ravel(), first_N[before_N]
            errors_BN, moved_BN = moved_BN, errors_BN
        left_KN, settled_BN = np.take(W_KN[end:], first_N, axis=1, mode="clip"), errors_BN[: end - begin]
        W_KN[end:] = torch.from_numpy(left_KN).addmm_(U_KK[begin:end, end:].T, torch.from_numpy(settled_BN), alpha=-1)
    codes_KR, state_R = np.empty((width, rows), np.int16), survivors.cost_SR.argmin(axis=0)
    row_R = np.arange(rows)
    for column in reversed(range(width)):
        codes_KR[column] = codes_KSR[column, state_R, row_R]
        state_R = 2 * (state_R % 2) + taken_KSR[column, state_R, row_R]
    return torch.from_numpy(codes_KR)
