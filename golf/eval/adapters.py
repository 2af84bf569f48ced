"""Low-rank adapters beside a model's matrices, one set per row of a batch: hooks on the one forward there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from golf.contracts import Role, SpecError, named_hooks
from golf.host import Host


class Adapters(nn.Module):
    """y += scale * B (A x) for each layer of a model, with A and B of the row that x is in (LoRA, arXiv 2106.09685).

    A starts at random, the same in every row and in every set made with the same seed; B starts at zero, so a new
    set leaves the logits as they are, to the last bit.
    """

    def __init__(self, layers: Sequence[nn.Module], rows: int, rank: int, scale: float, seed: int) -> None:
        super().__init__()
        self.layers, self.scale = tuple(layers), scale  # a tuple: the model's weights are not parameters of this
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        generator = torch.Generator().manual_seed(seed)
        for layer in layers:
            outputs, inputs = layer.weight.shape
            start = (2 * torch.rand(rank, inputs, generator=generator) - 1) / inputs**0.5
            self.down.append(nn.Parameter(start.expand(rows, -1, -1).clone()))
            self.up.append(nn.Parameter(torch.zeros(rows, outputs, rank)))

    @contextmanager
    def attached(self, rows: Tensor) -> Iterator[None]:
        """While this is open, row i of what the model is fed meets the adapters of row rows[i]."""
        handles = []
        try:
            for layer, down, up in zip(self.layers, self.down, self.up):
                handles.append(layer.register_forward_hook(self._hook(down[rows], up[rows])))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, down_BrK: Tensor, up_BRr: Tensor) -> Callable:
        def add(layer: nn.Module, inputs: tuple[Tensor], out: Tensor) -> Tensor:
            x_BTK = inputs[0].reshape(len(down_BrK), -1, down_BrK.shape[2])
            more_BTR = self.scale * (x_BTK @ down_BrK.mT.to(x_BTK.dtype)) @ up_BRr.mT.to(x_BTK.dtype)
            return out + more_BTR.reshape(out.shape).to(out.dtype)

        return add


def adaptable(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """The layers with hidden matrices whose name ends like one of `names`; all of them where there are no names.

    Raises SpecError for a name that no layer has.
    """
    roles = model.roles()
    found = {name: layer for name, layer in named_hooks(model) if roles.get(name) is Role.MATRIX}
    endings = {name: tuple(f".{name}".removesuffix(".weight").split(".")) for name in found}
    for name in names:
        wanted = tuple(name.split("."))
        if not any(ending[-len(wanted) :] == wanted for ending in endings.values()):
            last = ", ".join(sorted({ending[-1] for ending in endings.values()}))
            raise SpecError(f"no hidden matrix of the model is named {name!r}; there are {last}")
    chosen = [tuple(name.split(".")) for name in names] or [()]
    return [
        layer
        for name, layer in found.items()
        if any(endings[name][len(endings[name]) - len(wanted) :] == wanted for wanted in chosen)
    ]


@contextmanager
def frozen(model: nn.Module, host: Host, learns: bool) -> Iterator[None]:
    """Evaluation mode and the host's type for matrices, gradients for adapters at most; then all as before."""
    was_training, needed = model.training, [parameter.requires_grad for parameter in model.parameters()]
    low = host.compute_dtype != torch.float32
    try:
        model.eval().requires_grad_(False)
        with torch.set_grad_enabled(learns), torch.autocast(host.device.type, dtype=host.compute_dtype, enabled=low):
            yield
    finally:
        model.train(was_training)
        for parameter, need in zip(model.parameters(), needed):
            parameter.requires_grad_(need)
