"""Rounding that looks further than the next column: several ways to round a row are kept until its end.

GPTQ takes the nearest code of one column after the other and leaves later columns to make up for the error. It is
greedy: a code that is a little worse now can leave a better rest. So of every row the best few beginnings live on, as
in a sphere decoder, and the best end wins; on two grids that take turns, the best few in each state of the trellis.
What single codes can still better is bettered by descent (`golf.quant.descent`). Only how codes are found is new: what
is stored is a tensor of `waterfill` or `trellis`, and is read as one.

Source: the M-algorithm, Anderson and Mohan 1984; on lattices, Guo and Nilsson, "K-best sphere decoding", 2006.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from golf.contracts import QTensor, SpecError
from golf.quant import trellis
from golf.quant.descent import descend
from golf.quant.fisher import Curvature
from golf.quant.grid import as_rows, power_step
from golf.quant.trellis import WAYS, Trellis, round_on_two
from golf.quant.waterfill import WIDE, pack, quarters

# Columns settled before survivors touch the rest, and rows searched side by side: speed only.
BLOCK, ROWS = 16, 256
# One grid is a trellis of one state, which both the nearest and the next nearest code lead back to.
ONE_STATE = ((0, 1),)

Nearest = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Beam(Trellis):
    """`Waterfill` and `Trellis`, searched.

    survivors: beginnings of a row that are kept, on two grids a quarter of them in each state; time grows with them.
    grids: 2, where a tensor is not mostly zeros, or 1 for all.
    sweeps: of descent over the codes of one grid.  rate: what descent pays for a bit, as a share of the price at which
        steps trade loss for bits.
    """

    survivors: int = 16
    grids: int = 2
    sweeps: int = 2
    rate: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.survivors < 1 or (self.grids == 2 and self.survivors % len(WAYS)):
            raise SpecError(
                f"survivors={self.survivors} must be at least 1, on two grids a multiple of {len(WAYS)}; 16 is usual"
            )
        if self.grids not in (1, 2):
            raise SpecError(f"grids={self.grids} is neither 1 nor 2")
        if self.sweeps < 0 or self.rate < 0:
            raise SpecError(f"sweeps={self.sweeps} and rate={self.rate} cannot be negative; 0 leaves codes as found")

    def round(self, W: Tensor, curvature: Curvature, step: float) -> QTensor:
        if self.grids == 1:
            return self.on_one(W, curvature, step)
        return round_on_two(W, curvature, step, self._path, self.on_one)

    def together(
        self, weights: Mapping[str, Tensor], hessians: Mapping[str, Curvature], multiplier: float
    ) -> dict[str, QTensor]:
        """One after the other: so many survivors keep a device busy."""
        return self.side_by_side(weights, hessians, multiplier)

    def on_one(self, W: Tensor, curvature: Curvature, step: float) -> QTensor:
        """As `waterfill.round_tensor`, whose codes it returns with one survivor and no sweeps."""
        W_RK = as_rows(W).double()
        rows, columns = quarters(W_RK, curvature, step)
        if columns is None:
            return trellis.round_tensor(W, curvature, step)
        factor, steps_K = curvature.factor, power_step(columns).double()
        scaled_KR = (W_RK / steps_K / power_step(rows).double()[:, None]).T.masked_fill(factor.dead_K[:, None], 0)
        visited_KR, U_KK = scaled_KR[factor.order_K], factor.U_KK / steps_K[factor.order_K]
        codes_KR = searched(visited_KR, U_KK, two_nearest, ONE_STATE, self.survivors)
        if self.sweeps:
            codes_KR = descend(codes_KR, visited_KR, U_KK, self.sweeps, self.rate)
        codes_RK = torch.empty_like(W_RK)
        codes_RK[:, factor.order_K] = codes_KR.T
        return pack(W, codes_RK, {"rows": rows, "columns": columns})

    def _path(self, W_KR: Tensor, U_KK: Tensor) -> Tensor:
        return searched(W_KR, U_KK, trellis.nearest, WAYS, self.survivors // len(WAYS)).short()


def two_nearest(w_SR: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest code and the one on the weight's other side [1, 2, R], and where they lie, which is the same."""
    code_SR = w_SR.round().clamp(-WIDE.limit, WIDE.limit)
    beside_SR = torch.where(w_SR > code_SR, 1.0, -1.0).to(w_SR).add_(code_SR).clamp_(-WIDE.limit, WIDE.limit)
    codes_SCR = torch.stack([code_SR, beside_SR], 1)
    return codes_SCR, codes_SCR


def searched(W_KR: Tensor, U_KK: Tensor, nearest: Nearest, ways: Sequence[Sequence[int]], keep: int) -> Tensor:
    """`search` for a piece of the rows at a time."""
    pieces = W_KR.split(ROWS, dim=1)
    return torch.cat([search(piece_KR, U_KK, nearest, ways, keep) for piece_KR in pieces], dim=1)


def search(
    W_KR: Tensor, U_KK: Tensor, nearest: Nearest, ways: Sequence[Sequence[int]], keep: int, block: int = BLOCK
) -> Tensor:
    """Codes [K, R] of weights in steps and in visiting order, whose errors later columns make up for.

    U_KK: that of `gptq.Factor`, of inputs in units of the columns' steps.  nearest: two codes for each state's weights
    [S, R], and where they lie, [S, 2, R] each.  ways: the two ways into each state, as twice the state before plus the
    number of the code.  keep: survivors in each state, P of them in all. The first state is where rows begin.
    """
    width, rows = W_KR.shape
    states, ways_S2 = len(ways), torch.tensor(ways, device=W_KR.device)
    kept = states * keep
    cost_PR = W_KR.new_full((kept, rows), torch.inf)
    cost_PR[0] = 0
    own_PR = torch.arange(kept, device=W_KR.device)[:, None].expand(kept, rows)
    state_S11 = torch.arange(states, device=W_KR.device)[:, None, None]
    W_KPR = W_KR[:, None].expand(width, kept, rows)
    from_KPR = torch.empty(width, kept, rows, dtype=torch.int16, device=W_KR.device)
    codes_KPR = W_KR.new_empty(width, kept, rows)
    for begin in range(0, width, block):
        end = min(begin + block, width)
        errors_BPR = W_KR.new_empty(end - begin, kept, rows)
        first_PR = own_PR  # whose weights, as they were when the block began, a survivor goes on with
        for column in range(begin, end):
            done = column - begin
            owed_PR = (U_KK[begin:column, column] @ errors_BPR[:done].flatten(1)).view(kept, rows)
            w_PR = W_KPR[done].gather(0, first_PR) - owed_PR
            codes_SCN, levels_SCN = nearest(w_PR.view(states, keep * rows))
            errors_SCN = (w_PR.view(states, 1, keep * rows) - levels_SCN) / U_KK[column, column]
            all_SCN = errors_SCN.square().add_(cost_PR.view(states, 1, keep * rows))
            best_SLR = all_SCN.flatten(0, 1)[ways_S2].view(states, 2 * keep, rows).topk(keep, dim=1, largest=False)
            cost_PR, place_SLR = best_SLR.values.view(kept, rows), best_SLR.indices
            taken_SLR = ways_S2[state_S11, place_SLR // keep] * keep + place_SLR % keep
            before_PR = (taken_SLR // (2 * keep) * keep + taken_SLR % keep).view(kept, rows)
            taken_PR = taken_SLR.view(kept, rows)
            from_KPR[column] = before_PR
            codes_KPR[column] = codes_SCN.reshape(-1, rows).gather(0, taken_PR)
            errors_BPR[:done] = errors_BPR[:done].gather(1, before_PR.expand(done, kept, rows))
            errors_BPR[done] = errors_SCN.reshape(-1, rows).gather(0, taken_PR)
            first_PR = first_PR.gather(0, before_PR)
        left_KPR = W_KPR[end - begin :].gather(1, first_PR.expand(width - end, kept, rows))
        owed_KPR = (U_KK[begin:end, end:].T @ errors_BPR.flatten(1)).view_as(left_KPR)
        W_KPR = left_KPR.sub_(owed_KPR)
    codes_KR, here_1R = torch.empty_like(W_KR), cost_PR.argmin(dim=0)[None]
    for column in reversed(range(width)):
        codes_KR[column] = codes_KPR[column].gather(0, here_1R)[0]
        here_1R = from_KPR[column].gather(0, here_1R).long()
    return codes_KR
