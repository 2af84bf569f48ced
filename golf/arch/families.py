"""The phone book of model families, their specs as JSON, and original checkpoints."""

from __future__ import annotations

import difflib
import importlib
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from golf.contracts import ArtifactError, CheckpointError, Model, ModelSpec, SpecError

# Family to "module:spec class". Names stay text until used: a run imports only its own family.
FAMILIES = {
    "pr1361": "golf.arch.unet:UNetSpec",
    "gelu_gpt": "golf.arch.nanochat:GeluGPTSpec",
    "qed": "golf.arch.qed:QEDSpec",
    "xgqa": "golf.arch.xgqa:GPTSSpec",
    "powergqa": "golf.arch.powergqa:PowerGQASpec",
}

# Family to the module whose ORIGINAL says how its checkpoints look where they come from.
ORIGINALS = {
    "pr1361": "golf.arch.unet_original",
    "gelu_gpt": "golf.arch.nanochat",
    "qed": "golf.arch.qed",
    "xgqa": "golf.arch.xgqa",
    "powergqa": "golf.arch.powergqa",
}

# So many tensors that do not fit in one way are named; the others are counted.
NAMED = 8


def spec_class(family: str) -> type:
    """Raises SpecError for a family golf does not have."""
    if family not in FAMILIES:
        raise SpecError(f"unknown model family {family!r}{_nearest(family, FAMILIES)}")
    module, name = FAMILIES[family].split(":")
    return getattr(importlib.import_module(module), name)


def spec_to_json(spec: ModelSpec) -> dict[str, Any]:
    """The spec as plain values: its family, then every field."""
    return {"family": spec.family, **_plain(spec)}


def spec_from_json(values: Mapping[str, Any]) -> ModelSpec:
    """Undo `spec_to_json`. Every field must be there, with its type.

    Raises ArtifactError for a missing, unknown or mistyped field, SpecError for values that cannot work.
    """
    if not isinstance(values, Mapping) or not isinstance(values.get("family"), str):
        raise ArtifactError(f"a model spec must be a table with a family, not {values!r:.80}")
    rest = {name: value for name, value in values.items() if name != "family"}
    return _typed(rest, spec_class(values["family"]), values["family"])


def build(values: Mapping[str, Any]) -> Model:
    """A freshly initialized model from the JSON of its spec."""
    return spec_from_json(values).build()


def import_checkpoint(
    family: str,
    state_dict: Mapping[str, Tensor],
    config: Mapping[str, Any],
    rename: Mapping[str, str] | None = None,
) -> Model:
    """A model in evaluation mode that computes what the original code computes, golf's repairs switched off.

    state_dict: the original's tensors by their names, of any floating type; the model holds float32 copies.
    config: the original's settings by their names; those left out have their published values.
    rename: a table for tensors of other names, see `original.renamed`.
    Raises SpecError for the config, CheckpointError naming the first tensors that are missing,
    unexpected, of the wrong shape or not floating.
    """
    return read_original(family, state_dict, config, rename)[0]


def read_original(
    family: str,
    state_dict: Mapping[str, Tensor],
    config: Mapping[str, Any],
    rename: Mapping[str, str] | None = None,
) -> tuple[Model, dict[str, str | None]]:
    """`import_checkpoint`, and where each tensor went: its name in the model, None where it was dropped."""
    ours = original(family)
    spec = ours.from_config(config)
    names = ours.place(spec, state_dict, config, rename or {})
    state = {name: state_dict[theirs] for theirs, name in names.items() if name is not None}
    with torch.device("meta"):
        model = ours.adjust(spec, state).build()
    wanted = model.state_dict()
    state = {
        name: ours.shaped(name, tensor, wanted[name].shape) if name in wanted else tensor
        for name, tensor in state.items()
    }
    _check_tensors(state, wanted)
    model.load_state_dict({name: tensor.float().clone() for name, tensor in state.items()}, assign=True)
    return model.eval(), names


def original(family: str) -> Any:
    """The family's `original.Original`. Raises SpecError for a family golf does not have."""
    if family not in ORIGINALS:
        raise SpecError(f"there are no original checkpoints of family {family!r}{_nearest(family, ORIGINALS)}")
    return importlib.import_module(ORIGINALS[family]).ORIGINAL


def _check_tensors(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    both = [name for name in wanted if name in state]
    kinds = {
        "missing": [f"missing {name} {list(wanted[name].shape)}" for name in wanted if name not in state],
        "unexpected": [f"unexpected {name}{_nearest(name, wanted)}" for name in state if name not in wanted],
        "of another shape": [
            f"{name} is {list(state[name].shape)}, not {list(wanted[name].shape)}"
            for name in both
            if state[name].shape != wanted[name].shape
        ],
        "not floating": [
            f"{name} holds {state[name].dtype}, not floats" for name in both if not state[name].is_floating_point()
        ],
    }
    faults = []
    for kind, found in kinds.items():
        faults += found[:NAMED] + ([f"{len(found) - NAMED} more {kind}"] if len(found) > NAMED else [])
    if faults:
        raise CheckpointError(f"the checkpoint does not fit the config: {'; '.join(faults)}")


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return list(value) if isinstance(value, tuple) else value


def _typed(value: Any, kind: Any, path: str) -> Any:
    """JSON `value` as the annotated type `kind`: a dataclass, tuple, union with None, or plain value."""
    if is_dataclass(kind):
        return _from_table(value, kind, path)
    if get_origin(kind) in (types.UnionType, Union):
        if value is None:
            return None
        return _typed(value, next(choice for choice in get_args(kind) if choice is not type(None)), path)
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_typed(entry, get_args(kind)[0], path) for entry in value)
    if type(value) is kind or (kind is float and type(value) is int):
        return kind(value)
    raise ArtifactError(f"{path}={value!r:.80} must be {getattr(kind, '__name__', kind)}")


def _from_table(value: Any, kind: type, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise ArtifactError(f"{path}={value!r:.80} must be a table of the fields of {kind.__name__}")
    names = [field.name for field in fields(kind)]
    unknown = [name for name in value if name not in names]
    if unknown:
        raise ArtifactError(f"{kind.__name__} has no field {unknown[0]!r}{_nearest(unknown[0], names)}")
    missing = [name for name in names if name not in value]
    if missing:
        raise ArtifactError(f"{path} lacks {', '.join(missing)}; the file was written by another version of golf")
    hints = get_type_hints(kind)
    return kind(**{name: _typed(value[name], hints[name], f"{path}.{name}") for name in names})


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}" if len(known) < 12 else ""
