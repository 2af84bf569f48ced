"""Files of tensors: what a killed run resumes from, and the weights it hands on. Safetensors, no pickle."""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from golf.contracts import CheckpointError

# Metadata of a safetensors file is text by name; ours is one JSON value under this one.
KEY = "golf"


def save_weights(path: Path, weights: Mapping[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and a JSON value to one file, whole or not at all; CheckpointError when it cannot."""
    # The writer refuses tensors that share memory (views into banks, tied weights): give each its own.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    _write(path, tensors, {KEY: json.dumps(metadata)})


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, mapped from the file, and the JSON value (empty when golf did not write it).

    Raises CheckpointError for a file that is missing, truncated or no safetensors.
    """
    tensors, metadata = _read(path)
    return tensors, _parse(path, metadata.get(KEY, "{}"))


def save(path: Path, tensors: Mapping[str, Tensor], meta: dict[str, Any]) -> None:
    """`save_weights` with a checksum over everything in it."""
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(meta)
    _write(path, own, {KEY: text, "crc32": str(_checksum(own, text))})


def load(path: Path, **expected: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON of a checkpoint whose JSON holds the expected values.

    Raises CheckpointError when the file is damaged or an expected value differs: it belongs to another run.
    """
    tensors, metadata = _read(path)
    text = metadata.get(KEY, "")
    if metadata.get("crc32") != str(_checksum(tensors, text)):
        raise CheckpointError(f"{path} is damaged: its checksum does not match; delete it to start over")
    meta = _parse(path, text)
    for name, value in expected.items():
        if meta.get(name) != value:
            raise CheckpointError(
                f"{path} was written with {name}={meta.get(name)!r}, this run has {value!r}; "
                "resume with the same recipe, seed and ranks, or start over without it"
            )
    return tensors, meta


def sweep(path: Path) -> None:
    """Remove what writers of `path` left behind when they were killed."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)


def _checksum(tensors: Mapping[str, Tensor], text: str) -> int:
    value = zlib.crc32(text.encode())
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(tensors[name].view(-1).view(torch.uint8).numpy(), value)
    return value


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            os.close(handle)
            save_file(tensors, temporary, metadata)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path}: {error}; free some space or choose another folder") from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}; check the path") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is no whole safetensors file: {error}; write it again or delete it") from error


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} carries unreadable metadata: {error}; write it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} carries metadata of type {type(value).__name__}, not an object; write it again")
    return value
