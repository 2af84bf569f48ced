"""Learning after rounding: gains, gates and mixes move until the rounded model predicts as the untouched one does.

Codes of matrices and tables stay as they are. The few weights that are no matrices cost next to nothing in the
artifact, whatever they are, and make up for part of what rounding did to all others together.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import cycle, islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from golf.contracts import Role, Sink, emit
from golf.host import Host
from golf.quant.abreast import ahead

# The rate is in units of a tensor's root mean square; it rises over WARMUP steps and then falls to zero.
RATE, BETAS, WARMUP = 3e-3, (0.9, 0.98), 5


def refine(
    model: nn.Module,
    rounded: Mapping[str, Tensor],
    batches: Sequence[Tensor],
    *,
    steps: int,
    host: Host,
    sink: Sink,
) -> dict[str, Tensor]:
    """Control tensors for the `rounded` weights, float32, by name.

    The model holds the untouched weights, whose predictions on the batches of ids [B, T] are what is learned; it is
    left as it was. A step takes one batch. The same arguments give the same tensors.
    """
    before, teacher = {name: W.detach() for name, W in model.named_parameters()}, copy.deepcopy(model)
    moving = {name: role is Role.CONTROL and before[name].numel() > 0 for name, role in model.roles().items()}
    fixed = {name: rounded[name].to(host.device) for name, moves in moving.items() if not moves}
    learned = {name: rounded[name].to(host.device).clone() for name, moves in moving.items() if moves}
    groups = [
        {"params": [W.requires_grad_()], "rate": RATE * W.detach().square().mean().sqrt().item()}
        for W in learned.values()
    ]
    if not groups or not batches:
        return {}
    optimizer = torch.optim.Adam(groups, lr=0.0, betas=BETAS)
    half = partial(torch.autocast, host.device.type, host.compute_dtype, host.compute_dtype != torch.float32)

    def taught(ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        ids_BT = ids_BT.to(host.device)
        with torch.no_grad(), half():
            return ids_BT, teacher(ids_BT).float().softmax(dim=-1)

    for step, (ids_BT, wanted_BTV) in enumerate(ahead(taught, islice(cycle(batches), steps))):
        emit(sink, "calibrate", done=step, total=steps, what="learning after rounding")
        with torch.enable_grad(), half():
            logits_BTV = functional_call(model, fixed | learned, (ids_BT,)).float()
            loss = F.cross_entropy(logits_BTV.flatten(0, 1), wanted_BTV.flatten(0, 1))
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * min((step + 1) / WARMUP, 1) * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: W.detach() for name, W in learned.items()}
