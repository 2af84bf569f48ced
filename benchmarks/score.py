"""Scoring by sliding windows: golf's against the obvious loop, which sends every position through the head.

    python benchmarks/score.py [--tokens 16384] [--threads 1]

The model is a small U-Net (6 layers, 256 wide, 4 M parameters), the window 512. Both sides score the same targets
with the same windows in batches of the same size; their sums must agree to 1e-6. Target: 1.15 times the tokens/s.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.arch.unet import UNetSpec
from golf.contracts import ByteTable
from golf.eval.sliding import score

WINDOW, BATCH_TOKENS, TARGET = 512, 8192, 1.15


@torch.no_grad()
def obvious(model: nn.Module, tokens: np.ndarray, stride: int) -> float:
    """Nats of t_1..t_N: all windows, all positions through the head, then the new ones are picked."""
    ids, total = torch.from_numpy(tokens.astype(np.int64)), len(tokens) - 1
    begins = [begin for begin in range(0, total, stride) if begin == 0 or begin + WINDOW - stride < total]
    nats, rows = 0.0, BATCH_TOKENS // WINDOW
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


def best(function, repeats: int) -> tuple[float, float]:
    """(result, fewest seconds) of a few calls."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - begin)
    return result, min(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16384, help="tokens scored at stride 64; 4 times that at 256")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    model = UNetSpec(layers=6, dim=256, rope_length=WINDOW).build().eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    table = ByteTable(np.full(1024, 2), np.zeros(1024, bool), np.zeros(1024, bool))
    missed = False
    for stride, factor in ((64, 1), (256, 4)):
        tokens = np.random.default_rng(0).integers(2, 1024, chosen.tokens * factor + 1).astype(np.uint16)
        tokens[::300] = 1

        def ours(tokens=tokens, stride=stride):
            return score(model, tokens, table, window=WINDOW, stride=stride, batch_tokens=BATCH_TOKENS).nats

        mine, seconds = best(ours, chosen.repeats)
        plain, plain_seconds = best(lambda tokens=tokens, stride=stride: obvious(model, tokens, stride), chosen.repeats)
        apart, ratio = abs(mine / plain - 1), plain_seconds / seconds
        rates = [(len(tokens) - 1) / each for each in (seconds, plain_seconds)]
        print(
            f"stride {stride:3d}, threads {chosen.threads}: golf {rates[0]:7,.0f} tokens/s, obvious {rates[1]:7,.0f}, "
            f"ratio {ratio:.2f} (target {TARGET}), scores differ by {apart:.1e}"
        )
        missed |= ratio < TARGET or apart > 1e-6
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
