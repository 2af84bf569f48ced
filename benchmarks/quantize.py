"""Seconds and memory to quantize and pack 27 M parameters into 16,000,000 bytes, and to read them back.

    python benchmarks/quantize.py [--layers 11] [--cap 16000000] [--threads 2] [--squeeze]

The shapes are those of the PR 1361 record; weights are random, with rows of varied deviation; inputs are
correlated, so Hessians have the spectrum of real ones. Targets at full size: under 90 s, under 3 GB, read back under
5 s.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from torch import Tensor

from golf.contracts import Event, QTensor, Role
from golf.pack.container import PackSpec, dump, load
from golf.pack.rans import Rans
from golf.pack.zstd import Zstd
from golf.quant.apply import QuantSpec, dequantize
from golf.quant.fisher import Curvature
from golf.quant.gptq import GPTQ
from golf.quant.grid import as_rows
from golf.quant.report import rows
from golf.quant.squeeze import Squeeze

SECONDS, GIGABYTES, READ_SECONDS = 90, 3, 5
# The spectrum i^-alpha of the covariance of a layer's inputs, and their number.
ALPHA, TOKENS = 0.7, 4096


def shapes(layers: int) -> dict[str, tuple[Role, tuple[int, ...]]]:
    """Role and shape of every tensor, named as the record names them."""
    found: dict[str, tuple[Role, tuple[int, ...]]] = {
        "tok_emb.weight": (Role.HEAD, (1024, 512)),
        "bigram.embed.weight": (Role.EMBED, (3072, 112)),
        "bigram.proj.weight": (Role.MATRIX, (512, 112)),
        "ve_shared.embed.weight": (Role.EMBED, (1024, 128)),
        "ve_shared.proj.weight": (Role.MATRIX, (256, 128)),
        "skip_weights": (Role.CONTROL, (layers // 2, 512)),
    }
    for layer in range(layers):
        for name, shape in {
            "attn.c_q": (512, 512),
            "attn.c_k": (256, 512),
            "attn.c_v": (256, 512),
            "attn.proj": (512, 512),
            "mlp.fc": (1536, 512),
            "mlp.proj": (512, 1536),
        }.items():
            found[f"blocks.{layer}.{name}.weight"] = (Role.MATRIX, shape)
        for name, shape in {"attn_scale": (512,), "mlp_scale": (512,), "resid_mix": (2, 512)}.items():
            found[f"blocks.{layer}.{name}"] = (Role.CONTROL, shape)
    return found


def random_weight(shape: tuple[int, ...], role: Role) -> Tensor:
    """Rows whose deviations differ by a third, as trained ones do."""
    if role is Role.CONTROL:
        return 1 + 0.1 * torch.randn(shape)
    return torch.randn(shape) * 0.04 * torch.exp(0.3 * torch.randn(shape[0], 1))


def random_hessian(width: int) -> Tensor:
    basis = torch.linalg.qr(torch.randn(width, width)).Q
    X_NK = torch.randn(TOKENS, width) * torch.arange(1, width + 1) ** (-ALPHA / 2) @ basis
    return X_NK.T @ X_NK / TOKENS


def curvature(name: str, W: Tensor, H_KK: Tensor | None) -> Curvature:
    """Rows of varied weight, and the inputs' Hessian where there is one, at the size trained models have."""
    rows_R = 1e-6 * torch.exp(torch.randn(len(as_rows(W))))
    if W.ndim == 2 and H_KK is None:
        H_KK = torch.eye(W.shape[1])
    return Curvature(name, None if H_KK is None else H_KK / H_KK.diagonal().mean(), rows_R)


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=11)
    parser.add_argument("--cap", type=int, default=16_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--squeeze", action="store_true", help="steps from curvature and rans, as golf quantize does")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    plan = shapes(options.layers)
    roles = {name: role for name, (role, _) in plan.items()}
    weights = {name: random_weight(shape, role) for name, (role, shape) in plan.items()}
    hessians = {
        name: random_hessian(weights[name].shape[1]) for name, role in roles.items() if role in (Role.MATRIX, Role.HEAD)
    }
    parameters = sum(W.numel() for W in weights.values())
    print(f"{parameters:,} parameters, {len(hessians)} Hessians, {options.threads} threads")

    spec, pack = QuantSpec(matrix=GPTQ(bits=7, k=15.0)), PackSpec(codec=Zstd())
    if options.squeeze:
        spec, pack = Squeeze(), PackSpec(codec=Rans())
        hessians = {name: curvature(name, W, hessians.get(name)) for name, W in weights.items()}

    def size_of(qtensors: dict[str, QTensor]) -> int:
        return len(dump(qtensors, {"model": {"family": "unet"}}, pack))

    def show(event: Event) -> None:
        values = event.values
        print(
            f"  try {values['attempt']}: multiplier {values['multiplier']:.4f}, {values['bytes']:,} bytes, "
            f"{time.perf_counter() - started:.1f} s"
        )

    started, processor = time.perf_counter(), time.process_time()
    fitted = spec.fit(weights, roles, hessians, size_of=size_of, cap=options.cap, sink=show)
    blob = dump(fitted.qtensors, {"model": {"family": "unet"}}, pack)
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    peak = peak_gigabytes()

    started = time.perf_counter()
    _, qtensors = load(blob)
    read = dequantize(qtensors)
    read_seconds = time.perf_counter() - started
    assert all(torch.equal(W, dequantize({name: fitted.qtensors[name]})[name]) for name, W in read.items())

    table = rows(weights, fitted.qtensors, hessians)
    coded = [row for row in table if row.scale]
    bits = sum(row.bits * row.parameters for row in coded) / sum(row.parameters for row in coded)
    for what, ours, target in (
        ("quantize, fit and pack, seconds", seconds, SECONDS),
        ("peak memory, GB", peak, GIGABYTES),
        ("read back, seconds", read_seconds, READ_SECONDS),
    ):
        print(f"{what:34s} {ours:8.2f}   target {target:3d}   ratio {ours / target:.2f}")
    print(f"{processor:.1f} processor seconds, whatever else the machine was doing")
    print(
        f"{len(blob):,} bytes, {len(blob) / options.cap:.3%} of the cap, {fitted.tries} tries, "
        f"{bits:.3f} bits of entropy and {8 * len(blob) / parameters:.3f} stored bits a weight"
    )


if __name__ == "__main__":
    main()
