"""Learning after rounding: gains, gates and mixes move until the rounded model predicts as the untouched one does.

Codes of matrices and tables stay as they are. The few weights that are no matrices cost next to nothing in the
artifact, whatever they are, and make up for part of what rounding did to all others together. How well they do is a
matter of how much text a step reads, so each step takes a batch for every part of `abreast`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from golf.contracts import Role, Sink, emit
from golf.host import Host
from golf.quant import abreast

# Of Adam. The rate is in units of a tensor's root mean square; it rises over WARMUP steps and then falls to zero.
RATE, BETAS, WARMUP, TINY = 3e-3, (0.9, 0.98), 5, 1e-8
# Of predictions kept from an earlier reading; others are made again.
KEPT_BYTES = 256_000_000

Answers = dict[bytes, Tensor]


@contextmanager
def overheard(model: nn.Module, batches: Sequence[Tensor]) -> Iterator[Answers]:
    """What the model says within, on the CPU, to the first batches of ids [B, T], all of one size: logits [B, T, V] by
    `key`, as many as there is room for."""
    found: Answers = {}
    places = {key(ids_BT): place for place, ids_BT in enumerate(batches)}

    def keep(_: nn.Module, asked: tuple[Tensor], logits_BTV: Tensor) -> None:
        if logits_BTV.device.type == "cpu":
            name, room = key(asked[0]), KEPT_BYTES // logits_BTV.nbytes
            if places.get(name, room) < room:
                found[name] = logits_BTV.detach()

    hook = model.register_forward_hook(keep)
    try:
        yield found
    finally:
        hook.remove()


def key(ids_BT: Tensor) -> bytes:
    return ids_BT.numpy().tobytes()


def refine(
    model: nn.Module,
    rounded: Mapping[str, Tensor],
    batches: Sequence[Tensor],
    *,
    steps: int,
    host: Host,
    sink: Sink,
    answers: Answers | None = None,
) -> dict[str, Tensor]:
    """Control tensors for the `rounded` weights, float32, by name.

    The model holds the untouched weights, whose predictions on the batches of ids [B, T] are what is learned; it is
    left as it was. A step takes one batch of every part.  answers: predictions that are known already.
    The same arguments give the same tensors.
    """
    before = {name: W.detach() for name, W in model.named_parameters()}
    moving = {name: role is Role.CONTROL and before[name].numel() > 0 for name, role in model.roles().items()}
    fixed = {name: rounded[name].to(host.device) for name, moves in moving.items() if not moves}
    begin = {name: rounded[name].to(host.device) for name, moves in moving.items() if moves}
    if not begin or not batches:
        return {}
    learning = partial(learn, model, fixed, begin, steps=steps, sink=sink, answers=answers or {})
    return abreast.in_parts(learning, batches, host)


def learn(
    model: nn.Module,
    fixed: Mapping[str, Tensor],
    begin: Mapping[str, Tensor],
    batches: Sequence[Tensor],
    host: Host,
    *,
    steps: int,
    sink: Sink,
    answers: Answers,
) -> dict[str, Tensor]:
    """`refine` as one of several ranks, each with batches of its own."""
    model = copy.deepcopy(model)  # to put other weights in is not safe where threads share it
    learned_N = torch.cat([W.flatten() for W in begin.values()]).requires_grad_()
    rate_N = torch.cat([torch.full_like(W, RATE * W.square().mean().sqrt().item()).flatten() for W in begin.values()])
    # Adam by hand: torch's own loads its compiler, which takes two seconds.
    mean_N, square_N = torch.zeros_like(learned_N), torch.zeros_like(learned_N)

    def parts() -> dict[str, Tensor]:
        pieces = learned_N.split([W.numel() for W in begin.values()])
        return {name: piece_N.view(W.shape) for (name, W), piece_N in zip(begin.items(), pieces)}

    half = partial(torch.autocast, host.device.type, host.compute_dtype, host.compute_dtype != torch.float32)
    for step, ids_BT in enumerate(islice(cycle(batches), steps)):
        if host.is_main:
            emit(sink, "calibrate", done=step, total=steps, what="learning after rounding")
        wanted_BTV = answers.get(key(ids_BT)) if answers else None
        ids_BT = ids_BT.to(host.device)
        with half():
            with torch.no_grad():
                wanted_BTV = (model(ids_BT) if wanted_BTV is None else wanted_BTV).float().softmax(dim=-1)
            with torch.enable_grad():
                logits_BTV = functional_call(model, fixed | parts(), (ids_BT,)).float()
                loss = F.cross_entropy(logits_BTV.flatten(0, 1), wanted_BTV.flatten(0, 1)) / host.world
        slope_N = host.sum(torch.autograd.grad(loss, learned_N)[0])
        mean_N.lerp_(slope_N, 1 - BETAS[0])
        square_N.lerp_(slope_N.square(), 1 - BETAS[1])
        unbiased = math.sqrt(1 - BETAS[1] ** (step + 1)) / (1 - BETAS[0] ** (step + 1))
        now = unbiased * min((step + 1) / WARMUP, 1) * (1 - step / steps)
        with torch.no_grad():
            learned_N -= now * rate_N * mean_N / (square_N.sqrt() + TINY)
    return {name: W.detach() for name, W in parts().items()}
