"""Quantizing a model that is too large to be calibrated at once: block after block, with the same codes."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from golf.contracts import QTensor, Role, Sink, emit
from golf.host import Host
from golf.quant import apply, report
from golf.quant.apply import QuantSpec
from golf.quant.clip import weighted_error
from golf.quant.grid import as_rows
from golf.quant.lockstep import Walk
from golf.quant.report import Row

# A matrix of more elements is quantized some rows at a time: in float64 the table of 150,000 tokens is 2 GB.
SLICE_ELEMENTS = 1 << 24
# For the time left: of what a weight costs, the share of reading calibration text, and what one costs that is only
# rounded. Measured on 261 M parameters.
READING, ROUNDED = 0.7, 0.05


@dataclass(frozen=True)
class Piece:
    """What has been finished together: a block, or a single tensor outside of all blocks."""

    name: str
    qtensors: dict[str, QTensor]
    rows: list[Row]


def quantize(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Sequence[Tensor],
    spec: QuantSpec,
    *,
    host: Host,
    sink: Sink,
    multiplier: float = 1.0,
    finished: Collection[str] = (),
    slice_elements: int = SLICE_ELEMENTS,
) -> Iterator[Piece]:
    """Pieces as they are finished. Every tensor of `weights` is in one of them; those named in `finished` are not
    made again, though batches still have to pass them.

    model: on the meta device; its hooks are taken and its controls filled in.
    weights: fetched one at a time, so that they may lie in a file.
    batches: ids [B, T] of calibration text; none are needed where no method asks for Hessians.
    multiplier: widens every grid's step.
    slice_elements: memory only; a matrix of more is quantized some rows at a time.
    Raises SpecError for a model that runs a block twice, and what `apply.quantize` raises.
    """
    roles = model.roles()
    walk = Walk(model, weights, batches, host)
    pieces = {block: [name for name in weights if name.startswith(f"{block}.")] for block in walk.blocks}
    inside = {name for names in pieces.values() for name in names}
    pieces |= {name: [name] for name in weights if name not in inside}
    todo = [piece for piece in pieces if piece not in finished]
    solved = {name for name in weights if spec.method(roles[name], weights[name].numel()).needs_hessian}

    def work(name: str) -> float:
        share = (1.0 if name in inside else 1 - READING) if name in solved else ROUNDED
        return share * weights[name].numel()

    costs = {piece: sum(map(work, pieces[piece])) for piece in pieces}
    bar = _Progress(sink, sum(costs[piece] for piece in todo))

    def finish(piece: str, hessians: Mapping[str, Tensor]) -> Piece:
        qtensors, rows = {}, []
        for name in pieces[piece]:
            W = weights[name].to(host.device)
            qtensors[name], row = _by_rows(name, W, roles[name], hessians.get(name), spec, multiplier, slice_elements)
            rows.append(row)
        todo.remove(piece)
        bar.finished(piece, costs[piece])
        return Piece(piece, qtensors, rows)

    wanted = solved & {name for piece in todo for name in pieces[piece]}
    rest: dict[str, Tensor] = {}
    if wanted:

        def passed(block: str, count: int) -> None:
            bar.reading(block, count / len(batches) * READING * costs[block] * (block in todo))

        for block, hessians in walk.run(wanted, passed):
            if block in todo:
                yield finish(block, hessians)
        rest = walk.rest()
    for piece in list(todo):
        yield finish(piece, rest)


def _by_rows(
    name: str,
    W: Tensor,
    role: Role,
    H_KK: Tensor | None,
    spec: QuantSpec,
    multiplier: float,
    slice_elements: int,
) -> tuple[QTensor, Row]:
    """One tensor and its row of the report, `slice_elements` at a time: rows do not depend on one another."""
    hessians = {} if H_KK is None else {name: H_KK}
    found, rows, energies = [], [], []
    large = W.ndim > 1 and W.numel() > slice_elements
    for part in W.tensor_split(-(-W.numel() // slice_elements)) if large else [W]:
        found.append(apply.quantize({name: part}, {name: role}, hessians, spec, multiplier)[name])
        rows += report.rows({name: part}, {name: found[-1]}, hessians)
        if not large:
            return found[0], rows[0]
        energies.append(weighted_error(as_rows(part.float()), part.new_zeros((), dtype=torch.float32), H_KK))
    parts = {part: np.concatenate([each.parts[part] for each in found]) for part in found[0].parts}
    sizes = [row.parameters for row in rows]
    whole = replace(
        rows[0],
        parameters=W.numel(),
        scale=float(np.average([row.scale for row in rows], weights=sizes)),
        bits=float(np.average([row.bits for row in rows], weights=sizes)),
        error=float(np.average([row.error for row in rows], weights=energies)) if any(energies) else 0.0,
    )
    return replace(found[0], shape=tuple(W.shape), parts=parts), whole


class _Progress:
    """Tells the sink how much of the work is done and how many seconds the rest will take."""

    def __init__(self, sink: Sink, total: float) -> None:
        self._sink, self._total, self._begin = sink, max(total, 1.0), time.monotonic()
        self._done = 0.0

    def reading(self, piece: str, extra: float) -> None:
        self._tell(piece, self._done + extra)

    def finished(self, piece: str, work: float) -> None:
        self._done += work
        self._tell(piece, self._done)

    def _tell(self, piece: str, done: float) -> None:
        elapsed = time.monotonic() - self._begin
        left = elapsed * (self._total - done) / done if done else None
        emit(self._sink, "layers", what=piece, done=done, total=self._total, seconds_left=left)
