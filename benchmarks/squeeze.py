"""Tax in bits per byte at the yardstick's byte budgets, by the commands a person would type.

    python benchmarks/squeeze.py FOLDER [--tokenizer FILE] [--calibration FILE] [--effort E]

The folder holds weights.safetensors, val.bin and reference.json. Weights are imported, quantized under each budget
and scored; the tax is the score of the artifact less that of the weights.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# What the field wants at the reference's bytes: tax, container and everything included.
WANTED = {1_961_269: 0.0018, 1_814_560: 0.0024, 1_687_886: 0.0036, 1_551_332: 0.0050, 1_400_089: 0.0080}


def golf(*words: object) -> str:
    """Standard output of a golf command."""
    command = [sys.executable, "-m", "golf", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return done.stdout


def spent() -> float:
    """Processor seconds of all commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def score(source: Path, val: Path) -> float:
    text = golf("score", source, "--data", val, "--set", "eval.window=512", "--set", "eval.stride=512", "--json")
    return json.loads(text)["val_bpb"]


def main() -> None:
    shared = Path(__file__).resolve().parents[1] / ".." / "shared"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=shared / "oracles/squeeze")
    parser.add_argument("--tokenizer", type=Path, default=shared / "data/tokenizers/fineweb_1024_bpe.model")
    parser.add_argument("--calibration", type=Path, default=shared / "data/reviews/docs_train_000.jsonl.zst")
    parser.add_argument("--recipe", type=Path, help="a record whose quantization to use instead of the default")
    parser.add_argument("--effort", help="of golf quantize, instead of the default")
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    parser.add_argument("--caps", type=int, nargs="*", help="byte budgets instead of the reference's")
    parser.add_argument("--json", type=Path, help="write the points here too")
    told = parser.parse_args()
    reference = json.loads((told.folder / "reference.json").read_bytes())
    taxes = {point["bytes"]: point["tax"] for point in reference["reference"]["points"]}
    words = [word for text in told.assignments for word in ("--set", text)]
    words += ["--recipe", told.recipe] if told.recipe else []
    words += ["--effort", told.effort] if told.effort else []
    points = []
    with tempfile.TemporaryDirectory(prefix="golf-squeeze-") as name:
        work = Path(name)
        weights, artifact, config = work / "w.safetensors", work / "a.golf", work / "config.json"
        config.write_text(json.dumps(reference["config"]))
        source = told.folder / "weights.safetensors"
        golf(
            *("import", source, "--family", reference["family"], "--config", config),
            *("--tokenizer", told.tokenizer, "-o", weights),
        )
        plain = score(weights, told.folder / "val.bin")
        print(f"unquantized {plain:.5f} bits per byte", flush=True)
        print("     bytes       cap      tax   wanted  reference  of the reference  seconds  of processors")
        for cap in told.caps or WANTED:
            begin, before = time.monotonic(), spent()
            golf("quantize", weights, "--cap", cap, "--calibration", told.calibration, "-o", artifact, *words)
            seconds, processors = time.monotonic() - begin, spent() - before
            tax, size = score(artifact, told.folder / "val.bin") - plain, artifact.stat().st_size
            wanted, theirs = WANTED.get(cap), taxes.get(cap)
            points.append({"cap": cap, "bytes": size, "tax": tax, "wanted": wanted, "reference": theirs})
            points[-1] |= {"seconds": seconds, "processor_seconds": processors}
            share = f"{tax / theirs:>17.0%}" if theirs else " " * 17
            print(
                f"{size:>10,}{cap:>10,}{tax:>9.5f}{wanted or float('nan'):>9.4f}{theirs or float('nan'):>11.5f}"
                f"{share}{seconds:>9.0f}{processors:>15.0f}",
                flush=True,
            )
    if told.json:
        told.json.write_text(json.dumps(points, indent=1) + "\n")


if __name__ == "__main__":
    main()
