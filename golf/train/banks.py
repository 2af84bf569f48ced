"""Parameters side by side: equal-shaped matrices stacked for Muon, the rest of each role flattened for AdamW.

A parameter and its gradient become views into their bank, so that optimizer, average, gradient norms and
collectives each touch a handful of tensors instead of hundreds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from golf.contracts import Role, RoleError

# Parameters of a flat bank start at multiples of so many floats: 64 bytes, what vector units like.
ALIGN = 16


@dataclass(frozen=True)
class Bank:
    """Parameters of one role that one optimizer call updates together.

    label: what a report calls it ("matrix 512x1536", "embed").  places: where each parameter lies, as
    (name, shape, offset in floats).  values, grads: [N, R, K] for matrices, else flat; padding stays zero.
    """

    label: str
    role: Role
    places: tuple[tuple[str, torch.Size, int], ...]
    values: Tensor
    grads: Tensor

    def named(self, like: Tensor) -> Iterator[tuple[str, Tensor]]:
        """(parameter name, its view) of a tensor laid out like this bank."""
        flat = like.view(-1)
        for name, shape, offset in self.places:
            yield name, flat[offset : offset + shape.numel()].view(shape)


def check_roles(parameters: dict[str, nn.Parameter], roles: dict[str, Role]) -> None:
    """Raises RoleError unless every parameter has one role that an optimizer can serve."""
    beyond = sorted(roles.keys() - parameters.keys())
    if beyond:
        raise RoleError(f"roles() names {beyond[0]!r}, which is no parameter of the model; drop it")
    for name, parameter in parameters.items():
        if name not in roles:
            raise RoleError(f"parameter {name!r} has no role, so nothing would train it; add it to roles()")
        if parameter.dtype != torch.float32:
            raise RoleError(f"parameter {name!r} is {parameter.dtype}; masters are float32, cast weights where used")
        if roles[name] is Role.MATRIX and parameter.ndim not in (2, 3):
            raise RoleError(
                f"parameter {name!r} has {parameter.ndim} dimensions, but MATRIX takes 2 (or 3, a stack); "
                "give it the role EMBED, HEAD or CONTROL"
            )


def build(model: nn.Module, roles: dict[str, Role], world: int) -> list[Bank]:
    """Move the model's parameters into banks, the largest matrices first, flat banks last.

    The flat banks' gradients lie in one buffer. Matrix banks are padded to a multiple of `world`.
    """
    parameters = dict(model.named_parameters())
    check_roles(parameters, roles)
    shapes: dict[torch.Size, list[str]] = {}
    for name, parameter in parameters.items():
        if roles[name] is Role.MATRIX:
            shapes.setdefault(parameter.shape[-2:], []).append(name)
    banks = [_matrices(parameters, names, shape, world) for shape, names in shapes.items()]
    banks.sort(key=lambda bank: -bank.values.numel())
    flat = [(role, [name for name in parameters if roles[name] is role]) for role in Role if role is not Role.MATRIX]
    banks += _flat(parameters, [(role, names) for role, names in flat if names])
    for bank in banks:
        for name, view in bank.named(bank.values):
            view.copy_(parameters[name].detach())
            parameters[name].data = view
        for name, view in bank.named(bank.grads):
            parameters[name].grad = view
    return banks


def _matrices(parameters: dict[str, nn.Parameter], names: list[str], shape: torch.Size, world: int) -> Bank:
    places, offset = [], 0
    for name in names:
        places.append((name, parameters[name].shape, offset))
        offset += parameters[name].numel()
    padded = math.ceil(offset / shape.numel() / world) * world
    values = parameters[names[0]].new_zeros(padded, *shape)
    return Bank(f"matrix {shape[0]}x{shape[1]}", Role.MATRIX, tuple(places), values, torch.zeros_like(values))


def _flat(parameters: dict[str, nn.Parameter], groups: list[tuple[Role, list[str]]]) -> list[Bank]:
    layouts = []
    for role, names in groups:
        places, offset = [], 0
        for name in names:
            places.append((name, parameters[name].shape, offset))
            offset += math.ceil(parameters[name].numel() / ALIGN) * ALIGN
        layouts.append((role, tuple(places), offset))
    device = next(iter(parameters.values())).device
    grads = torch.zeros(sum(length for *_, length in layouts), device=device).split([n for *_, n in layouts])
    return [
        Bank(role.value, role, places, torch.zeros(length, device=device), part)
        for (role, places, length), part in zip(layouts, grads)
    ]
