"""Everything a training run consists of at one moment, and the step that moves it on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from golf.contracts import CheckpointError
from golf.host import Host
from golf.train.average import Average
from golf.train.optim import Optimizer
from golf.train.spec import TrainSpec, context

IGNORED = -100  # the target that trains nothing
Switches = Mapping[str, Callable[[bool], None]]


class Stream(Protocol):
    """This rank's endless batches (ids, targets), int64 [rows, time], on the CPU: as many tokens as the spec's
    rows x seq_len, in rows of its longest context. `state()` is JSON."""

    def next(self) -> tuple[Tensor, Tensor]: ...

    def state(self) -> Any: ...

    def restore(self, state: Any) -> None: ...


class Job:
    """Model, optimizer, average, data and random generators of one rank.

    The model's parameters become views into the optimizer's banks; ranks start from rank 0's weights.
    """

    def __init__(self, model: nn.Module, stream: Stream, spec: TrainSpec, host: Host, switches: Switches) -> None:
        self.model, self.stream, self.spec, self.host = model, stream, spec, host
        self.loss: Callable[[Tensor, Tensor], Tensor] = model.loss
        self.step = 0
        self._accumulation = spec.accumulation(host.world)
        self._seq_len = spec.seq_len
        self._switches = {context(length): partial(self._cut, length) for length in spec.lengths} | dict(switches)
        model.to(host.device).train()
        self.optimizer = Optimizer(model, model.roles(), spec, host)
        self._buffers = dict(model.named_buffers())
        values = [bank.values for bank in self.optimizer.banks]
        if host.world > 1:
            for tensor in (*values, *self._buffers.values()):
                dist.broadcast(tensor, src=0)
        self._moving = [name for name, buffer in self._buffers.items() if buffer.is_floating_point()]
        self.average = Average(values + [self._buffers[name] for name in self._moving], spec.ema)
        self.on: frozenset[str] = frozenset()
        for name in sorted({name for stage in spec.stages for name in stage.switches}):
            self._flip(name, False)

    def evaluate(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """The loss of a batch on the device, in the host's compute type, at the stage's context length."""
        device, dtype = self.host.device, self.host.compute_dtype
        ids_BT, targets_BT = (
            each.to(device, non_blocking=True).reshape(-1, self._seq_len) for each in (ids_BT, targets_BT)
        )
        way = self.spec.attention.on(device) if self.spec.attention else nullcontext()
        with way, torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            return self.loss(ids_BT, targets_BT)

    def backward(self) -> tuple[Tensor, float]:
        """Add the gradients of one step's batches, each weighed by its share of supervised targets.

        Returns the sum of the weighed losses of this rank, left on the device, and its share of supervised targets:
        one divided by the other is the mean over supervised targets, however they fall into batches.
        """
        total, share = torch.zeros((), device=self.host.device), 0.0
        for _ in range(self._accumulation):
            ids_BT, targets_BT = self.stream.next()
            supervised = int((targets_BT != IGNORED).sum()) / targets_BT.numel()
            loss = self.evaluate(ids_BT, targets_BT) * supervised / self._accumulation
            loss.backward()
            total += loss.detach()
            share += supervised
        return total, share / self._accumulation

    def advance(self, lr_scale: float) -> Tensor:
        """One optimizer step at a share of the peak learning rates, and one update of the average; the device may
        still be at it on return.

        Returns `Optimizer.step`'s figures.
        """
        self.optimizer.zero_grad()
        stats = self.optimizer.step(self.step + 1, lr_scale, *self.backward())
        self.average.update(self.step)
        self.step += 1
        return stats

    def enter(self, switches: frozenset[str]) -> bool:
        """Flip whatever has to change for exactly these switches to be on; whether anything had to."""
        changed = self.on ^ switches
        for name in (*sorted(self.on - switches), *sorted(switches - self.on)):  # off first: lengths share a value
            self._flip(name, name in switches)
        self.on = switches
        return bool(changed)

    def release(self) -> None:
        """Turn off the switches that were handed in; the family's own stay as training left them."""
        self.enter(self.on - self._switches.keys())

    def _flip(self, name: str, on: bool) -> None:
        flip = self._switches.get(name)
        if flip is None:
            self.model.switch(name, on)
        else:
            flip(on)

    def _cut(self, seq_len: int, on: bool) -> None:
        self._seq_len = seq_len if on else self.spec.seq_len

    def averaged(self) -> dict[str, Tensor]:
        """What a fresh model's `load_state_dict` takes: averages of floating tensors, others as they are."""
        averages = self._named_averages()
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        state = self.model.state_dict(keep_vars=True)  # keeps identities, so that tied names find their average
        return {name: averages.get(names.get(id(tensor), name), tensor).detach() for name, tensor in state.items()}

    def _named_averages(self) -> dict[str, Tensor]:
        split = len(self.optimizer.banks)
        return self.optimizer.named(self.average.shadow[:split]) | dict(zip(self._moving, self.average.shadow[split:]))

    # -------------------------------------------------------------------------------------------- state

    def capture(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All state as tensors (views of the live ones) and JSON, of all ranks. Every rank must call it."""
        device = self.host.device
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        ranks = self.host.gather((self.stream.state(), torch.get_rng_state(), cuda))
        tensors = self._tensors() | self.optimizer.state()
        for rank, (_, cpu, cuda) in enumerate(ranks):
            tensors[f"rng.{rank}"] = cpu
            if cuda is not None:
                tensors[f"rng_cuda.{rank}"] = cuda
        return tensors, {"step": self.step, "streams": [state for state, *_ in ranks]}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up what `capture` returned, to the bit. Raises CheckpointError when it is another model's."""
        rank, device = self.host.rank, self.host.device
        mine = self._tensors()
        for name, view in mine.items():
            if name not in tensors or tensors[name].shape != view.shape:
                raise CheckpointError(f"checkpoint lacks {name!r} of shape {list(view.shape)}; start a new run")
        self.optimizer.restore(tensors)
        for name, view in mine.items():
            view.copy_(tensors[name])
        torch.set_rng_state(tensors[f"rng.{rank}"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(tensors[f"rng_cuda.{rank}"], device)
        self.stream.restore(meta["streams"][rank])
        self.step = meta["step"]

    def _tensors(self) -> dict[str, Tensor]:
        live = self.optimizer.named(bank.values for bank in self.optimizer.banks) | self._buffers
        return {f"model.{name}": tensor for name, tensor in live.items()} | {
            f"average.{name}": tensor for name, tensor in self._named_averages().items()
        }
