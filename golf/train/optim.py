"""Muon and AdamW: the arithmetic as functions of tensors, and one class that applies it to banks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from golf.contracts import CheckpointError, Role
from golf.host import Host
from golf.train import banks, schedule
from golf.train.banks import Bank
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
    """Muon or AdamW on MATRIX banks, AdamW on the others, for all ranks of a job.

    Each rank owns a slice of every matrix bank: its gradients are reduced there, its momentum or moments live
    there, and Muon's updates or AdamW's new values are gathered. The flat banks are reduced together and updated
    alike on each rank. With one rank every collective is the identity. Hyperparameters are plain numbers in eager
    code: a change recompiles nothing.
    """

    def __init__(self, model: nn.Module, roles: dict[str, Role], spec: TrainSpec, host: Host) -> None:
        self._spec, self._host = spec, host
        self.banks = banks.build(model, roles, host.world)
        self._matrices = [bank for bank in self.banks if bank.role is Role.MATRIX]
        self._flat = [bank for bank in self.banks if bank.role is not Role.MATRIX]
        self._dtype = host.compute_dtype
        kinds = [("momentum",) if isinstance(self._rule(bank), Muon) else ("first", "second") for bank in self.banks]
        self._memory = [
            {kind: torch.zeros_like(self._own(bank, bank.grads)) for kind in names}
            for bank, names in zip(self.banks, kinds)
        ]

    @property
    def labels(self) -> list[str]:
        return [bank.label for bank in self.banks]

    def zero_grad(self) -> None:
        for bank in self.banks:
            bank.grads.zero_()

    @torch.no_grad()
    def step(self, step: int, lr_scale: float, loss: Tensor, share: float = 1.0) -> Tensor:
        """Average gradients over ranks, clip by their global norm, update. `step` counts from 1.

        share: of this rank's targets that are supervised; loss and gradients are sums over these, divided by the
        number of all targets. Dividing by the ranks' mean share makes them means over supervised targets.
        Returns [mean share, mean loss, squared gradient norm of each bank] over all ranks, before clipping; left on
        the device so that nobody waits for it.
        """
        shards = self._reduce()
        stats = torch.stack([loss.new_full((), share), loss, *(shard.square().sum() for shard in shards)])
        # Share and loss are one of `world` to be averaged; flat gradients are already equal on all ranks.
        stats[:2] /= self._host.world
        stats[2 + len(self._matrices) :] /= self._host.world
        self._host.sum(stats)
        shrink = 1 / stats[0]
        stats[1] *= shrink
        stats[2:] *= shrink.square()
        if self._spec.grad_clip:
            shrink *= (self._spec.grad_clip / (stats[2:].sum().sqrt() + 1e-6)).clamp_max(1.0)
        for shard in shards:
            shard *= shrink
        pending = []  # while one bank's results travel, the next bank's are computed
        for bank, shard, memory in zip(self.banks, shards, self._memory):
            spec = self._rule(bank)
            update = self._muon if isinstance(spec, Muon) else self._adamw
            pending.append(update(bank, shard, step, spec.lr * lr_scale, spec, **memory))
        for finish in pending:
            finish()
        return stats

    def _reduce(self) -> list[Tensor]:
        """This rank's averaged slice of each matrix bank, then the averaged flat banks."""
        world = self._host.world
        shards = [self._own(bank, bank.grads) for bank in self._matrices]
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

    def _muon(
        self, bank: Bank, shard: Tensor, step: int, lr: float, spec: Muon, momentum: Tensor
    ) -> Callable[[], None]:
        """Compute this rank's updates; what is returned waits for the others' and applies them all."""
        update = muon_update(shard, momentum, schedule.momentum(step - 1, spec), spec, self._dtype)
        arrive = self._gather(bank, update)

        def finish() -> None:
            bank.values.mul_(1 - lr * spec.weight_decay).add_(arrive().to(bank.values.dtype), alpha=-lr)

        return finish

    def _adamw(
        self, bank: Bank, shard: Tensor, step: int, lr: float, spec: AdamW, first: Tensor, second: Tensor
    ) -> Callable[[], None]:
        """Update this rank's values; what is returned waits for the others' where they have some."""
        own = self._own(bank, bank.values)
        adamw_(own, shard, first, second, step, lr, spec)
        arrive = self._gather(bank, own)

        def finish() -> None:
            whole = arrive()
            if whole is not own:
                bank.values.copy_(whole)

        return finish

    def _rule(self, bank: Bank) -> Muon | AdamW:
        return getattr(self._spec, bank.role.value)

    def _own(self, bank: Bank, whole: Tensor) -> Tensor:
        """The part of a tensor laid out like a bank that this rank looks after."""
        return whole.chunk(self._host.world)[self._host.rank] if bank.role is Role.MATRIX else whole

    def _gather(self, bank: Bank, own: Tensor) -> Callable[[], Tensor]:
        """Begin to collect what `_own` took apart; the function returned waits for the whole."""
        if self._host.world == 1 or bank.role is not Role.MATRIX:
            return lambda: own
        whole = own.new_empty(len(own) * self._host.world, *own.shape[1:])
        handle = _all_gather(whole, own.contiguous(), async_op=True)

        def arrive() -> Tensor:
            handle.wait()
            return whole

        return arrive

    def _flat_grads(self) -> Tensor:
        """The gradients of all flat banks as the one buffer they are cut from."""
        first = self._flat[0].grads
        return first.as_strided((sum(bank.grads.numel() for bank in self._flat),), (1,), 0)

    def named(self, like: Iterable[Tensor]) -> dict[str, Tensor]:
        """Parameter names and their views of tensors laid out like the banks."""
        return {name: view for bank, tensor in zip(self.banks, like) for name, view in bank.named(tensor)}

    def _remembered(self) -> Iterator[tuple[Bank, str, Tensor]]:
        for bank, memory in zip(self.banks, self._memory):
            for kind, own in memory.items():
                yield bank, kind, own

    def state(self) -> dict[str, Tensor]:
        """Momentum and moments by parameter name, gathered from their owners. Every rank must call it."""
        return {
            f"{kind}.{name}": view
            for bank, kind, own in self._remembered()
            for name, view in bank.named(self._gather(bank, own)())
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` returned. Raises CheckpointError when a tensor is missing or misshapen."""
        for bank, kind, own in self._remembered():
            whole = torch.zeros_like(bank.values)
            for name, view in bank.named(whole):
                found = state.get(f"{kind}.{name}")
                if found is None or found.shape != view.shape:
                    raise CheckpointError(
                        f"optimizer state lacks {f'{kind}.{name}'!r} of shape {list(view.shape)}; start a new run"
                    )
                view.copy_(found)
            own.copy_(self._own(bank, whole))
