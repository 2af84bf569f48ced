"""Where an artifact's bytes went, and what rounding did to each tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from golf.contracts import QTensor
from golf.pack import container
from golf.quant import report
from golf.quant.clip import deviation, weighted_error
from golf.quant.grid import as_rows

HALVINGS = 14  # of the bracket around a step: its entropy is then within a thousandth of a bit


@dataclass(frozen=True)
class StreamBytes:
    """One stream of the file. entropy: bytes that an ideal coder needs that knows each tensor's own histogram and
    nothing else; 0 for floats, whose histogram says little."""

    what: str
    codec: str
    symbols: int
    bytes: int
    entropy: float


@dataclass(frozen=True)
class TensorBytes:
    """One tensor. bytes: its share of the streams it lies in, split among their tensors by entropy (floats: by
    size), so an estimate.  error: share of the output's energy that rounding moved, by the Hessian where
    `weighted`.  nearest: the same for rounding to nearest with as many bits; None for floats."""

    name: str
    role: str
    method: str
    parameters: int
    bytes: float
    bits: float
    error: float
    nearest: float | None
    weighted: bool


def streams(data: bytes) -> list[StreamBytes]:
    """Every stream, then what is neither: header, checksum."""
    _, qtensors = container.load(data)
    found, coded = [], 0
    for entry, parts in container.contents(data):
        arrays = [(name, part, qtensors[name].parts[part]) for name, part in parts]
        roles = dict.fromkeys(qtensors[name].role if entry.alphabet else part for name, part, _ in arrays)
        names = dict.fromkeys(part for _, part, _ in arrays)
        kind = f"alphabet {entry.alphabet}" if entry.alphabet else entry.type.replace("f", "float").replace("2", "16")
        kind += f", rows of {entry.width}" if entry.width else ""
        what = f"{', '.join(roles)}: {', '.join(names)}, {kind}" if entry.alphabet else f"{', '.join(names)}, {kind}"
        ideal = sum(array.size * report.entropy(array) / 8 for _, _, array in arrays) if entry.alphabet else 0.0
        symbols = sum(array.size for _, _, array in arrays)
        found.append(StreamBytes(what, entry.codec, symbols, entry.bytes, ideal))
        coded += entry.bytes
    return [*found, StreamBytes("header and checksum", "json", 0, len(data) - coded, 0.0)]


def tensors(data: bytes, weights: Mapping[str, Tensor], hessians: Mapping[str, Tensor]) -> list[TensorBytes]:
    """Every tensor, in the artifact's order."""
    _, qtensors = container.load(data)
    shares = _shares(data, qtensors)
    found = []
    for row in report.rows(weights, qtensors, hessians):
        H_KK, coded = hessians.get(row.name), bool(qtensors[row.name].alphabets)
        nearest = rounded_error(as_rows(weights[row.name].float()), H_KK, row.bits) if coded else None
        size = shares[row.name]
        found.append(
            TensorBytes(row.name, row.role, row.method, row.parameters, size, 8 * size / max(row.parameters, 1),
                        row.error, nearest, H_KK is not None)
        )  # fmt: skip
    return found


def _shares(data: bytes, qtensors: Mapping[str, QTensor]) -> dict[str, float]:
    shares = dict.fromkeys(qtensors, 0.0)
    for entry, parts in container.contents(data):
        sizes = []
        for name, part in parts:
            array = qtensors[name].parts[part]
            sizes.append(array.size * report.entropy(array) if entry.alphabet else float(array.nbytes))
        whole = sum(sizes)
        for (name, _), size in zip(parts, sizes):
            shares[name] += entry.bytes * (size / whole if whole else 1 / len(parts))
    return shares


def rounded_error(W_RK: Tensor, H_KK: Tensor | None, bits: float) -> float:
    """The error of plain rounding to multiples of a step at an entropy of `bits` a weight; the step of a row is
    proportional to its standard deviation. What a method is worth is what it has less than this."""
    deviation_R1 = deviation(W_RK).clamp_min(torch.finfo(torch.float32).tiny)
    low, high = -12.0, 6.0  # log2 of steps in deviations: more than 12 bits a weight, and all zeros
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        codes_RK = (W_RK / (deviation_R1 * 2.0**middle)).round()
        low, high = (middle, high) if _entropy(codes_RK) > bits else (low, middle)
    step_R1 = deviation_R1 * 2.0**high
    whole = weighted_error(W_RK, W_RK.new_zeros(()), H_KK)
    return weighted_error(W_RK, (W_RK / step_R1).round() * step_R1, H_KK) / whole if whole else 0.0


def _entropy(codes_RK: Tensor) -> float:
    return report.entropy(codes_RK.to(torch.int32).numpy().astype(np.int32).ravel())
