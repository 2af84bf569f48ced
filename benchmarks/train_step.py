"""A training step on the CPU: golf's U-Net, eager and compiled, against a plain eager twin of the same model.

    python benchmarks/train_step.py [--threads 1 2] [--rows 16] [--rounds 4] [--eager-only]

6 layers, 256 wide, 4 M parameters, sequence 512, 8,192 tokens a step, float32, forward, backward and optimizer. Both
sides start from the same weights and must agree on the loss. The twin takes all 16 rows at once, loops over its
matrices for Muon and leaves the rest to torch's AdamW and fused attention; golf attends in pieces
(`golf.arch.pieces`). Target: 1.3 times its tokens/s, one thread and two.

golf trains in memory that the process keeps; the twin's steps are timed with what glibc's malloc comes to by itself.
Sides take turns and the best round counts. Rates are by the wall clock; the ratio of CPU seconds, which other work
on the machine disturbs less, stands beside. Compiling takes about a minute per thread count (cached by inductor).
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.nn.functional as F
from eager_twin import Twin
from torch import Tensor, nn

from golf.arch import attention as kernels
from golf.arch.families import import_checkpoint
from golf.arch.pieces import Pieces
from golf.contracts import Role
from golf.host import M_MMAP_MAX, M_TRIM_THRESHOLD, Host, keep_memory
from golf.train import compiler
from golf.train.job import Job
from golf.train.spec import Muon, TrainSpec

LENGTH, BATCH, TARGET = 512, 16, 1.3
CONFIG = {
    "vocab_size": 1024,
    "num_layers": 6,
    "model_dim": 256,
    "num_heads": 8,
    "num_kv_heads": 4,
    "mlp_mult": 3.0,
    "tie_embeddings": True,
    "logit_softcap": 30.0,
    "rope_base": 10000.0,
    "rope_dims": 16,
    "bigram_vocab_size": 3072,
    "bigram_dim": 112,
    "xsa_last_n": 6,
    "ln_scale": True,
    "dtg": False,
    "ve_enabled": True,
    "ve_dim": 128,
    "ve_layers": "4,5",
}
M_MMAP_THRESHOLD = -3  # of malloc.h
Clock = tuple[float, float]
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class Batches:
    """The same random rows over and over, a few at a time; meets what `Job` asks of a stream."""

    def __init__(self, rows: int) -> None:
        torch.manual_seed(1)
        ids, targets = torch.randint(0, 1024, (2, BATCH, LENGTH)).unbind()
        self.parts = list(zip(ids.split(rows), targets.split(rows)))
        self.turn = 0

    def next(self) -> tuple[Tensor, Tensor]:
        self.turn += 1
        return self.parts[self.turn % len(self.parts)]


class PlainStep:
    """The twin's step: Muon matrix by matrix, AdamW for the rest."""

    def __init__(self, model: Twin, matrices: set[str]) -> None:
        self.model, (self.batch,) = model, Batches(BATCH).parts
        named = dict(model.named_parameters())
        self.matrices = [named[name] for name in sorted(matrices)]
        self.buffers = [torch.zeros_like(matrix) for matrix in self.matrices]
        self.adam = torch.optim.AdamW([named[name] for name in named if name not in matrices], lr=0.01)

    def __call__(self) -> float:
        loss = self.model.loss(*self.batch)
        self.model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.3)
        self.adam.step()
        with torch.no_grad():
            for matrix, buffer in zip(self.matrices, self.buffers):
                buffer.mul_(0.95).add_(matrix.grad)
                update = newton_schulz(matrix.grad + 0.95 * buffer)
                matrix.add_(update, alpha=-0.01 * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5)
        return loss.item()


def newton_schulz(gradient: Tensor) -> Tensor:
    x = gradient.T if gradient.shape[0] > gradient.shape[1] else gradient
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x.T if gradient.shape[0] > gradient.shape[1] else x


def in_memory(kept: bool, call: Callable[[], object]) -> object:
    """A step in memory that the process keeps, or as glibc adapts to large buffers: those up to 32 MB are kept too."""
    if kept:
        keep_memory()
    else:
        libc = ctypes.CDLL(None)
        for option, value in ((M_MMAP_MAX, 65_536), (M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 64 << 20)):
            libc.mallopt(option, value)
    return call()


def timed(call: Callable[[], object]) -> Clock:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def best(rounds: int, calls: dict[str, Callable[[], object]]) -> dict[str, Clock]:
    """(wall, CPU) seconds of each call: the sides take turns, the best of each clock counts."""
    clocks: dict[str, list[Clock]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            clocks[name].append(timed(call))
    return {name: tuple(map(min, zip(*seen))) for name, seen in clocks.items()}


def products(model: nn.Module) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(inputs, weight, gradient of the outputs) of every matrix product in the model, as random numbers."""
    roles = model.roles()
    for name, parameter in model.named_parameters():
        if roles[name] in (Role.MATRIX, Role.HEAD):
            rows, columns = parameter.shape
            tokens = BATCH * LENGTH
            yield torch.randn(tokens, columns), parameter.detach(), torch.randn(tokens, rows)


def ceiling(model: nn.Module, attend: Attend, rounds: int) -> tuple[float, float]:
    """(seconds of the step's matrix products alone, seconds of its attention alone), forward and backward."""
    shapes = list(products(model))

    def multiply() -> None:
        for x, weight, gradient in shapes:
            F.linear(x, weight)
            gradient @ weight
            gradient.T @ x

    spec = model.spec
    q = torch.randn(BATCH, LENGTH, spec.heads, spec.head_dim, requires_grad=True)
    k, v = torch.randn(2, BATCH, LENGTH, spec.kv_heads, spec.head_dim, requires_grad=True).unbind()

    def attention() -> None:
        for _ in range(spec.layers):
            torch.autograd.grad(attend(q, k, v, None).sum(), (q, k, v), retain_graph=True)

    attention()
    seconds = best(rounds, {"products": multiply, "attention": attention})
    flops = sum(6 * x.shape[0] * weight.numel() for x, weight, _ in shapes)
    print(f"  matrix products alone: {flops / seconds['products'][0] / 1e9:.0f} GFLOP/s")
    return seconds["products"][0], seconds["attention"][0]


def measure(threads: int, rows: int, rounds: int, eager_only: bool) -> bool:
    """Print one thread count's figures; whether the faster of golf's two reached the target."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    twin = Twin(CONFIG)
    spec = TrainSpec(
        seconds=None, steps=1000, batch_tokens=BATCH * LENGTH, seq_len=LENGTH, rows=rows,
        matrix=Muon(coefficients="classic"), attention=Pieces(),
    )  # fmt: skip
    jobs: dict[str, Job] = {}
    for name in ("eager",) if eager_only else ("eager", "compiled"):
        model = import_checkpoint("pr1361", twin.state_dict(), CONFIG)
        ids, targets = Batches(BATCH).parts[0]
        with torch.no_grad():
            assert abs(model.loss(ids, targets) - twin.loss(ids, targets)) < 1e-5, "the two models differ"
        jobs[name] = Job(model, Batches(rows), spec, Host(), {})
        if name == "compiled":
            jobs[name].loss = compiler.compiled(model.loss)
    roles = jobs["eager"].model.roles()
    calls: dict[str, Callable[[], object]] = {
        "twin": PlainStep(twin, {name for name in roles if roles[name] is Role.MATRIX})
    }
    calls |= {name: lambda job=job: job.advance(1.0) for name, job in jobs.items()}
    calls = {name: partial(in_memory, kept=name != "twin", call=call) for name, call in calls.items()}
    calls["backward"] = jobs["eager" if eager_only else "compiled"].backward
    for name, call in calls.items():
        seconds, _ = timed(call)
        if name == "compiled":
            print(f"  compiling and the first step: {seconds:.0f} s")
    clocks = best(rounds, calls)
    for name in ("twin", *jobs):
        (wall, cpu), (twin_wall, twin_cpu) = clocks[name], clocks["twin"]
        print(
            f"  {name:8s} {BATCH * LENGTH / wall:7,.0f} tokens/s   {wall:.2f} s a step   "
            f"ratio {twin_wall / wall:.2f} (CPU seconds {twin_cpu / cpu:.2f}, target {TARGET})"
        )
    fastest = min(jobs, key=lambda name: clocks[name][0])
    whole, forth_and_back = clocks[fastest][0], clocks["backward"][0]
    attend = Pieces().attend if threads == 1 else kernels.attend
    attend = attend if fastest == "eager" else compiler.compiled(attend)
    multiply, attention = ceiling(jobs["eager"].model, attend, rounds)
    parts = {
        "matrix products": multiply,
        "attention": attention,
        "all else in forward and backward": forth_and_back - multiply - attention,
        "optimizer and average": whole - forth_and_back,
    }
    print(f"  where the {fastest} step goes: " + ", ".join(f"{n} {s / whole:.0%}" for n, s in parts.items()))
    return clocks["twin"][0] / whole >= TARGET


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=BATCH, help="rows golf takes at once; the rest accumulates")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--eager-only", action="store_true")
    chosen = parser.parse_args()
    if len(chosen.threads) == 1:
        print(f"{chosen.threads[0]} thread(s)")
        return int(not measure(chosen.threads[0], chosen.rows, chosen.rounds, chosen.eager_only))
    rest = ["--rows", str(chosen.rows), "--rounds", str(chosen.rounds)] + ["--eager-only"] * chosen.eager_only
    results = [
        subprocess.run([sys.executable, __file__, "--threads", str(count), *rest], check=False).returncode
        for count in chosen.threads  # a process each: compiled code is made for a number of threads
    ]
    return max(results)


if __name__ == "__main__":
    sys.exit(main())
