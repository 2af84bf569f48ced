"""Muon and AdamW: the arithmetic as functions of tensors, and one class that applies it to banks."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from golf.contracts import CheckpointError, Role
from golf.host import Host
from golf.train import banks
from golf.train.spec import AdamW, Muon, TrainSpec

# One (a, b, c) per iteration of X <- aX + (bA + cA^2)X with A = X XT; the last serves all further ones.
COEFFICIENTS = {
    "classic": ((3.4445, -4.7750, 2.0315),),
    "polar": (
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    ),
}
# A GPU takes all matrices of a shape at once; a CPU is a fifth faster on batches that stay in its cache (floats).
CACHED = 1 << 17
# Below this a length is that of a zero vector (a padding matrix, a row without gradient).
TINY = 1e-20


def orthogonalize(X_NRK: Tensor, spec: Muon, dtype: torch.dtype) -> Tensor:
    """The nearest (semi-)orthogonal matrix of each of N matrices, nearly: singular values move towards 1.

    Newton-Schulz on the short side, in `dtype`; a zero matrix stays zero.
    Source: Muon (Jordan et al. 2024); Polar Express coefficients from arXiv 2505.16932.
    """
    # The Frobenius norm bounds the largest singular value, which the iteration needs to be at most 1.
    X_NRK = (X_NRK / X_NRK.norm(dim=(-2, -1), keepdim=True).clamp_min(TINY)).to(dtype)
    together = max(1, CACHED // X_NRK[0].numel()) if X_NRK.device.type == "cpu" else len(X_NRK)
    return torch.cat([_newton_schulz(part, spec) for part in X_NRK.split(together)])


def _newton_schulz(X_NRK: Tensor, spec: Muon) -> Tensor:
    tall = X_NRK.shape[-2] > X_NRK.shape[-1]
    X = X_NRK.mT if tall else X_NRK
    steps = COEFFICIENTS[spec.coefficients]
    for index in range(spec.iterations):
        a, b, c = steps[min(index, len(steps) - 1)]
        A = X @ X.mT
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=b, alpha=c), X, beta=a)
    return X.mT if tall else X


def muon_update(grad_NRK: Tensor, buffer_NRK: Tensor, momentum: float, spec: Muon, dtype: torch.dtype) -> Tensor:
    """What a step at learning rate 1 subtracts from N equal-shaped matrices; advances the buffer in place.

    Nesterov momentum, orthogonalized, times sqrt(max(1, rows / columns)) so that tall matrices move as far.
    """
    buffer_NRK.mul_(momentum).add_(grad_NRK)
    update_NRK = torch.add(grad_NRK, buffer_NRK, alpha=momentum)
    if spec.row_normalize:
        update_NRK /= update_NRK.norm(dim=-1, keepdim=True).clamp_min(TINY)
    rows, columns = grad_NRK.shape[-2:]
    return orthogonalize(update_NRK, spec, dtype) * math.sqrt(max(1.0, rows / columns))


def adamw_(value: Tensor, grad: Tensor, first: Tensor, second: Tensor, step: int, lr: float, spec: AdamW) -> None:
    """One AdamW step in place, the `step`-th from 1. Source: arXiv 1711.05101, in torch's order."""
    beta1, beta2 = spec.betas
    first.lerp_(grad, 1 - beta1)
    second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    spread = second.sqrt().div_(math.sqrt(1 - beta2**step)).add_(spec.eps)
    value.mul_(1 - lr * spec.weight_decay).addcdiv_(first, spread, value=-lr / (1 - beta1**step))


# Newer torch renames the two collectives and warns about the old names; torch 2.11 may lack the new ones.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or getattr(dist, "reduce_scatter_tensor", None)
_all_gather = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)


class Optimizer:
    """Muon on MATRIX banks, AdamW on the others, for all ranks of a job.

    Each rank owns a slice of every matrix bank: its gradients are reduced there, its momentum lives there,
    and the finished updates are gathered. The flat banks are reduced together and updated alike on each rank.
    With one rank every collective is the identity. Hyperparameters are plain numbers in eager code: a change
    recompiles nothing.
    """

    def __init__(self, model: nn.Module, roles: dict[str, Role], spec: TrainSpec, host: Host) -> None:
        self._spec, self._host = spec, host
        self.banks = banks.build(model, roles, host.world)
        self._matrices = [bank for bank in self.banks if bank.role is Role.MATRIX]
        self._flat = [bank for bank in self.banks if bank.role is not Role.MATRIX]
        self._dtype = host.compute_dtype
        self._momentum = [torch.zeros_like(self._slice(bank.grads)) for bank in self._matrices]
        self._first = [torch.zeros_like(bank.values) for bank in self._flat]
        self._second = [torch.zeros_like(bank.values) for bank in self._flat]

    @property
    def labels(self) -> list[str]:
        return [bank.label for bank in self.banks]

    def zero_grad(self) -> None:
        for bank in self.banks:
            bank.grads.zero_()

    @torch.no_grad()
    def step(self, step: int, lr_scale: float, momentum: float, loss: Tensor) -> Tensor:
        """Average gradients over ranks, clip by their global norm, update. `step` counts from 1.

        Returns [mean loss, squared gradient norm of each bank] over all ranks, before clipping; left on the
        device so that nobody waits for it.
        """
        shards = self._reduce()
        stats = torch.stack([loss, *(shard.square().sum() for shard in shards)])
        # The loss is one of `world` to be averaged; flat gradients are already equal on all ranks.
        stats[0] /= self._host.world
        stats[1 + len(self._matrices) :] /= self._host.world
        self._host.sum(stats)
        if self._spec.grad_clip:
            shrink = (self._spec.grad_clip / (stats[1:].sum().sqrt() + 1e-6)).clamp_max(1.0)
            for shard in shards:
                shard *= shrink
        self._muon(shards[: len(self._matrices)], lr_scale, momentum)
        for bank, grad, first, second in zip(self._flat, shards[len(self._matrices) :], self._first, self._second):
            spec = getattr(self._spec, bank.role.value)
            adamw_(bank.values, grad, first, second, step, spec.lr * lr_scale, spec)
        return stats

    def _reduce(self) -> list[Tensor]:
        """This rank's averaged slice of each matrix bank, then the averaged flat banks."""
        world = self._host.world
        shards = [self._slice(bank.grads) for bank in self._matrices]
        if world > 1:
            shards = [torch.empty_like(shard) for shard in shards]
            work = [_reduce_scatter(out, bank.grads, async_op=True) for out, bank in zip(shards, self._matrices)]
            if self._flat:
                work.append(dist.all_reduce(self._flat_grads(), async_op=True))
            for handle in work:
                handle.wait()
            # Sum, then divide: the mean is not an operation of every backend.
            for shard in (*shards, *(bank.grads for bank in self._flat)):
                shard /= world
        return shards + [bank.grads for bank in self._flat]

    def _muon(self, shards: list[Tensor], lr_scale: float, momentum: float) -> None:
        """Update the matrix banks; while one bank's updates travel, the next bank's are computed."""
        spec = self._spec.matrix
        pending = []
        for bank, shard, buffer in zip(self._matrices, shards, self._momentum):
            update = muon_update(shard, buffer, momentum, spec, self._dtype)
            pending.append((bank, *self._gather(update)))
        for bank, whole, handle in pending:
            if handle is not None:
                handle.wait()
            lr = spec.lr * lr_scale
            bank.values.mul_(1 - lr * spec.weight_decay).add_(whole.to(bank.values.dtype), alpha=-lr)

    def _gather(self, shard: Tensor) -> tuple[Tensor, dist.Work | None]:
        if self._host.world == 1:
            return shard, None
        whole = shard.new_empty(len(shard) * self._host.world, *shard.shape[1:])
        return whole, _all_gather(whole, shard.contiguous(), async_op=True)

    def _slice(self, whole: Tensor) -> Tensor:
        return whole.chunk(self._host.world)[self._host.rank]

    def _flat_grads(self) -> Tensor:
        """The gradients of all flat banks as the one buffer they are cut from."""
        first = self._flat[0].grads
        return first.as_strided((sum(bank.grads.numel() for bank in self._flat),), (1,), 0)

    def named(self, like: Iterable[Tensor]) -> dict[str, Tensor]:
        """Parameter names and their views of tensors laid out like the banks."""
        return {name: view for bank, tensor in zip(self.banks, like) for name, view in bank.named(tensor)}

    def state(self) -> dict[str, Tensor]:
        """Momentum and moments by parameter name, gathered from their owners. Every rank must call it."""
        whole = []
        for shard in self._momentum:
            tensor, handle = self._gather(shard)
            if handle is not None:
                handle.wait()
            whole.append(tensor)
        return self._state(whole)

    def _state(self, momentum: list[Tensor]) -> dict[str, Tensor]:
        kinds = {
            "momentum": zip(self._matrices, momentum),
            "first": zip(self._flat, self._first),
            "second": zip(self._flat, self._second),
        }
        return {
            f"{kind}.{name}": view
            for kind, pairs in kinds.items()
            for bank, tensor in pairs
            for name, view in bank.named(tensor)
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` returned. Raises CheckpointError when a tensor is missing or misshapen."""
        whole = [torch.zeros_like(bank.values) for bank in self._matrices]
        for name, view in self._state(whole).items():
            if name not in state or state[name].shape != view.shape:
                raise CheckpointError(f"optimizer state lacks {name!r} of shape {list(view.shape)}; start a new run")
            view.copy_(state[name])
        for shard, tensor in zip(self._momentum, whole):
            shard.copy_(self._slice(tensor))
