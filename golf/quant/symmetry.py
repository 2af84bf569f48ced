"""Symmetries put to use: of all weights that compute the same, those whose steps and codes take the fewest bytes.

Hidden units, heads and entries of heads come in the order of their steps, so that exponents, and with them the levels
of codes, lie beside others like them, in runs. Gains behind a matrix take over the exponents of its rows. Neither
changes a code but in its place, so the loss is what it was. Factors between columns and what feeds them would change
what damping makes of the inputs, and they cost more than they save: those stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from golf.contracts import Side, Symmetry
from golf.quant.fisher import Curvature
from golf.quant.grid import as_rows
from golf.quant.waterfill import quarters

# Octaves of curvature from the median beyond which a row keeps a step of its own: one that never mattered, as a rule.
FAR = 8


def settle(
    weights: Mapping[str, Tensor], known: Mapping[str, Curvature], symmetries: Sequence[Symmetry]
) -> tuple[dict[str, Tensor], dict[str, Curvature]]:
    """Weights that compute the same, and their curvature. A symmetry of what is not there, or has no curvature of its
    inputs, is left alone."""
    weights, known = dict(weights), dict(known)
    for symmetry in symmetries:
        if any(side.name not in known for side in symmetry.sides):
            continue
        order, factor = torch.arange(symmetry.units), torch.ones(symmetry.units, dtype=torch.float64)
        row, column = (_first(known, symmetry, axis) for axis in (0, 1))
        if symmetry.order and (row or column):
            # Exponents of columns are the same whatever the step of the model, those of rows only have an order.
            if row:
                order = torch.argsort(_rows(known, row, symmetry.units), descending=True, stable=True)
            if column:
                exponents = _columns(weights, known, column, symmetry.units)
                order = order[torch.argsort(exponents[order], stable=True)]
        elif row and not symmetry.order and not column:
            octaves = _rows(known, row, symmetry.units).double().log2()
            factor = torch.exp2((octaves - octaves.median()).clamp(-FAR, FAR) / (2 * row.power))
        else:
            continue
        known = bend(known, weights, symmetry, order, factor)
        weights = act(weights, symmetry, order, factor)
    return weights, known


def act(weights: Mapping[str, Tensor], symmetry: Symmetry, order: Tensor, factor: Tensor) -> dict[str, Tensor]:
    """Weights that compute the same: unit n is what was unit order[n], times factor[n] to each side's power."""
    found = dict(weights)
    for side in symmetry.sides:
        found[side.name] = _along(found[side.name], side, order, factor**side.power)
    return found


def bend(
    known: Mapping[str, Curvature], weights: Mapping[str, Tensor], symmetry: Symmetry, order: Tensor, factor: Tensor
) -> dict[str, Curvature]:
    """The curvature of what `act` makes of the weights: where a weight grows, the loss minds its errors less."""
    found = dict(known)
    for side in symmetry.sides:
        curvature, less = found[side.name], factor**-side.power
        rows_R, inputs_KK = curvature.rows_R, curvature.inputs_KK
        if side.axis < weights[side.name].ndim - 1:
            rows_R = _along(rows_R, side, order, less.square())
        elif inputs_KK is None:  # only the mean over columns is known
            rows_R = rows_R * less.square().mean().to(rows_R)
        else:
            inputs_KK = _along(_along(inputs_KK, replace(side, axis=0), order, less), side, order, less)
            typical = inputs_KK.diagonal().mean()
            rows_R, inputs_KK = rows_R * typical, inputs_KK / typical
        found[side.name] = Curvature(curvature.name, inputs_KK, rows_R)
    return found


def _along(W: Tensor, side: Side, order: Tensor, factor: Tensor) -> Tensor:
    """A tensor whose units along one side have new places and factors."""
    order, factor = order.to(W.device), factor.to(W)
    places = (side.begin + side.block * order[:, None] + torch.arange(side.block, device=W.device)).flatten()
    shape = [-1 if axis == side.axis else 1 for axis in range(W.ndim)]
    moved = W.index_select(side.axis, places) * factor.repeat_interleave(side.block).view(shape)
    begin = torch.arange(side.begin, side.begin + len(places), device=W.device)
    return W.index_copy(side.axis, begin, moved)


def _first(known: Mapping[str, Curvature], symmetry: Symmetry, axis: int) -> Side | None:
    """The first side along an axis of a matrix whose units are single rows or columns."""
    sides = (side for side in symmetry.sides if known[side.name].inputs_KK is not None)
    return next((side for side in sides if side.axis == axis and side.block == 1), None)


def _rows(known: Mapping[str, Curvature], side: Side, units: int) -> Tensor:
    """Curvature of the units' rows, on the CPU."""
    return known[side.name].rows_R[side.begin : side.begin + units].cpu()


def _columns(weights: Mapping[str, Tensor], known: Mapping[str, Curvature], side: Side, units: int) -> Tensor:
    """Exponents of the units' columns, on the CPU."""
    W_RK = as_rows(weights[side.name]).to(known[side.name].rows_R.device)
    exponents = quarters(W_RK.double(), known[side.name], 1.0)[1]
    return exponents[side.begin : side.begin + units].cpu()
