"""What quantizing costs as models grow: seconds per million parameters and peak memory, layer by layer.

    python benchmarks/scale.py [1.4M 27M 261M 778M] [--sequences 256] [--length 128] [--folder DIR] [--json]

Random weights (bf16, written to a file and mapped from it), GPTQ at 6 bits with Hessians from random tokens, packed.
Each model has a process of its own, so that its peak memory is its own.

Expected: reading N calibration tokens takes 2 N operations a parameter, and 2 N K^2 for every distinct input of
width K (its Hessian), in float32. An R x K matrix takes R K^2 to round, 4 R K^2 to measure how much of its output
that moved, and about K^3 to factor its Hessian, in float64. So a parameter costs a constant and a term that grows with
K, and nothing else: the last column, processor seconds over those operations, must not rise.
"""

from __future__ import annotations

import argparse
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

FAMILIES = {"1.4M": "xgqa", "27M": "pr1361", "261M": "gelu_gpt", "778M": "powergqa"}
ALLOWANCE = 3_000_000_000  # bytes on top of the bf16 weights
# Projections that read what another one before them has read.
SHARES = frozenset("c_k c_v k_proj v_proj k v up_proj up".split())


def write_random(path: Path, family: str) -> None:
    """A bf16 safetensors file of random weights, written tensor by tensor."""
    import torch

    from golf.arch import families

    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in families.spec_class(family)().build().state_dict().items()}
    header, begin = {}, 0
    for name, shape in shapes.items():
        end = begin + 2 * shape.numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    random = torch.Generator().manual_seed(0)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            values = torch.randn(shape, generator=random)
            values = values / shape[-1] ** 0.5 if len(shape) > 1 else 1 + 0.1 * values
            file.write(values.bfloat16().reshape(-1).view(torch.int16).numpy().tobytes())


def operations(family: str, tokens: int) -> tuple[int, float, float]:
    """Parameters, and the expected operations in float32 and in float64."""
    import torch

    from golf.arch import families
    from golf.contracts import Role

    with torch.device("meta"):
        model = families.spec_class(family)().build()
    roles, tensors = model.roles(), dict(model.named_parameters())
    single = double = 0.0
    for name, tensor in tensors.items():
        if roles[name] not in (Role.MATRIX, Role.HEAD):
            continue
        rows, width = tensor.shape
        double += 5 * rows * width**2 + width**3
        if roles[name] is Role.MATRIX:  # logits are never computed
            single += 2 * tokens * tensor.numel()
        if name.removesuffix(".weight").rpartition(".")[2] not in SHARES:
            single += 2 * tokens * width**2
    return sum(tensor.numel() for tensor in tensors.values()), single, double


def measure(family: str, path: Path, sequences: int, length: int) -> dict[str, float]:
    import torch

    from golf.arch import families
    from golf.contracts import Event
    from golf.publish.use import large
    from golf.publish.use.convert import QuantizeSettings

    spec = families.spec_class(family)()
    random = torch.Generator().manual_seed(1)
    rows = max(1, 1024 // length)
    batches = list(torch.randint(spec.vocab, (sequences, length), generator=random).split(rows))
    marks = {}

    def sink(event: Event) -> None:
        if event.values["what"] == "packing":
            marks["packing"], marks["cpu"] = time.monotonic(), time.process_time()
        if "--verbose" in sys.argv:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            print(f"{event.values} peak {peak:.2f} GB", file=sys.stderr)

    begin, cpu = time.monotonic(), time.process_time()
    about = {"model": families.spec_to_json(spec)}
    artifact = path.with_suffix(".golf")
    size = large.quantize_mapped(path, artifact, about, QuantizeSettings(), batches, sink).bytes
    end = time.monotonic()
    artifact.unlink()
    return {
        "quantize_seconds": marks["packing"] - begin,
        "quantize_cpu_seconds": marks["cpu"] - cpu,
        "pack_seconds": end - marks["packing"],
        "bytes": size,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=["1.4M", "27M"], help=f"of {', '.join(FAMILIES)}")
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--folder", type=Path, help="where weights and artifacts lie for a while")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--child", choices=("write", "measure"), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child == "write":
        write_random(flags.folder, FAMILIES[flags.models[0]])
    elif flags.child:
        print(json.dumps(measure(FAMILIES[flags.models[0]], flags.folder, flags.sequences, flags.length)))
    else:
        report(list(results(flags)), flags.json)


def results(flags: argparse.Namespace) -> Iterator[dict[str, float | str]]:
    for model in flags.models:
        with tempfile.TemporaryDirectory(prefix="golf-scale-", dir=flags.folder) as folder:
            path = Path(folder) / "weights.safetensors"
            words = [sys.executable, __file__, model, "--folder", str(path)]
            words += ["--sequences", str(flags.sequences), "--length", str(flags.length)]
            words += ["--verbose"] if flags.verbose else []
            subprocess.run([*words, "--child", "write"], check=True)
            done = subprocess.run([*words, "--child", "measure"], check=True, stdout=subprocess.PIPE)
        parameters, single, double = operations(FAMILIES[model], flags.sequences * flags.length)
        found = json.loads(done.stdout)
        seconds = found["quantize_seconds"]
        yield {
            "model": model,
            "parameters": parameters,
            "gflop32_per_million": single / parameters / 1000,
            "gflop64_per_million": double / parameters / 1000,
            "quantize_per_million": seconds / parameters * 1e6,
            "pack_per_million": found["pack_seconds"] / parameters * 1e6,
            "peak_gb": found["peak"] / 1e9,
            "allowed_gb": (2 * parameters + ALLOWANCE) / 1e9,
            "cpu_seconds_per_tflop": found["quantize_cpu_seconds"] / (single + double) * 1e12,
        } | found


def report(rows: list[dict[str, float | str]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    names = (
        "gflop32_per_million", "gflop64_per_million", "quantize_per_million", "pack_per_million", "peak_gb",
        "allowed_gb", "cpu_seconds_per_tflop",
    )  # fmt: skip
    print(f"{'model':>6} " + " ".join(f"{name:>22}" for name in names))
    for row in rows:
        print(f"{row['model']:>6} " + " ".join(f"{row[name]:>22.3f}" for name in names))


if __name__ == "__main__":
    main()
