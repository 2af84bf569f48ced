"""What rounding each tensor costs: foretold by curvature, and measured with that tensor alone as it is stored.

Costs are divergences of predictions from those of the untouched model, in bits per byte: what the score rises by where
the untouched model is right about the text. Windows that show a rise of the score itself only as noise show these.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.contracts import Sink, emit
from golf.host import Host
from golf.quant import fisher
from golf.quant.grid import as_rows

TOKENS = 4096  # of validation text, in windows spread over it
KEPT = 2**25  # numbers held of the untouched model's predictions: 128 MB
AT_ONCE = 1024  # tokens of a forward pass
RESOLVED = 1e-8  # bits per byte; what costs less is lost in the rounding of single precision
CURVED = 16_384  # tokens of calibration text read for curvature


@dataclass(frozen=True)
class Cost:
    """Of one tensor, in bits per byte. predicted: by curvature.  measured: None where the time was over before."""

    predicted: float
    measured: float | None


@dataclass
class Tax:
    """Costs by tensor.  together: measured with every tensor as stored.  rise: of the score on the same tokens.
    tokens: how many were read for a measurement.  seconds: what all of it took."""

    costs: dict[str, Cost] = field(default_factory=dict)
    together: float = 0.0
    rise: float = 0.0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def measured(self) -> dict[str, float]:
        return {name: cost.measured for name, cost in self.costs.items() if cost.measured is not None}


def windows(tokens_N: np.ndarray, width: int, vocab: int) -> Tensor:
    """Windows [B, T] of some text and their targets' place behind them: [B, T + 1], spread evenly over it."""
    most = min(TOKENS, KEPT // vocab)
    width = min(width, most, len(tokens_N) - 1)
    count = max(min(most // width, (len(tokens_N) - 1) // width), 1)
    starts = np.linspace(0, len(tokens_N) - 1 - width, count).astype(int)
    return torch.from_numpy(np.stack([tokens_N[start : start + width + 1] for start in starts]).astype(np.int64))


def assess(
    model: nn.Module,
    rounded: Mapping[str, Tensor],
    calibration: Iterable[Tensor],
    text_BT: Tensor,
    *,
    bytes_per_token: float,
    seconds: float,
    host: Host,
    sink: Sink,
) -> Tax:
    """Costs of the `rounded` weights against those the model holds, which it holds afterwards too.

    calibration: batches of ids [B, T] for curvature.  text_BT: windows with one target more.  Tensors are measured from
    the costliest prediction down until `seconds` are over.
    """
    begin, scale = time.monotonic(), 1 / (math.log(2) * bytes_per_token)
    untouched = {name: W.detach().clone() for name, W in model.named_parameters()}
    curvatures = fisher.collect(model, calibration, host=host).by_name
    predicted = {
        name: curvatures[name].loss(as_rows(W.float().cpu()) - as_rows(rounded[name].float())) * scale
        for name, W in untouched.items()
    }
    probe = _Probe(model, text_BT, host)
    measured: dict[str, float] = {}
    order = sorted(predicted, key=lambda name: -predicted[name])
    for place, name in enumerate(order):
        if time.monotonic() - begin > seconds:
            break
        emit(sink, "score", what="what rounding costs", done=place, total=len(order))
        measured[name] = probe.look({name: rounded[name]})[0] * scale
    together, rise = probe.look(rounded)
    return Tax(
        {name: Cost(predicted[name], measured.get(name)) for name in untouched},
        together * scale, rise * scale, probe.tokens, time.monotonic() - begin,
    )  # fmt: skip


class _Probe:
    """A model whose predictions on some windows are known; others of its weights are held against them."""

    def __init__(self, model: nn.Module, text_BT: Tensor, host: Host) -> None:
        self._model, self._host = model, host
        self._parameters = dict(model.named_parameters())
        rows = max(AT_ONCE // text_BT.shape[1], 1)
        self._texts = [part_BT.to(host.device) for part_BT in text_BT.split(rows)]
        self._known = [self._predict(part_BT) for part_BT in self._texts]
        self.tokens = text_BT.shape[0] * (text_BT.shape[1] - 1)

    @torch.no_grad()
    def _predict(self, part_BT: Tensor) -> Tensor:
        return F.log_softmax(self._model(part_BT[:, :-1]).float(), dim=-1)

    @torch.no_grad()
    def look(self, others: Mapping[str, Tensor]) -> tuple[float, float]:
        """Mean divergence and mean rise of the loss with other weights, in nats a token."""
        kept = {name: self._parameters[name].detach().clone() for name in others}
        self._place(others)
        moved = rise = 0.0
        for part_BT, known_BTV in zip(self._texts, self._known):
            found_BTV, targets_BT1 = self._predict(part_BT), part_BT[:, 1:, None]
            moved += (known_BTV.exp() * (known_BTV - found_BTV)).sum(-1).double().sum().item()
            rise += (known_BTV - found_BTV).gather(-1, targets_BT1).double().sum().item()
        self._place(kept)
        return max(moved, 0.0) / self.tokens, rise / self.tokens

    @torch.no_grad()
    def _place(self, weights: Mapping[str, Tensor]) -> None:
        for name, W in weights.items():
            self._parameters[name].copy_(W)
