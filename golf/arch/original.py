"""Checkpoints and configurations of the original code, declared by each family and read here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from golf.contracts import CheckpointError, ModelSpec, SpecError

# What configuration files of the Hub say beside the shape of the model.
HOUSEKEEPING = frozenset(
    "_name_or_path architectures auto_map bos_token_id dtype eos_token_id max_position_embeddings model_type "
    "pad_token_id torch_dtype transformers_version unk_token_id use_cache".split()
)


def _same_names(spec: ModelSpec, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, str | None]:
    return {}


def _nothing(spec: ModelSpec) -> dict[str, Any]:
    return {}


def _as_configured(spec: ModelSpec, state: Mapping[str, Tensor]) -> ModelSpec:
    return spec


@dataclass(frozen=True, kw_only=True)
class Original:
    """How a family's checkpoints look where they come from.

    spec: its class; the defaults are the published configuration.  settings: name there -> field of the spec.
    aliases: further names of settings.
    names: name of a tensor there -> here, where they differ; None drops it.
    foreign: names used elsewhere -> here, with parts in braces: "model.layers.{i}.norm" -> "blocks.{i}.norm".
    extras: tensors a file may hold that the model computes itself.
    copies: names under which published files hold a tensor once more -> its name here.
    reshaped: ends of names whose tensors come in any shape of the right number of elements.
    adjust: the spec once the tensors are seen.
    """

    spec: type
    settings: Mapping[str, str]
    aliases: Mapping[str, str] = field(default_factory=dict)
    names: Callable[[Any, Mapping[str, Tensor], Mapping[str, Any]], Mapping[str, str | None]] = _same_names
    foreign: Mapping[str, str] = field(default_factory=dict)
    extras: Callable[[Any], Mapping[str, Tensor]] = _nothing
    copies: Callable[[Any], Mapping[str, str]] = _nothing
    reshaped: tuple[str, ...] = ()
    adjust: Callable[[Any, Mapping[str, Tensor]], Any] = _as_configured

    def from_config(self, config: Mapping[str, Any]) -> ModelSpec:
        """The spec of a configuration; what is left out has its published value. Raises SpecError."""
        spec = self.spec()
        known = {name: getattr(spec, field) for name, field in self.settings.items()}
        return self.spec(**{self.settings[name]: value for name, value in self._read(config, known).items()})

    def _read(self, config: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in config.items() if name in known or name not in HOUSEKEEPING}
        for alias, name in self.aliases.items():
            value = given.pop(alias, None)
            if value is not None and given.setdefault(name, value) != value:
                raise SpecError(f"{alias}={value!r} and {name}={given[name]!r} are one setting; make them equal")
        return checked(self.spec.family, known, given)

    def to_config(self, spec: ModelSpec) -> dict[str, Any]:
        """The configuration of a spec."""
        return {name: getattr(spec, field) for name, field in self.settings.items()}

    def canonical(self, spec: ModelSpec) -> ModelSpec:
        """The spec with what makes no difference to a checkpoint at its default."""
        return spec

    def place(
        self, spec: ModelSpec, state: Mapping[str, Tensor], config: Mapping[str, Any], foreign: Mapping[str, str]
    ) -> dict[str, str | None]:
        """Where each tensor of a file belongs: its name here, None where it is dropped.

        foreign: a table like `foreign`, tried before it. Raises CheckpointError when two tensors meet in one place
        that should not.
        """
        names: dict[str, str | None] = {name: name for name in state}
        for table in (foreign, self.foreign):
            names = {name: renamed(ours, table) for name, ours in names.items()}
        first = {ours: state[name] for name, ours in names.items()}
        if len(first) < len(names):
            twice = sorted(ours for ours in first if list(names.values()).count(ours) > 1)
            raise CheckpointError(f"two tensors of the file would both be {twice[0]}; mend the table of names")
        moved = self.names(spec, first, config)
        return {name: moved.get(ours, ours) for name, ours in names.items()}

    def shaped(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
        """The tensor in the shape the model has, where the family allows others."""
        return tensor.reshape(shape) if name.endswith(self.reshaped) and tensor.numel() == shape.numel() else tensor


def checked(family: str, known: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """`known` with the values of `config`, whose names and types must be the same. Raises SpecError."""
    result = dict(known)
    for name, value in config.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
            raise SpecError(f"{family} has no setting {name!r}; {hint}")
        kind = type(known[name])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise SpecError(f"{name}={value!r} must be {kind.__name__}")
        result[name] = kind(value)
    return result


def renamed(name: str, table: Mapping[str, str]) -> str:
    """The name by the first pattern of the table that fits: "{part}" stands for text without a dot.

    Raises SpecError for a pattern that is none, or a target with parts its pattern lacks.
    """
    for pattern, target in table.items():
        try:
            found = re.fullmatch(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^.]+)", re.escape(pattern)), name)
            if found:
                return target.format(**found.groupdict())
        except (re.error, KeyError, IndexError, ValueError) as error:
            raise SpecError(
                f"{pattern!r} -> {target!r} is no rule for names ({error}); write it as 'layers.{{i}}.norm' -> "
                "'blocks.{i}.norm'"
            ) from error
    return name


def differences(one: ModelSpec, other: ModelSpec) -> list[str]:
    """`field=value` of every field of `one` that `other` has differently."""
    pairs = [(field.name, getattr(one, field.name), getattr(other, field.name)) for field in fields(one)]
    return [f"{name}={mine!r}" for name, mine, theirs in pairs if mine != theirs]
