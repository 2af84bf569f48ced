"""`golf.quant.viterbi` for many matrices at once, on the device they are on.

The same path of the same survivors, in torch. A step is some thirty kernels whatever they work on, so a device is only
busy when all matrices of a shape take it together; on a CPU this takes three times as long as NumPy.

M counts matrices, N the places of survivors: state times R, plus row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from golf.quant import viterbi
from golf.quant.viterbi import BLOCK, STATES


def path(W_MKR: Tensor, U_MKK: Tensor, block: int = BLOCK) -> Tensor:
    """Codes [M, K, R], int16, of weights in steps and in visiting order; each matrix has its own U."""
    many, width, rows = W_MKR.shape
    device, depth, places = W_MKR.device, viterbi.DEPTH, STATES * rows
    diagonal_MK = U_MKK.diagonal(dim1=1, dim2=2)
    weight_KM1 = diagonal_MK.square().reciprocal().T[:, :, None]
    U_MKK = U_MKK / diagonal_MK[:, :, None]
    left_MKR, own_MN = W_MKR.clone(), torch.arange(places, device=device).expand(many, places)
    before_MPR = own_MN.view(many, 2, 2, rows)[:, :, 0]
    cost_MN = W_MKR.new_full((many, places), torch.inf)
    cost_MN[:, :rows] = 0
    taken_KMN = torch.empty(width, many, places, dtype=torch.bool, device=device)
    codes_KMN = torch.empty(width, many, places, dtype=torch.int16, device=device)
    last = None
    for begin in range(0, width, depth):
        end = min(begin + depth, width)
        W_MDN = left_MKR[:, begin:end].repeat(1, 1, STATES)
        if last is not None:
            W_MDN.baddbmm_(U_MKK[:, begin - depth : begin, begin:end].mT, last, alpha=-1)
        errors_MDN, place_MN = torch.empty_like(W_MDN), own_MN
        for start in range(begin, end, block):
            stop, done = min(start + block, end), start - begin
            w_MBN = _moved(W_MDN[:, done : stop - begin], place_MN)
            w_MBN.baddbmm_(U_MKK[:, begin:start, start:stop].mT, errors_MDN[:, :done], alpha=-1)
            errors_MBN, first_MN = torch.empty_like(w_MBN), own_MN
            for column in range(start, stop):
                now = column - start
                w_M1N = _moved(w_MBN[:, now : now + 1], first_MN)
                w_M1N.baddbmm_(U_MKK[:, start:column, column : column + 1].mT, errors_MBN[:, :now], alpha=-1)
                taken_MN, codes_MN, error_MN, cost_MN = step(
                    w_M1N.view(many, STATES, rows), cost_MN, weight_KM1[column]
                )
                taken_KMN[column], codes_KMN[column] = taken_MN, codes_MN
                before_MN = (before_MPR.repeat(1, 2, 1) + rows * taken_MN.view(many, STATES, rows)).view(many, places)
                errors_MBN[:, :now] = _moved(errors_MBN[:, :now], before_MN)
                errors_MBN[:, now] = error_MN
                first_MN = first_MN.gather(1, before_MN)
            errors_MDN[:, :done] = _moved(errors_MDN[:, :done], first_MN)
            errors_MDN[:, done : stop - begin] = errors_MBN
            place_MN = place_MN.gather(1, first_MN)
        if last is not None:
            came_MSR, cost_MSR = place_MN.view(many, STATES, rows), cost_MN.view(many, STATES, rows)
            best_M1R = came_MSR.gather(1, cost_MSR.argmin(dim=1, keepdim=True))
            cost_MN = cost_MSR.masked_fill(came_MSR != best_M1R, torch.inf).view(many, places)
            settled_MDR = _moved(last, best_M1R[:, 0])
            left_MKR[:, end:].baddbmm_(U_MKK[:, begin - depth : begin, end:].mT, settled_MDR, alpha=-1)
        last = errors_MDN
    codes_MKR = torch.empty(many, width, rows, dtype=torch.int16, device=device)
    state_MR, row_R = cost_MN.view(many, STATES, rows).argmin(dim=1), torch.arange(rows, device=device)
    for column in reversed(range(width)):
        place_MR = state_MR * rows + row_R
        codes_MKR[:, column] = codes_KMN[column].gather(1, place_MR)
        state_MR = 2 * (state_MR % 2) + taken_KMN[column].gather(1, place_MR)
    return codes_MKR


def step(w_MSR: Tensor, cost_MN: Tensor, weight_M1: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `Survivors.step`: which of two each new survivor came from, its code, its error and its cost, [M, N] each."""
    half_MPR = torch.copysign(torch.full_like(w_MSR[:, 2:], 0.5), w_MSR[:, 2:])
    w_MSR[:, 2:] += half_MPR
    first_MSR = w_MSR * 0.5
    first_MSR[:, 1::2] -= 0.5
    first_MSR.round_().mul_(2)
    first_MSR[:, 1::2] += 1
    zero_MPR = w_MSR[:, 2:].abs() < 1.25
    first_MSR[:, 2].masked_fill_(zero_MPR[:, 0], 0)
    error_MSR = w_MSR - first_MSR
    second_MSR = first_MSR + torch.copysign(torch.ones_like(error_MSR), error_MSR)
    second_MSR[:, 3].masked_fill_(zero_MPR[:, 1], 0)
    other_MSR = w_MSR - second_MSR
    half_MPR *= zero_MPR
    error_MSR[:, 2] -= half_MPR[:, 0]
    other_MSR[:, 3] -= half_MPR[:, 1]
    many, _, rows = w_MSR.shape
    apart = many, 2, 2, 2, rows  # codes, pair of states before, which of the pair
    errors = torch.stack([error_MSR, other_MSR], 1).view(apart)
    codes = torch.stack([first_MSR, second_MSR], 1).view(apart)
    cost = errors.square() * weight_M1[:, :, None, None, None] + cost_MN.view(many, 1, 2, 2, rows)
    taken = cost[:, :, :, 1] < cost[:, :, :, 0]
    chosen = (torch.where(taken, both[:, :, :, 1], both[:, :, :, 0]) for both in (codes, errors, cost))
    return taken.view(many, -1), *(part.reshape(many, -1) for part in chosen)


def _moved(x_MDN: Tensor, place_MN: Tensor) -> Tensor:
    return x_MDN.gather(2, place_MN[:, None].expand(-1, x_MDN.shape[1], -1))
