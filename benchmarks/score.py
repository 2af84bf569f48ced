"""Scoring by sliding windows: golf's against the obvious loop, which sends every position through the head.

    python benchmarks/score.py [--tokens 8192] [--threads 1] [--rounds 3]

The model is a small U-Net (6 layers, 256 wide, 4 M parameters), the window 512. Both sides score the same targets
with the same windows; their sums must agree to 1e-6. Target: 1.15 times the tokens/s of the obvious loop at the 32
windows a batch of the published one. The same loop at golf's own batch size stands beside, to show how much of the
gain is which. Sides take turns, the best round counts, by CPU seconds, which other work disturbs least.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from functools import partial

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.arch.unet import UNetSpec
from golf.contracts import ByteTable
from golf.eval.sliding import CPU_TOKENS, score

WINDOW, TARGET = 512, 1.15


def golf(model: nn.Module, tokens: np.ndarray, stride: int) -> float:
    table = ByteTable(np.full(1024, 2), np.zeros(1024, bool), np.zeros(1024, bool))
    return score(model, tokens, table, window=WINDOW, stride=stride).nats


@torch.no_grad()
def obvious(model: nn.Module, tokens: np.ndarray, stride: int, rows: int) -> float:
    """Nats of t_1..t_N: all windows, all positions through the head, then the new ones are picked."""
    ids, total = torch.from_numpy(tokens.astype(np.int64)), len(tokens) - 1
    begins = [begin for begin in range(0, total, stride) if begin == 0 or begin + WINDOW - stride < total]
    nats = 0.0
    for first in range(0, len(begins), rows):
        chosen = begins[first : first + rows]
        inputs = torch.zeros(len(chosen), WINDOW, dtype=torch.long)
        targets = torch.zeros(len(chosen), WINDOW, dtype=torch.long)
        for row, begin in enumerate(chosen):
            length = min(WINDOW, total - begin)
            inputs[row, :length] = ids[begin : begin + length]
            targets[row, :length] = ids[begin + 1 : begin + length + 1]
        logits: Tensor = model(inputs)
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(inputs.shape)
        for row, begin in enumerate(chosen):
            start = 0 if begin == 0 else WINDOW - stride
            nats += losses[row, start : total - begin].double().sum().item()
    return nats


def race(rounds: int, calls: dict[str, Callable[[], float]]) -> dict[str, tuple[float, float]]:
    """(result, fewest CPU seconds) of each call."""
    results, seconds = {}, {name: math.inf for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.process_time()
            results[name] = call()
            seconds[name] = min(seconds[name], time.process_time() - begin)
    return {name: (results[name], seconds[name]) for name in calls}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192, help="scored at stride 64; 4 times that at 256")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    model = UNetSpec(layers=6, dim=256, rope_length=WINDOW).build().eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    missed = False
    for stride, factor in ((64, 1), (256, 4)):
        total = chosen.tokens * factor
        tokens = np.random.default_rng(0).integers(2, 1024, total + 1).astype(np.uint16)
        tokens[::300] = 1
        calls = {
            "golf": partial(golf, model, tokens, stride),
            "obvious": partial(obvious, model, tokens, stride, rows=32),
            "same batch": partial(obvious, model, tokens, stride, rows=CPU_TOKENS // WINDOW),
        }
        found = race(chosen.rounds, calls)
        (mine, seconds), (plain, plain_seconds), (_, small_seconds) = found.values()
        apart, ratio = abs(mine / plain - 1), plain_seconds / seconds
        print(
            f"stride {stride:3d}, {chosen.threads} thread(s): golf {total / seconds:7,.0f} tokens/s, obvious "
            f"{total / plain_seconds:7,.0f}, ratio {ratio:.2f} (target {TARGET}; {small_seconds / seconds:.2f} at "
            f"golf's batch size), scores differ by {apart:.1e}"
        )
        missed |= ratio < TARGET or apart > 1e-6
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
