"""Layers every family shares: hooked matrices and tables, the norm without gain, rotary positions."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.contracts import DataError, Role

Fake = Callable[[Tensor], Tensor]
Watch = Callable[[Tensor], None]


class Linear(nn.Module):
    """y = x Wt without bias. The weight stays float32 and is cast to the type of x at use.

    Hooks as in `contracts.Hooked`: `fake` stands in for the weight, `watch` sees the inputs as [N, K].
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=torch.float32))
        self.fake: Fake | None = None
        self.watch: Watch | None = None

    def forward(self, x: Tensor) -> Tensor:
        return _project(self, x)


class Affine(Linear):
    """y = x Wt + b, with the hooks of `Linear` on the weight."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.bias = nn.Parameter(torch.zeros(outputs, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return _project(self, x) + self.bias.to(x.dtype)


class Norm(nn.Module):
    """`rms` with a learned gain for each channel."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim, dtype=torch.float32))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms(x, self.eps, self.weight)


class Embedding(nn.Module):
    """A table of rows that is looked up, and that `project` turns around into an output head (tied weights).

    `fake` is used both ways; `watch` sees only what meets the table as a matrix.
    """

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, dim, dtype=torch.float32))
        self.fake: Fake | None = None
        self.watch: Watch | None = None

    def forward(self, ids: Tensor) -> Tensor:
        """Rows [..., dim] in the type of activations: that of autocast where it is on, else float32."""
        kind = ids.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.weight.dtype
        return F.embedding(ids, _weight(self)).to(dtype)

    def project(self, x: Tensor) -> Tensor:
        return _project(self, x)


def _weight(layer: Linear | Embedding) -> Tensor:
    return layer.weight if layer.fake is None else layer.fake(layer.weight)


def _project(layer: Linear | Embedding, x: Tensor) -> Tensor:
    if layer.watch is not None:
        layer.watch(x.flatten(0, -2))
    return F.linear(x, _weight(layer).to(x.dtype))


def rms(x: Tensor, eps: float, gain: Tensor | float = 1.0) -> Tensor:
    """x over its root mean square along the last axis, computed in float32, in the type of x.

    gain: a factor for all of the last axis. It joins the one number per row, which saves a pass over x.
    """
    wide = x.float()
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return (wide * (gain * torch.rsqrt(length.square() / x.shape[-1] + eps))).to(x.dtype)


def rope_table(length: int, width: int, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """`rope_at` the places 0, 1, .. length - 1: cosines and sines [length, 1, width / 2]."""
    return rope_at(torch.arange(length, device=device), width, base)


def rope_at(places: Tensor, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [*places, 1, width / 2], float32, of t * base^(-2p / width); they fit [B, T, H, D]."""
    rates = base ** (-torch.arange(0, width, 2, dtype=torch.float32, device=places.device) / width)
    angles = (places[..., None].float() * rates)[..., None, :]
    return angles.cos(), angles.sin()


def rotate(x_BTHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn entry p against entry p + width / 2 of the first `width` entries of a head; pass on the rest.

    The sense is R+: (a, b) -> (a cos - b sin, b cos + a sin). Pass -sin for R-.
    """
    half = cos.shape[-1]
    cos, sin = cos.to(x_BTHD.dtype), sin.to(x_BTHD.dtype)
    a, b, rest = x_BTHD.split([half, half, x_BTHD.shape[-1] - 2 * half], dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


def one_back(x_BTC: Tensor) -> Tensor:
    """Every position's left neighbor; zeros at position 0."""
    return F.pad(x_BTC[:, :-1], (0, 0, 1, 0))


def tail_of(tail: int | None, time: int) -> int:
    """How many last positions are asked for, None being all. Raises ValueError unless they are in 1..time."""
    tail = time if tail is None else tail
    if not 0 < tail <= time:
        raise ValueError(f"tail={tail} must be in 1..{time}, the length of the input")
    return tail


def check_ids(ids: Tensor, vocab: int) -> None:
    """Raises DataError for a token id outside 0..vocab-1, on the CPU only: a GPU would have to wait."""
    if torch.compiler.is_compiling() or ids.device.type != "cpu" or not ids.numel():
        return
    low, high = (edge.item() for edge in ids.aminmax())
    if low < 0 or high >= vocab:
        wrong = low if low < 0 else high
        raise DataError(f"token id {wrong} is outside 0..{vocab - 1}; use the model's own tokenizer, or raise vocab")


def roles_of(model: nn.Module, head: nn.Module) -> dict[str, Role]:
    """Roles by the kind of layer that owns a weight; `head` is the layer whose weight makes the logits.

    Whatever is not called `weight` (a bias, a gate) is CONTROL.
    """

    def role(name: str) -> Role:
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        if leaf != "weight":
            return Role.CONTROL
        if owner is head:
            return Role.HEAD
        if isinstance(owner, Embedding):
            return Role.EMBED
        return Role.MATRIX if isinstance(owner, Linear) else Role.CONTROL

    return {name: role(name) for name, _ in model.named_parameters()}
