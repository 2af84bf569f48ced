"""Checkpoints of original code: in (`golf import`) and out again, bit for bit (`golf export --to original`)."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from golf import run as corridor
from golf.arch import families
from golf.arch.original import differences
from golf.contracts import CheckpointError, DataError, SpecError
from golf.data import speaking, tokenizer_json
from golf.host import write_atomic
from golf.publish.hf import importing as hf_import
from golf.publish.use.source import Source
from golf.train import checkpoint

# Imported checkpoints do not say how they were scored; these are the challenge's habits.
IMPORTED_EVAL = {"window": 1024, "stride": 64}
# Under which names training code keeps the weights and the configuration in the files it writes.
WEIGHTS, SETTINGS = ("state_dict", "model", "model_state_dict"), ("config", "model_config", "cfg")


def import_weights(
    path: Path,
    family: str,
    config: Path | None,
    tokenizer_file: Path | None,
    rename: Path | None,
    output: Path,
    *,
    bos: str = "",
    eos: str = "",
) -> int:
    """Write golf's weights file from an original checkpoint; returns the number of parameters.

    path: a file, or a folder with config.json and the weights.  config: by default what the checkpoint brings.
    rename: JSON object of names there -> names here (see `arch.original.renamed`).
    tokenizer_file: by default the one in the folder.  bos, eos: see `tokenizer_json.read`.
    Raises CheckpointError for weights that cannot be read or do not fit, SpecError for a configuration.
    """
    state, found = read_checkpoint(path)
    values = found if config is None else read_object(config)
    if values is None:
        raise SpecError(f"{path} does not say how the model was configured; name a JSON file with --config")
    table = {} if rename is None else read_object(rename)
    if family == "qed" and hf_import.is_llama(values):
        state, values = hf_import.as_qed(state, values)
    model, names = hf_import.exported(family, state, values), {}
    if model is None:
        model, names = families.read_original(family, state, values, table)
    if tokenizer_file is None:
        places = (path / name for name in ("tokenizer.model", tokenizer_json.FILE))
        tokenizer_file = next((place for place in places if place.is_file()), None)
    if tokenizer_file is None and (bos or eos):
        raise SpecError(f"{path} brings no tokenizer that --bos or --eos could be of; name one with --tokenizer")
    window = min(IMPORTED_EVAL["window"], getattr(model.spec, "context", IMPORTED_EVAL["window"]))
    about = {
        "model": families.spec_to_json(model.spec),
        "eval": IMPORTED_EVAL | {"window": window},
        "tokenizer_sha256": "",
    }
    if names:
        about["original"] = {"config": values, "tensors": _places(family, model.spec, state, names)}
    if tokenizer_file is not None:
        spelled = tokenizer_json.read(tokenizer_file, bos=bos, eos=eos)
        vocab = speaking.byte_table(spelled).vocab
        if vocab < model.spec.vocab and speaking.is_json(spelled):  # rows that stand for nothing
            spelled, vocab = tokenizer_json.widened(spelled, model.spec.vocab), model.spec.vocab
        if vocab != model.spec.vocab:
            raise SpecError(f"{tokenizer_file} spells {vocab} tokens, the model has {model.spec.vocab}; give its own")
        about = corridor.with_tokenizer(about | {"tokenizer_sha256": hashlib.sha256(spelled).hexdigest()}, spelled)
    checkpoint.save_weights(output, model.state_dict(), about)
    return sum(parameter.numel() for parameter in model.parameters())


def export(source: Source, folder: Path) -> list[Path]:
    """Write model.safetensors and config.json as the original code reads them, and the tokenizer if there is one.

    What was imported comes back as it was: names, types, shapes, bits. Anything else gets the names of the
    published checkpoints, in float32. Raises SpecError for a model that the original code cannot express.
    """
    state, config = _as_imported(source, source.original) if source.original else _as_published(source)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "model.safetensors", folder / "config.json"]
    checkpoint.save_weights(written[0], state, {})
    write_atomic(written[1], (json.dumps(config, indent=2) + "\n").encode())
    if source.spelled:
        written += tokenizer_json.write(folder, source.spelled)
    return written


def _places(
    family: str, spec: Any, state: Mapping[str, Tensor], names: Mapping[str, str | None]
) -> dict[str, tuple[str, str, list[int]]]:
    """For each tensor of the file its name here, its type and its shape.

    What the model dropped is listed where golf computes the very same bits.
    """
    extras, places = families.original(family).extras(spec), {}
    for theirs, ours in names.items():
        tensor = state[theirs]
        if ours is None:
            name = theirs.rpartition(".")[2]
            if name not in extras or not torch.equal(extras[name].to(tensor.dtype), tensor):
                continue
            ours = name
        places[theirs] = (ours, str(tensor.dtype).removeprefix("torch."), list(tensor.shape))
    return places


def _as_imported(source: Source, original: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    spec = families.spec_from_json(source.about["model"])
    tensors = families.original(spec.family).extras(spec) | source.weights
    state = {
        theirs: tensors[ours].to(getattr(torch, dtype)).reshape(shape)
        for theirs, (ours, dtype, shape) in original["tensors"].items()
    }
    return state, original["config"]


def _as_published(source: Source) -> tuple[dict[str, Tensor], dict[str, Any]]:
    spec = families.spec_from_json(source.about["model"])
    ours = families.original(spec.family)
    config = ours.to_config(spec)
    back = ours.adjust(ours.from_config(config), source.weights)
    lost = differences(ours.canonical(spec), ours.canonical(back))
    if lost:
        raise SpecError(
            f"the original code of {spec.family} has no setting for {', '.join(lost)}; export --to hf instead"
        )
    copies = {theirs: source.weights[name] for theirs, name in ours.copies(spec).items()}
    return dict(source.weights) | copies, config


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Tensors by name, and the configuration if the checkpoint brings one. Raises CheckpointError.

    path: .safetensors, or .pt, .pth or .bin, of which only tensors and plain values are read; or a folder with one
    or several of them and config.json.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; correct the path")
    if path.suffix == ".safetensors":
        try:
            return load_file(path), None
        except SafetensorError as error:
            raise CheckpointError(f"{path} is not a readable .safetensors file: {error}") from error
    if path.suffix not in (".pt", ".pth", ".bin"):
        raise CheckpointError(f"{path.name} is none of .safetensors, .pt, .pth and .bin; convert it to one of them")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except torch.serialization.pickle.UnpicklingError as error:
        other = re.search(r"GLOBAL (\S+)", str(error))
        raise CheckpointError(
            f"{path} does not hold plain tensors and values alone ({other[1] if other else 'no pickle of them'}); golf "
            "runs nothing from a file: save the state dict by itself, best as .safetensors"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, struct.error) as error:  # bytes of any kind
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} cannot be read as torch wrote it ({reason}); copy or save it again") from error
    return _unwrap(path, held)


def _read_folder(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    for pattern in ("*.safetensors", "*.bin", "*.pt", "*.pth"):
        files = sorted(path.glob(pattern))
        if files:
            break
    else:
        raise CheckpointError(f"{path} holds no .safetensors, .bin, .pt or .pth file; name the checkpoint itself")
    state: dict[str, Tensor] = {}
    config: dict[str, Any] | None = None
    for file in files:
        part, found = read_checkpoint(file)
        twice = sorted(state.keys() & part.keys())
        if twice:
            raise CheckpointError(f"{twice[0]} is in two files of {path}; name the one to import")
        state |= part
        config = config or found
    settings = path / "config.json"
    return state, read_object(settings) if settings.is_file() else config


def _unwrap(path: Path, held: Any) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The weights of what training code saved: tensors by name, or such a table among other things."""
    if isinstance(held, Mapping) and held and all(isinstance(value, Tensor) for value in held.values()):
        return dict(held), None
    for name in WEIGHTS:
        state = held.get(name) if isinstance(held, Mapping) else None
        if isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values()):
            config = next((held[key] for key in SETTINGS if isinstance(held.get(key), Mapping)), None)
            return dict(state), None if config is None else dict(config)
    raise CheckpointError(
        f"{path} is no table of tensors by name, nor holds one as {', '.join(WEIGHTS)}; save the state dict by itself"
    )


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. Raises DataError for a file that cannot be read, SpecError for one that holds another thing."""
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except ValueError as error:
        raise SpecError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise SpecError(f"{path} must hold one JSON object, found {type(values).__name__}")
    return values
