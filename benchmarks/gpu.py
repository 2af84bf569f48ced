"""One GPU and the PR 1361 shape: milliseconds and tokens/s a step, compile time, peak memory, share of the bf16 peak,
Newton-Schulz and evaluation apart; and `golf quantize` of as many random weights. Under ten minutes on one card.

    python benchmarks/gpu.py            # 98,304 tokens a step: one GPU's share of 786,432 on eight
    python benchmarks/gpu.py --tiny     # the same code on any machine, in a minute

Published for one H100 at that load: 102.5 ms with expanded K/V through SDPA, 83-87 ms with FlashAttention 3.
Quantizing 27 M parameters may take 60 s, of which packing is the processor's work.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from squeeze_time import write_weights

from golf import host as hosts
from golf import recipe as recipes
from golf.contracts import ByteTable, Event, Role
from golf.eval import sliding
from golf.publish.use.convert import quantize_weights
from golf.publish.use.efforts import EFFORTS
from golf.train.compiler import choose
from golf.train.job import Job
from golf.train.optim import orthogonalize

RECORD = Path(__file__).parents[1] / "records/10min_16mb/2026-11-21_pr1361"
PUBLISHED_MS = {"H100, K/V expanded, SDPA": 102.5, "H100, FlashAttention 3": 85.0}
CAP_A_PARAMETER, SQUEEZE_SECONDS = 16_000_000 / 27_067_484, 60.0
# Dense bf16 matmul peaks in TFLOP/s, by what the driver calls the card.
PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "B200": 2250.0}


class RandomStream:
    """Batches of random tokens: constant data would flatter a card that compresses its memory."""

    def __init__(self, rows: int, seq_len: int, vocab: int) -> None:
        self._shape, self._vocab = (rows, seq_len + 1), vocab
        self._draw = torch.Generator().manual_seed(0)

    def next(self) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = torch.randint(self._vocab, self._shape, generator=self._draw)
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def state(self) -> dict:
        return {}

    def restore(self, state: dict) -> None:
        pass


def timed(host: hosts.Host, call: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call, device included."""
    seconds = []
    for _ in range(repeats):
        host.synchronize()
        begin = time.perf_counter()
        call()
        host.synchronize()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def step_flops(model: torch.nn.Module, tokens: int, seq_len: int) -> float:
    """Matmul FLOPs of forward and backward: 6 a weight and token, and causal attention's two products."""
    roles = model.roles()
    weights = sum(p.numel() for name, p in model.named_parameters() if roles[name] in (Role.MATRIX, Role.HEAD))
    attention = 6 * model.spec.layers * model.spec.dim * seq_len  # 2 products, forward and twice backward, half masked
    return tokens * (6.0 * weights + attention)


def measure(model_spec, train, host: hosts.Host, compiled: bool, repeats: int) -> dict:
    """One way of running the step: its parts timed apart."""
    torch.manual_seed(0)
    model = model_spec.build()
    job = Job(model, RandomStream(train.rows, train.seq_len, model_spec.vocab), train, host, {})
    if host.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.cuda.reset_peak_memory_stats(host.device)
    begin = time.perf_counter()
    if compiled:
        job.loss = torch.compile(model.loss, dynamic=False, fullgraph=True)
    for _ in range(3):
        job.advance(1.0)
    host.synchronize()
    first = time.perf_counter() - begin
    step = timed(host, lambda: job.advance(1.0), repeats)

    def forward_backward() -> None:
        job.optimizer.zero_grad()
        job.backward()

    backward = timed(host, forward_backward, repeats)
    zero = torch.zeros((), device=host.device)
    optimizer = timed(host, lambda: job.optimizer.step(1, 1.0, zero), repeats)
    matrices = [torch.randn_like(bank.values) for bank in job.optimizer.banks if bank.role is Role.MATRIX]
    newton = timed(host, lambda: [orthogonalize(m, train.matrix, host.compute_dtype) for m in matrices], repeats)
    flops = step_flops(model, train.batch_tokens, train.seq_len)
    peak = next((value for name, value in PEAKS.items() if name in host.hardware), None)
    return {
        "first_three_steps_s": first,
        "step_ms": 1e3 * step,
        "forward_backward_ms": 1e3 * backward,
        "optimizer_ms": 1e3 * optimizer,
        "newton_schulz_ms": 1e3 * newton,
        "tokens_per_second": train.batch_tokens / step,
        "tflops": flops / step / 1e12,
        "share_of_bf16_peak": flops / step / 1e12 / peak if peak else None,
        "peak_memory_gb": torch.cuda.max_memory_allocated(host.device) / 1e9 if host.device.type == "cuda" else None,
    }


def evaluation(model_spec, window: int, stride: int, tokens: int, host: hosts.Host) -> dict:
    """Tokens/s of sliding-window scoring, on random tokens."""
    torch.manual_seed(0)
    model = model_spec.build().to(host.device)
    vocab = model_spec.vocab
    table = ByteTable(np.ones(vocab, np.int64), np.zeros(vocab, bool), np.zeros(vocab, bool))
    stream = np.random.default_rng(0).integers(2, vocab, tokens).astype(np.uint16)
    batch = 32 * window if host.device.type == "cuda" else 4 * window
    seconds = timed(
        host,
        lambda: sliding.score(model, stream, table, window=window, stride=stride, batch_tokens=batch, host=host),
        2,
    )
    return {"window": window, "stride": stride, "scored_tokens_per_second": tokens / seconds}


def squeezing(model_spec, window: int, effort: str, host: hosts.Host) -> dict:
    """`golf quantize` from a weights file to an artifact, under a cap of so many bytes a parameter as the record's, by
    random calibration tokens."""
    cuda = host.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(host.device)
    with tempfile.TemporaryDirectory(prefix="golf-gpu-") as name:
        weights, text, artifact = (Path(name) / file for file in ("w.safetensors", "text.npy", "a.golf"))
        parameters = write_weights(weights, model_spec, window)
        tokens = EFFORTS[effort].tokens
        np.save(text, np.random.default_rng(0).integers(1, model_spec.vocab, tokens).astype(np.uint16))
        stages: list[tuple[str, float]] = []
        begin = time.perf_counter()

        def note(event: Event) -> None:
            now = f"{event.kind}: {event.values.get('what', event.values.get('attempt', ''))}"
            if not stages or stages[-1][0] != now:
                stages.append((now, time.perf_counter() - begin))

        cap = int(parameters * CAP_A_PARAMETER)
        quantize_weights(weights, artifact, None, cap, text, (), note, effort=effort)
        return {
            "parameters": parameters,
            "calibration_tokens": tokens,
            "cap_bytes": cap,
            "bytes": artifact.stat().st_size,
            "seconds": time.perf_counter() - begin,
            "seconds_allowed": SQUEEZE_SECONDS,
            "peak_memory_gb": torch.cuda.max_memory_allocated(host.device) / 1e9 if cuda else None,
            **{f"began {what}": seconds for what, seconds in stages},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a machine without a GPU")
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    with hosts.join() as host:
        recipe = recipes.load(RECORD)
        train = replace(recipe.train, seconds=None, steps=10_000, batch_tokens=98_304, rows=48, stages=())
        repeats, score_tokens, effort = 20, 1 << 18, "default"
        if flags.tiny:
            recipe = recipe.tiny()
            train = replace(train, batch_tokens=512, rows=8, seq_len=64)
            repeats, score_tokens, effort = 3, 1 << 11, "fast"
        documents = replace(recipe.model, documents=True)
        stream = replace(recipe.model, documents=False)
        found = {
            "device": host.hardware,
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            "compiler": choose(train, host.device)[0],
            "batch_tokens": train.batch_tokens,
            "published_ms": PUBLISHED_MS,
            "eager, one stream": measure(stream, train, host, False, repeats),
            "compiled, one stream": measure(stream, train, host, True, repeats),
            "compiled, documents apart": measure(documents, train, host, True, repeats),
            "evaluation": evaluation(recipe.model, recipe.eval.window, recipe.eval.stride, score_tokens, host),
            "golf quantize": squeezing(recipe.model, recipe.eval.window, effort, host),
        }
    if flags.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{found['device']}, torch {torch.__version__}, {found['batch_tokens']:,} tokens a step")
    for name, values in found.items():
        if isinstance(values, dict) and name not in ("versions", "published_ms"):
            print(f"\n{name}")
            for key, value in values.items():
                print(f"  {key:<26}{'not known here' if value is None else f'{value:,.3f}'}")
    if flags.tiny:  # another machine, another size: nothing to compare with
        return
    print("\npublished:", ", ".join(f"{value} ms ({name})" for name, value in PUBLISHED_MS.items()))
    compiled = found["compiled, one stream"]["step_ms"]
    print("ratio ours / published:", ", ".join(f"{compiled / value:.2f}" for value in PUBLISHED_MS.values()))


if __name__ == "__main__":
    main()
