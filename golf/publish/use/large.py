"""`golf quantize` for weights that are large: mapped from their file, block after block, resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from golf import host as hosts
from golf.arch import families
from golf.contracts import CheckpointError, QTensor, Sink, SpecError, emit
from golf.host import write_atomic
from golf.pack import container
from golf.pack.container import PackSpec
from golf.pack.zstd import Zstd
from golf.publish.use.convert import QuantizeSettings, calibration_batches, quantize_settings
from golf.publish.use.source import open_source
from golf.quant import layerwise
from golf.quant.squeeze import Squeeze
from golf.recipe import to_json

# Weights files from here on are not held in memory; smaller ones are done sooner all at once.
LARGE_BYTES = 512_000_000
# Finished blocks are read once more and thrown away, so they are written fast.
QUICK = PackSpec(codec=Zstd(level=1))


class Mapped(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each mapped when it is asked for and gone with the last reference."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with safe_open(path, framework="pt") as file:
            self._names = list(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._path, framework="pt") as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def is_large(path: Path) -> bool:
    return path.suffix == ".safetensors" and path.is_file() and path.stat().st_size >= LARGE_BYTES


def quantize_large(
    path: Path,
    output: Path,
    record: Path | None,
    calibration: Path | None,
    assignments: Sequence[str],
    sink: Sink,
) -> dict[str, Any]:
    """What `convert.quantize_weights` does, without a cap, in the memory of one block.

    Finished blocks are kept in the folder `output`.parts until the artifact is written: called again after a
    kill, only the others are made. Raises CheckpointError when that folder belongs to other weights or settings,
    and HessianError when a method needs calibration text.
    """
    source, settings = open_source(path), quantize_settings(record, assignments)
    if isinstance(settings.quant, Squeeze):
        raise SpecError("quant=Squeeze needs gradients of the whole model at once; quantize in memory with --at-once")
    about, spelled = source.about, source.spelled
    batches = [batch.clone() for batch in calibration_batches(source, settings.quant, calibration) or ()]
    del source  # and with it the mapping of the whole file, whose pages would count as ours once touched
    blob, tensors = quantize_mapped(path, output, about, settings, batches, sink)
    if spelled:
        write_atomic(output.with_suffix(".tokenizer.model"), spelled)
    return {
        "artifact": str(output), "bytes_model": blob, "cap": None, "scale_multiplier": 1.0, "tensors": tensors,
    }  # fmt: skip


def quantize_mapped(
    path: Path,
    output: Path,
    about: dict[str, Any],
    settings: QuantizeSettings,
    batches: Sequence[Tensor],
    sink: Sink,
) -> tuple[int, list[dict[str, Any]]]:
    """Write the artifact of a weights file; its bytes, and the rows of the report. See `quantize_large`."""
    weights = Mapped(path)
    parts = Parts(output.with_suffix(output.suffix + ".parts"), _digest(path, to_json(settings.quant), batches))
    with torch.device("meta"):
        model = families.build(about["model"])
    hosts.share_heap()
    with hosts.join() as host:
        done = parts.names()
        for piece in layerwise.quantize(model, weights, batches, settings.quant, host=host, sink=sink, finished=done):
            parts.keep(piece)
    del model
    hosts.give_back_memory()
    found, rows = parts.take()
    emit(sink, "layers", what="packing", done=1, total=1, seconds_left=None)
    blob = container.dump({name: found[name] for name in weights}, about, settings.pack)
    write_atomic(output, blob)
    parts.remove()
    return len(blob), [rows[name] for name in weights]


class Parts:
    """Finished pieces as files, each an artifact of its own, so that a damaged one is noticed."""

    def __init__(self, folder: Path, digest: str) -> None:
        self._folder, self._digest = folder, digest

    def names(self) -> set[str]:
        """Pieces that are finished. Raises CheckpointError for one of another job."""
        return {self._read(file)[0]["piece"] for file in self._files()}

    def keep(self, piece: layerwise.Piece) -> None:
        header = {"piece": piece.name, "digest": self._digest, "rows": [asdict(row) for row in piece.rows]}
        write_atomic(self._folder / f"{piece.name}.golf", container.dump(piece.qtensors, header, QUICK))

    def take(self) -> tuple[dict[str, QTensor], dict[str, dict[str, Any]]]:
        """All tensors and their rows of the report, by name."""
        found: dict[str, QTensor] = {}
        rows: dict[str, dict[str, Any]] = {}
        for file in self._files():
            header, qtensors = self._read(file)
            found |= qtensors
            rows |= {row["name"]: row for row in header["rows"]}
        return found, rows

    def remove(self) -> None:
        for file in self._files():
            file.unlink()
        self._folder.rmdir()

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.golf"))

    def _read(self, file: Path) -> tuple[dict[str, Any], dict[str, QTensor]]:
        header, qtensors = container.load(file.read_bytes())
        if header.get("digest") != self._digest:
            raise CheckpointError(
                f"{file} was finished with other weights, settings or calibration text; delete {self._folder} or "
                "choose another output"
            )
        return header, qtensors


def _digest(path: Path, settings: Any, batches: Sequence[Tensor]) -> str:
    """Everything that decides the codes."""
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    with open(path, "rb") as file:
        total.update(hashlib.file_digest(file, "sha256").digest())
    for ids_BT in batches:
        total.update(json.dumps(list(ids_BT.shape)).encode() + ids_BT.numpy().tobytes())
    return total.hexdigest()
