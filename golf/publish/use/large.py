"""`golf quantize` for weights that are large: mapped from their file, block after block, resumable."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from golf import host as hosts
from golf.arch import families
from golf.contracts import Codec, QTensor, Role, Sink, SpecError, Stream, emit
from golf.host import write_atomic
from golf.pack import container
from golf.publish.use.convert import QuantizeSettings, calibration_batches, quantize_settings
from golf.publish.use.kept import History, Parts, Pass
from golf.publish.use.source import open_source
from golf.quant import layerwise, reach
from golf.quant.sampled import Sizes, next_try
from golf.quant.squeeze import Squeeze
from golf.recipe import to_json

# Weights files from here on are not held in memory; smaller ones are done sooner all at once.
LARGE_BYTES = 512_000_000


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
    cap: int | None,
    calibration: Path | None,
    assignments: Sequence[str],
    sink: Sink,
) -> dict[str, Any]:
    """What `convert.quantize_weights` does, in the memory of one block.

    Finished blocks are kept in the folder `output`.parts until the artifact is written: called again after a
    kill, only the others are made. Raises CheckpointError when that folder belongs to other weights or settings,
    HessianError when a method needs calibration text, and BudgetError when no sensible step reaches `cap`.
    """
    source, settings = open_source(path), quantize_settings(record, assignments)
    if isinstance(settings.quant, Squeeze):
        raise SpecError("quant=Squeeze needs gradients of the whole model at once; quantize in memory with --at-once")
    about, spelled = source.about, source.spelled
    reach.check(source.weights, _roles(about), settings.quant, cap)
    batches = [batch.clone() for batch in calibration_batches(source, settings.quant, calibration) or ()]
    del source  # and with it the mapping of the whole file, whose pages would count as ours once touched
    made = quantize_mapped(path, output, about, settings, batches, sink, cap)
    if spelled:
        write_atomic(output.with_suffix(".tokenizer.model"), spelled)
    return {
        "artifact": str(output),
        "bytes_model": made.bytes,
        "cap": cap,
        "scale_multiplier": 2.0**made.octaves,
        "tensors": made.rows,
    }


def quantize_mapped(
    path: Path,
    output: Path,
    about: dict[str, Any],
    settings: QuantizeSettings,
    batches: Sequence[Tensor],
    sink: Sink,
    cap: int | None = None,
) -> Pass:
    """Write the artifact of a weights file. See `quantize_large`.

    Under a cap the model is quantized once at the step that a sample of its rows calls for, and once more or twice
    at a better one if that is over the cap or more than half a percent below.
    """
    job = Job(Mapped(path), about, settings, batches, _digest(path, to_json(settings.quant), batches))
    folder = output.with_suffix(output.suffix + ".parts")
    if cap is None:
        parts = Parts(folder, job.digest)
        blob, made = job.run(0.0, parts, sink)
        write_atomic(output, blob)
        parts.remove()
        return made
    sizes = Sizes(job.weights, _roles(about), settings.quant, job.size_of)
    hosts.give_back_memory()
    history, best = History(folder / "passes.json", job.digest), folder / "best"
    passes = history.read()
    while (octaves := next_try(sizes, [(one.octaves, one.bytes) for one in passes], cap)) is not None:
        parts = Parts(folder / str(len(passes)), f"{job.digest} {octaves!r}")
        blob, made = job.run(octaves, parts, sink)
        emit(sink, "fit", attempt=len(passes) + 1, multiplier=2.0**octaves, bytes=made.bytes, cap=cap)
        if made.bytes <= cap and all(made.bytes > one.bytes for one in passes if one.bytes <= cap):
            write_atomic(best, blob)
        del blob
        passes.append(made)
        history.write(passes)
        parts.remove()
    os.replace(best, output)
    shutil.rmtree(folder)
    return max((one for one in passes if one.bytes <= cap), key=lambda one: one.bytes)


def _roles(about: Mapping[str, Any]) -> dict[str, Role]:
    with torch.device("meta"):
        return families.build(about["model"]).roles()


@dataclass(frozen=True)
class Job:
    """What is to be quantized, and how. digest: of everything that decides the codes."""

    weights: Mapped
    about: dict[str, Any]
    settings: QuantizeSettings
    batches: Sequence[Tensor]
    digest: str

    def run(self, octaves: float, parts: Parts, sink: Sink) -> tuple[bytes, Pass]:
        """One pass over the model, but for what lies in `parts` already: the artifact, and what there is to say."""
        with torch.device("meta"):
            model = families.build(self.about["model"])
        hosts.share_heap()
        quant, done = self.settings.quant, parts.names()
        with hosts.join() as host:
            for piece in layerwise.quantize(
                model, self.weights, self.batches, quant, host=host, sink=sink, multiplier=2.0**octaves, finished=done
            ):
                parts.keep(piece)
        del model
        hosts.give_back_memory()
        found, rows = parts.take()
        emit(sink, "layers", what="packing", done=1, total=1, seconds_left=None)
        blob = self._packed({name: found[name] for name in self.weights})
        return blob, Pass(octaves, len(blob), [rows[name] for name in self.weights])

    def size_of(self, qtensors: dict[str, QTensor]) -> int:
        return len(self._packed(qtensors))

    def _packed(self, qtensors: dict[str, QTensor]) -> bytes:
        pack = self.settings.pack
        return container.dump(qtensors, self.about, replace(pack, codec=InTurn(pack.codec)))


@dataclass(frozen=True)
class InTurn:
    """A codec at one stream at a time: for a long one, zstd holds several times its bytes."""

    codec: Codec
    turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return self.codec.name

    def encode(self, stream: Stream) -> bytes:
        with self.turn:
            return self.codec.encode(stream)


def _digest(path: Path, settings: Any, batches: Sequence[Tensor]) -> str:
    """Everything that decides the codes."""
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    with open(path, "rb") as file:
        total.update(hashlib.file_digest(file, "sha256").digest())
    for ids_BT in batches:
        total.update(json.dumps(list(ids_BT.shape)).encode() + ids_BT.numpy().tobytes())
    return total.hexdigest()
