"""Bytes against tax: one set of weights at many prices of loss."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from golf.contracts import DataError, QTensor, Sink, emit
from golf.publish.report.plots import library
from golf.quant.apply import QuantSpec, dequantize, quantize
from golf.quant.report import rows

# Multipliers of the spec's step, and calibration windows at most on which the divergence is measured.
MULTIPLIERS = tuple(2.0 ** (half / 2) for half in range(-4, 5))
WINDOWS = 16


@dataclass(frozen=True)
class Point:
    """bytes: of the artifact.  predicted: by curvature; None where the quantization knows none.  measured: divergence
    from the untouched model's predictions on calibration text. Nats per token, or bits per byte by `per_byte`."""

    multiplier: float
    bytes: int
    predicted: float | None
    measured: float

    def per_byte(self, tokens_per_byte: float) -> Point:
        factor = tokens_per_byte / math.log(2)
        predicted = None if self.predicted is None else self.predicted * factor
        return replace(self, predicted=predicted, measured=self.measured * factor)


@torch.no_grad()
def trace(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    known: Mapping[str, Any],
    spec: QuantSpec,
    batches: Sequence[Tensor],
    size_of: Callable[[dict[str, QTensor]], int],
    sink: Sink,
) -> list[Point]:
    """A point for each multiplier, the smallest artifact last. The model, on the CPU, ends with its own weights."""
    if not batches:
        raise DataError("a curve needs calibration text to measure on; name it with --calibration")
    roles, batches, points = model.roles(), batches[-WINDOWS:], []
    before = [model(ids_BT).log_softmax(dim=-1) for ids_BT in batches]
    for done, multiplier in enumerate(MULTIPLIERS):
        emit(sink, "score", done=done, total=len(MULTIPLIERS), what="curve")
        qtensors = quantize(weights, roles, known, spec, multiplier)
        model.load_state_dict(dequantize(qtensors))
        nats = sum(
            (log_BTV.exp() * (log_BTV - model(ids_BT).log_softmax(dim=-1))).sum(dtype=torch.float64).item()
            for log_BTV, ids_BT in zip(before, batches)
        )
        losses = [row.loss for row in rows(weights, qtensors, known)]
        predicted = None if None in losses else sum(losses)
        points.append(Point(multiplier, size_of(qtensors), predicted, nats / sum(map(Tensor.numel, batches))))
    model.load_state_dict(dict(weights))
    return points


def check(file: Path, reference: Path | None) -> None:
    """Raises DataError for a picture that could not be drawn, rather than after the work it is to show."""
    if file.suffix not in (".svg", ".png"):
        raise DataError(f"--curve {file} ends in neither .svg nor .png; name one of them")
    if reference is not None:
        reference_points(reference)
    library()


def draw(points: Sequence[Mapping[str, Any]], file: Path, reference: Path | None) -> None:
    """The curve as SVG or PNG, by the name of the file, beside the `reference.points` (bytes, tax) of a JSON file.
    Raises DataError when that holds none."""
    from matplotlib.figure import Figure

    library()
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    sizes = [point["bytes"] for point in points]
    axes.plot(sizes, [point["measured"] for point in points], "o-", label="measured on calibration text")
    if points[0]["predicted"] is not None:
        axes.plot(sizes, [point["predicted"] for point in points], "s--", label="predicted by curvature")
    if reference is not None:
        theirs = reference_points(reference)
        axes.plot([size for size, _ in theirs], [tax for _, tax in theirs], "D", label=reference.stem)
    axes.set(xlabel="bytes of the artifact", ylabel="tax, bits per byte", yscale="log")
    axes.xaxis.set_major_formatter(lambda size, _: f"{size:,.0f}")
    axes.locator_params(axis="x", nbins=6)
    axes.legend()
    axes.grid(alpha=0.3)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120, metadata={"Date": None} if file.suffix == ".svg" else None)


def reference_points(file: Path) -> list[tuple[int, float]]:
    """(bytes, tax) by rising bytes. Raises DataError when the file does not hold them."""
    try:
        found = json.loads(file.read_bytes())["reference"]["points"]
        return sorted((int(point["bytes"]), float(point["tax"])) for point in found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} holds no reference.points with bytes and tax ({error}); give another") from error
