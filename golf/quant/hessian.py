"""Hessians of every hooked layer: what inputs its weight meets when the model reads calibration text."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from golf.contracts import HessianError, Hessians, named_hooks
from golf.host import Host, eagerly


def collect(model: nn.Module, batches: Iterable[Tensor], *, host: Host) -> Hessians:
    """Mean of x xT over calibration tokens, for every layer that uses its weight as a matrix.

    batches: ids [B, T] of this rank's share, taken one at a time; every rank ends with the sums over all ranks.
    A layer that runs several times a token (a loop) adds up its passes: all of them suffer from its rounding.
    The model runs eagerly, because hooks see nothing inside a compiled graph, in the number type scoring uses; sums
    are float32. Hooks are detached again whatever happens. Raises HessianError without a single token.
    """
    layers = dict(named_hooks(model))
    sums = {name: _square(layer.weight.shape[-1], host) for name, layer in layers.items()}
    # One tensor, so that one all-reduce tells every rank which layers were reached at all, and how many tokens.
    counts = torch.zeros(len(layers) + 1, dtype=torch.int64, device=host.device)

    def watcher(place: int, sum_KK: Tensor):
        def watch(x: Tensor) -> None:
            x_NK = x.reshape(-1, x.shape[-1]).float()
            with torch.autocast(host.device.type, enabled=False):
                sum_KK.addmm_(x_NK.T, x_NK)
            counts[place] += len(x_NK)

        return watch

    half = torch.autocast(host.device.type, host.compute_dtype, enabled=host.compute_dtype != torch.float32)
    try:
        for place, (name, layer) in enumerate(layers.items()):
            layer.watch = watcher(place, sums[name])
        with torch.no_grad(), eagerly(), half:
            for ids_BT in batches:
                model(ids_BT.to(host.device))
                counts[-1] += ids_BT.numel()
    finally:
        for layer in layers.values():
            layer.watch = None
    *seen, tokens = host.sum(counts).tolist()
    if not tokens:
        raise HessianError("calibration read 0 tokens and needs at least 1; raise Calibration.sequences")
    means = {name: host.sum(sums[name]).div_(tokens) for name in layers}
    return Hessians({name: means[name] for name, rows in zip(layers, seen) if rows}, tokens)


def _square(width: int, host: Host) -> Tensor:
    return torch.zeros(width, width, dtype=torch.float32, device=host.device)
