"""Calibration batches that walk through a model side by side, so that one block's Hessians are held at a time.

The Hessians of a whole model are several times its weights. So each batch runs the model in a thread of its own,
only one of them at a time, and stops at the entrance of every block. When all have passed a block, its Hessians
are complete, can be used and dropped. No family has to know: a thread's stack holds whatever the model carries
from block to block. Weights are fetched when a layer first asks for them (through its `fake` hook).
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from golf.contracts import HessianError, Hooked, Role, SpecError, named_hooks
from golf.host import Host


class _Enough(BaseException):
    """Ends a batch's thread: it has met the head, and logits are nobody's concern; or another one failed."""


class Batch(threading.Thread):
    """One batch on its way. `at`: the block it stands before, None when it is through."""

    def __init__(self, forward: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.at: str | None = None
        self._forward, self._ends = forward, False
        self._go: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stands: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run(self) -> None:
        try:
            self._walk()
        except BaseException as error:  # handed over: `step` raises it in the caller's thread
            self._stands.put(error)

    def _walk(self) -> None:
        self._go.get()
        with contextlib.suppress(_Enough):
            if not self._ends:
                self._forward()
        self.at = None
        self._stands.put(None)

    def stop_before(self, block: str) -> None:
        """Called in this thread."""
        self.at = block
        self._stands.put(None)
        self._go.get()
        if self._ends:
            raise _Enough

    def step(self) -> None:
        """Called from outside: on to the next block, or through."""
        self._go.put(None)
        error = self._stands.get()
        if error is not None:
            raise error

    def end(self) -> None:
        if self.is_alive():
            self._ends = True
            self._go.put(None)
            self.join()


class Walk:
    """The way of `batches` (ids [B, T]) through a model on the meta device, whose hooks are taken.

    weights: fetched one at a time. Controls are filled in at once, matrices when their block comes.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor], batches: Sequence[Tensor], host: Host) -> None:
        self.blocks = blocks_of(model)
        self._model, self._weights, self._batches, self._host = model, weights, batches, host
        self._layers, roles = dict(named_hooks(model)), model.roles()
        self._heads = {name for name, role in roles.items() if role is Role.HEAD}
        self._held: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._same: dict[str, str] = {}  # a layer -> the one before it that meets the very same inputs
        self._last: tuple[str, Tensor] | None = None
        self.tokens = sum(ids_BT.numel() for ids_BT in batches)

    def run(
        self, wanted: Collection[str], passed: Callable[[str, int], None]
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Each block, once all batches are through it, with the Hessians of its layers that are `wanted`.

        passed: called with a block and how many batches are through it.
        What lies outside of all blocks is in `rest` after the last one. Raises SpecError for a model that enters a
        block again after leaving it, HessianError without a token.
        """
        if not self.tokens:
            raise HessianError("calibration read 0 tokens and needs at least 1; raise Calibration.sequences")
        walkers = [Batch(lambda ids_BT=ids_BT: self._forward(ids_BT)) for ids_BT in self._batches]
        by_thread: dict[int, Batch] = {}

        def stop(block: str) -> Callable[..., None]:
            return lambda *_: by_thread[threading.get_ident()].stop_before(block)

        self._attach(wanted)
        modules = dict(self._model.named_modules())
        hooks = [modules[block].register_forward_pre_hook(stop(block)) for block in self.blocks]
        try:
            for walker in walkers:
                walker.start()
                by_thread[walker.ident] = walker
            left, here = set(), None
            while True:
                for count, walker in enumerate(walkers, 1):
                    walker.step()
                    if here is not None:
                        passed(here, count)
                if here is not None:
                    yield here, self._take(f"{here}.")
                    left.add(here)
                here = walkers[0].at
                if here is None:
                    return
                if here in left:
                    raise SpecError(f"the model runs {here} twice; quantize it without --layerwise")
        finally:
            for hook in hooks:
                hook.remove()
            for walker in walkers:
                walker.end()
            self._detach()

    def rest(self) -> dict[str, Tensor]:
        """Hessians of the layers outside of all blocks, after `run`."""
        return self._take("")

    def _forward(self, ids_BT: Tensor) -> None:
        kind, dtype = self._host.device.type, self._host.compute_dtype
        with torch.no_grad(), torch.autocast(kind, dtype, enabled=dtype != torch.float32):
            self._model(ids_BT.to(self._host.device))

    def _attach(self, wanted: Collection[str]) -> None:
        for name, parameter in self._model.named_parameters():
            if name not in self._layers and parameter.is_meta:
                owner, _, last = name.rpartition(".")
                value = self._weights[name].float().to(self._host.device)
                self._model.get_submodule(owner)._parameters[last] = nn.Parameter(value, requires_grad=False)
        for name, layer in self._layers.items():
            layer.fake = self._fetcher(name, layer)
            layer.watch = self._watcher(name, name in wanted)

    def _detach(self) -> None:
        for layer in self._layers.values():
            layer.fake = layer.watch = None
        self._held.clear()
        self._last = None

    def _fetcher(self, name: str, layer: Hooked) -> Callable[[Tensor], Tensor]:
        inside = any(name.startswith(f"{block}.") for block in self.blocks)

        def fetch(weight: Tensor) -> Tensor:
            if not inside:  # mostly tables, of which few rows are looked up: left where they are, in their own type
                return self._weights[name].to(self._host.device)
            if name not in self._held:
                self._held[name] = self._weights[name].float().to(self._host.device)
            return self._held[name]

        return fetch

    def _watcher(self, name: str, wanted: bool) -> Callable[[Tensor], None]:
        """As `hessian.collect` has it, to the bit; inputs that several layers share are summed once."""

        def watch(x: Tensor) -> None:
            if wanted:
                self._add(name, x.reshape(-1, x.shape[-1]).float())
            if name in self._heads:
                raise _Enough

        return watch

    def _add(self, name: str, x_NK: Tensor) -> None:
        if name not in self._same:
            self._same[name] = self._last[0] if self._last is not None and _are_one(self._last[1], x_NK) else name
        first = self._same[name]
        # Held until the next layer's inputs come: memory given back could come again with other contents.
        self._last = (first, x_NK)
        if first != name:
            return
        if name not in self._sums:
            self._sums[name] = x_NK.new_zeros(x_NK.shape[-1], x_NK.shape[-1])
        with torch.autocast(self._host.device.type, enabled=False):
            self._sums[name].addmm_(x_NK.T, x_NK)

    def _take(self, prefix: str) -> dict[str, Tensor]:
        """Means of the sums so far, of names with this prefix; they and the weights held for them are let go."""
        names = [name for name in self._same if name.startswith(prefix)]
        firsts = {self._same[name] for name in names}
        means = {name: self._sums.pop(name).div_(self.tokens) for name in firsts}
        found = {name: means[self._same.pop(name)] for name in names}
        for name in [name for name in self._held if name.startswith(prefix)]:
            del self._held[name]
        return found


def blocks_of(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that stand in a list and hold layers: where batches stop, the outermost only."""
    found: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{block}.") for block in found):
            for place, child in enumerate(module):
                if not isinstance(child, Hooked) and any(isinstance(each, Hooked) for each in child.modules()):
                    found.append(f"{name}.{place}")
    return tuple(found)


def _are_one(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()
