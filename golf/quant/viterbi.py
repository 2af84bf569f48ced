"""The best path of every row through the trellis of `golf.quant.trellis`, found for many rows side by side.

Each state has a survivor, the cheapest path that ends there, which owes later columns the errors of its own past, as
GPTQ has it. Survivors of a row soon have all but their last columns in common: of codes DEPTH columns back the best of
them decides, as in any Viterbi decoder, and what their errors owe is one row's to pay and not each survivor's. Between
matrix products there are many small steps, for which NumPy takes a third of torch's time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# The next state by state and parity of the code. States 2 and 3 take the grid whose points but zero are half a step
# nearer to zero. The parity that is tried first is odd in states 1 and 3: so the first codes of states 0 and 1 both
# lead to state 0, of states 2 and 3 to state 1, and the second to states 2 and 3.
NEXT = ((0, 2), (2, 0), (1, 3), (3, 1))
STATES = len(NEXT)
# Columns after which codes are decided: many times as many as survivors need to meet.
DEPTH = 64
# Columns settled before survivors touch the rest of DEPTH: speed only.
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
        self._cost = np.empty((2, STATES, rows))

    def step(self, w_SR: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Go on by the weights of one column, in steps, whose squared errors count by `weight`; w_SR is overwritten.

        Which of two each new survivor came from [S, R], its code and its error, both [S, R].
        """
        (first_SR, second_SR), errors = self._found
        error_SR, other_SR = errors
        half_PR = np.copysign(0.5, w_SR[2:])
        w_SR[2:] += half_PR
        np.multiply(w_SR, 0.5, out=first_SR)
        first_SR[1::2] -= 0.5
        np.rint(first_SR, out=first_SR)
        first_SR *= 2
        first_SR[1::2] += 1
        zero_PR = np.abs(w_SR[2:]) < 1.25  # where the grid's gap around zero has the even code nearest
        np.copyto(first_SR[2], 0, where=zero_PR[0])
        np.subtract(w_SR, first_SR, out=error_SR)
        np.add(first_SR, np.copysign(1.0, error_SR), out=second_SR)
        np.copyto(second_SR[3], 0, where=zero_PR[1])
        np.subtract(w_SR, second_SR, out=other_SR)
        # Zero lies where it lies on either grid.
        half_PR *= zero_PR
        error_SR[2] -= half_PR[0]
        other_SR[3] -= half_PR[1]
        cost = np.multiply(errors, errors, out=self._cost)
        cost *= weight
        cost += self.cost_SR
        one, other = np.moveaxis(cost.reshape(STATES, 2, self.rows), 1, 0)
        taken_SR = other < one
        np.minimum(one, other, out=self.cost_SR)
        one, other = np.moveaxis(self._found.reshape(2, STATES, 2, self.rows), 2, 0)
        return taken_SR, *np.where(taken_SR, other, one)

    def before(self, taken_SR: np.ndarray) -> np.ndarray:
        """Places of the survivors that those after a step came from, flat."""
        return (self._before_SR + taken_SR * self.rows).ravel()

    def decide(self, place_N: np.ndarray) -> np.ndarray:
        """Of the places that survivors came from, the best one's, by row; those that came from others are given up."""
        place_SR = place_N.reshape(STATES, self.rows)
        best_R = np.take_along_axis(place_SR, self.cost_SR.argmin(axis=0)[None], axis=0)[0]
        self.cost_SR[place_SR != best_R] = np.inf
        return best_R


def path(W_KR: Tensor, U_KK: Tensor, block: int = BLOCK) -> Tensor:
    """Codes [K, R], int16, on the CPU, of weights in steps and in visiting order.

    U_KK: that of `gptq.Factor`, of inputs in units of the columns' steps. Every row is a path of its own.
    """
    width, rows = W_KR.shape
    U_KK, survivors = U_KK.cpu(), Survivors(rows)
    weight_K = U_KK.diagonal().square().reciprocal().tolist()
    U_KK = U_KK / U_KK.diagonal()[:, None]
    left_KR, places = W_KR.cpu().clone(memory_format=torch.contiguous_format), STATES * rows  # N: places
    taken_KSR, codes_KSR = np.empty((width, STATES, rows), bool), np.empty((width, STATES, rows), np.int16)
    errors_BN, moved_BN = np.empty((2, min(block, DEPTH, width), places))
    last = None  # columns not decided yet, as the survivors had them when the ones after them began
    for begin in range(0, width, DEPTH):
        end = min(begin + DEPTH, width)
        W_DN, errors_DN = left_KR[begin:end].repeat(1, STATES), np.empty((end - begin, places))
        if last is not None:
            W_DN.addmm_(U_KK[begin - DEPTH : begin, begin:end].T, torch.from_numpy(last), alpha=-1)
        place_N = np.arange(places)  # where survivors stood when these columns began
        for start in range(begin, end, block):
            stop, done = min(start + block, end), start - begin
            w_BN = np.take(W_DN.numpy()[done : stop - begin], place_N, axis=1, mode="clip")
            paid_DN = torch.from_numpy(errors_DN[:done])
            torch.from_numpy(w_BN).addmm_(U_KK[begin:start, start:stop].T, paid_DN, alpha=-1)
            first_N = np.arange(places)
            for column in range(start, stop):
                now = column - start
                w_1N = np.take(w_BN[now : now + 1], first_N, axis=1, mode="clip")
                owed = torch.from_numpy(errors_BN[:now])
                torch.from_numpy(w_1N).addmm_(U_KK[start:column, column][None], owed, alpha=-1)
                taken_KSR[column], codes_KSR[column], error_SR = survivors.step(
                    w_1N.reshape(STATES, rows), weight_K[column]
                )
                before_N = survivors.before(taken_KSR[column])
                np.take(errors_BN[:now], before_N, axis=1, out=moved_BN[:now], mode="clip")
                moved_BN[now], first_N = error_SR.ravel(), first_N[before_N]
                errors_BN, moved_BN = moved_BN, errors_BN
            errors_DN[:done] = np.take(errors_DN[:done], first_N, axis=1, mode="clip")
            errors_DN[done : stop - begin], place_N = errors_BN[: stop - start], place_N[first_N]
        if last is not None:
            settled_DR = torch.from_numpy(last[:, survivors.decide(place_N)])
            left_KR[end:].addmm_(U_KK[begin - DEPTH : begin, end:].T, settled_DR, alpha=-1)
        last = errors_DN
    codes_KR, state_R = np.empty((width, rows), np.int16), survivors.cost_SR.argmin(axis=0)
    row_R = np.arange(rows)
    for column in reversed(range(width)):
        place_R = state_R * rows + row_R
        codes_KR[column] = codes_KSR[column].ravel()[place_R]
        state_R = 2 * (state_R % 2) + taken_KSR[column].ravel()[place_R]
    return torch.from_numpy(codes_KR)
