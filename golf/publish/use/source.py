"""Open whatever a person points at: a run folder, an artifact or a weights file."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from golf import run as corridor
from golf.arch import families
from golf.contracts import ArtifactError, CheckpointError, DataError, Model
from golf.data import tokenizer_json
from golf.publish.files import read_artifact
from golf.quant import apply
from golf.train import checkpoint


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model on disk: its weights, what travels with them, the tokenizer file whose tokens it speaks (empty where
    it was imported without one), and what golf remembers of the checkpoint it was imported from."""

    path: Path
    about: dict[str, Any]
    weights: dict[str, Tensor]
    spelled: bytes
    original: dict[str, Any] | None = None

    @property
    def tokenizer(self) -> bytes:
        """The tokenizer file. Raises DataError where there is none."""
        if not self.spelled:
            raise DataError(f"{self.path} was imported without its tokenizer; name it with --tokenizer")
        return self.spelled

    def check_finite(self) -> None:
        """Raises CheckpointError for weights that nothing can be made of."""
        for name, W in self.weights.items():
            if not W.isfinite().all():
                count = int((~W.isfinite()).sum())
                raise CheckpointError(
                    f"{name} in {self.path} has {count:,} of {W.numel():,} values that are no finite numbers; take "
                    "weights from before training diverged, or fetch the file again"
                )

    def build(self) -> Model:
        model = families.build(self.about["model"])
        model.load_state_dict(self.weights)
        return model.eval()


def open_source(path: Path, tokenizer: Path | None = None) -> Source:
    """The model of a run folder (its artifact), an artifact or a weights file.

    Raises DataError when nothing is there or the tokenizer is missing or another one.
    """
    if path.is_dir():
        path = path / corridor.ARTIFACT
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a run folder, an artifact (.golf) or weights (.safetensors)")
    if path.suffix == ".safetensors":
        weights, about = checkpoint.load_weights(path)
        if "model" not in about:
            raise CheckpointError(f"{path} carries no model shape; make it one of golf's with `golf import` first")
        spelled = base64.b64decode(about.pop("tokenizer", ""))
    else:
        about, qtensors = read_artifact(path)
        if "model" not in about:
            raise ArtifactError(f"{path} carries no model shape; it was not written by `golf run` or `golf quantize`")
        weights, spelled = apply.dequantize(qtensors), b""
    wanted, original = about.get("tokenizer_sha256", ""), about.pop("original", None)
    if not wanted:
        spelled = tokenizer_json.read(tokenizer) if tokenizer else b""
        return Source(path=path, about=about, weights=weights, spelled=spelled, original=original)
    spelled = tokenizer_json.read(tokenizer) if tokenizer else spelled or find_tokenizer(path.parent, wanted)
    found = hashlib.sha256(spelled).hexdigest()
    if found != wanted:
        raise DataError(
            f"{path.name} speaks the tokenizer with SHA-256 {wanted[:16]}..., got {found[:16]}...; put that file "
            "beside it or name it with --tokenizer"
        )
    return Source(path=path, about=about, weights=weights, spelled=spelled, original=original)


def find_tokenizer(folder: Path, sha256: str) -> bytes:
    """The bytes of the tokenizer file in `folder` with that hash. Raises DataError when none has it."""
    for file in sorted(folder.glob("*.model")):
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
    raise DataError(
        f"no tokenizer (*.model) with SHA-256 {sha256[:16]}... lies in {folder}; put it there or name it with "
        "--tokenizer"
    )
