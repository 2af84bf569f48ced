"""Seconds and memory of `golf quantize` on random weights in the shape of the PR 1361 record, 27 M parameters.

    python benchmarks/squeeze_time.py [--effort fast] [--cap 16000000] [--threads 2] [--layers 11]

Bounds, on two cores: 20 minutes, and 4 minutes with `--effort fast`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from golf import recipe as recipes
from golf.arch import families
from golf.contracts import Role
from golf.run import with_tokenizer
from golf.train import checkpoint

RECORD = Path(__file__).resolve().parents[1] / "records/10min_16mb/2026-11-21_pr1361"
DEVIATION = 0.04


def write_weights(file: Path, spec: Any, window: int, tokenizer: bytes = b"") -> int:
    """A weights file of a model with random weights, scored in windows; how many parameters it has."""
    torch.manual_seed(0)
    model = spec.build()
    roles = model.roles()
    for name, W in model.named_parameters():
        if roles[name] is not Role.CONTROL:
            rows_R1 = torch.exp(0.3 * torch.randn(*W.shape[:-1], 1))
            W.data = DEVIATION * rows_R1 * torch.randn(W.shape)
    about = {"model": families.spec_to_json(spec), "eval": {"window": window, "stride": window}}
    if tokenizer:
        about = with_tokenizer(about | {"tokenizer_sha256": hashlib.sha256(tokenizer).hexdigest()}, tokenizer)
    checkpoint.save_weights(file, model.state_dict(), about)
    return sum(W.numel() for W in model.parameters())


def main() -> None:
    shared = Path(__file__).resolve().parents[1] / ".." / "shared"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--effort", default="default")
    parser.add_argument("--cap", type=int, default=16_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=11)
    parser.add_argument("--tokenizer", type=Path, default=shared / "data/tokenizers/fineweb_1024_bpe.model")
    parser.add_argument("--calibration", type=Path, default=shared / "data/reviews/docs_train_000.jsonl.zst")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="golf-squeeze-") as name:
        weights, artifact = Path(name) / "w.safetensors", Path(name) / "a.golf"
        recipe = recipes.load(RECORD)
        spec, window = replace(recipe.model, layers=told.layers), recipe.eval.window
        parameters = write_weights(weights, spec, window, told.tokenizer.read_bytes())
        begin = time.monotonic()
        words = "quantize", weights, "-o", artifact, "--cap", told.cap, "--calibration", told.calibration
        subprocess.run(
            [sys.executable, "-m", "golf", *map(str, words), "--effort", told.effort, "--json"],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": str(told.threads)},
            check=True,
        )
        seconds, used = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"{parameters:,} parameters, effort {told.effort}, {told.threads} threads: {seconds:.0f} s, "
            f"{used.ru_utime + used.ru_stime:.0f} of processors, {used.ru_maxrss * 1024 / 1e9:.2f} GB at most, "
            f"{artifact.stat().st_size:,} bytes under a cap of {told.cap:,}"
        )


if __name__ == "__main__":
    main()
