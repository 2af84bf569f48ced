"""What a long quantization has finished, in files, so that it goes on where it was killed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from golf.contracts import CheckpointError, QTensor
from golf.host import write_atomic
from golf.pack import container
from golf.pack.container import PackSpec
from golf.pack.zstd import Zstd
from golf.quant import layerwise

# Finished blocks are read once more and thrown away, so they are written fast.
QUICK = PackSpec(codec=Zstd(level=1))


@dataclass(frozen=True)
class Pass:
    """The whole model quantized once: steps 2^octaves times as wide as the spec's, packed bytes, rows of the report."""

    octaves: float
    bytes: int
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class History:
    """The passes of a job that are over, in a file."""

    file: Path
    digest: str

    def read(self) -> list[Pass]:
        """Raises CheckpointError for those of another job."""
        if not self.file.is_file():
            return []
        held = json.loads(self.file.read_bytes())
        if held["digest"] != self.digest:
            raise _another(self.file, self.file.parent)
        return [Pass(**each) for each in held["passes"]]

    def write(self, passes: Sequence[Pass]) -> None:
        write_atomic(self.file, json.dumps({"digest": self.digest, "passes": list(map(asdict, passes))}).encode())


def _another(file: Path, folder: Path) -> CheckpointError:
    return CheckpointError(
        f"{file} was finished with other weights, settings or calibration text; delete {folder} or choose another "
        "output"
    )


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
            raise _another(file, self._folder)
        return header, qtensors
