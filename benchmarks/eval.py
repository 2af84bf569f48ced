"""Every kind of evaluation on the PR 1361 shape, beside the obvious implementation, scores side by side.

    python benchmarks/eval.py [--tokens 6144] [--threads 1] [--run RUN]

The model has the record's 27,067,484 parameters, drawn at random, and its window of 2,048. Two streams of random
tokens are scored at stride 64: one text without a boundary, and documents as long as the challenge's (log-normal,
mean 1,240 tokens). The obvious loop feeds every window whole, sends every position through the head and picks the new
ones; documents by themselves it feeds one to a window, padded. Learning by chunks it does on top of its own windows.
Figures are CPU seconds of one pass each, which other work disturbs least.

A short stream flatters windows: its first one scores 2,048 targets at once, and any after it 64. What the rolling cache
spares is therefore also told as in a long stream, where every window scores a stride: against the obvious loop's, and
against golf's own.

Targets: the sliding window 1.3 times the obvious loop's speed at equal sums (1e-6 apart), on both streams; in a long
text the rolling cache 15 times cheaper than windows, golf's own too.

With --run, a run folder's own model is scored on its own validation text by every kind: what each gives and costs.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from golf.arch.unet import UNetSpec
from golf.contracts import ByteTable, Evaluation, Score
from golf.eval.chunks import ChunkSGD, sequences
from golf.eval.lora import DocumentLoRA
from golf.eval.rolling import Rolling
from golf.eval.sliding import SlidingWindow

VOCAB, BOS, WINDOW, STRIDE = 1024, 1, 2048, 64
FASTER, CHEAPER, APART = 1.3, 15, 1e-6
TABLE = ByteTable(np.full(VOCAB, 2), np.zeros(VOCAB, bool), np.zeros(VOCAB, bool))
LEARNING = {"chunk": 2048, "epochs": 1, "rows": 1, "lr": 1e-4}


@torch.no_grad()
def obvious(model: nn.Module, tokens: np.ndarray, first: int = 0, last: int | None = None, rows: int = 8) -> float:
    """Nats of the targets of positions first..last, by windows at multiples of the stride, `rows` of them a batch."""
    ids, last = torch.from_numpy(tokens.astype(np.int64)), len(tokens) - 1 if last is None else last
    plan = [(0, 0, WINDOW)] + [
        (start - WINDOW + STRIDE, start, start + STRIDE) for start in range(WINDOW, last, STRIDE)
    ]
    plan = [(begin, max(start, first), min(end, last)) for begin, start, end in plan if end > first]
    nats = 0.0
    for at in range(0, len(plan), rows):
        chosen = plan[at : at + rows]
        inputs, targets = torch.zeros(2, len(chosen), WINDOW, dtype=torch.long)
        for row, (begin, _, end) in enumerate(chosen):
            inputs[row, : end - begin], targets[row, : end - begin] = ids[begin:end], ids[begin + 1 : end + 1]
        losses = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), reduction="none").view(inputs.shape)
        for row, (begin, start, end) in enumerate(chosen):
            nats += losses[row, start - begin : end - begin].double().sum().item()
    return nats


def obvious_documents(model: nn.Module, tokens: np.ndarray) -> float:
    """Each document by itself, in windows of its own."""
    edges = [0, *(np.flatnonzero(tokens[1:-1] == BOS) + 1).tolist(), len(tokens) - 1]
    return sum(obvious(model, tokens[begin : end + 1]) for begin, end in itertools.pairwise(edges))


def obvious_chunks(model: nn.Module, tokens: np.ndarray) -> float:
    """Score a chunk, learn from it, go on."""
    model, nats, last = copy.deepcopy(model), 0.0, len(tokens) - 1
    optimizer = torch.optim.SGD(model.parameters(), LEARNING["lr"], 0.9)
    for first in range(0, last, LEARNING["chunk"]):
        end = min(first + LEARNING["chunk"], last)
        nats += obvious(model, tokens, first, end)
        if end < last:
            optimizer.zero_grad()
            model.loss(*sequences(tokens[first : end + 1].astype(np.int64), WINDOW)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return nats


def timed(call: Callable[..., float | Score], *arguments: object, **options: object) -> tuple[float, float]:
    """(nats, CPU seconds)."""
    begin = time.process_time()
    found = call(*arguments, **options)
    return (found.nats if isinstance(found, Score) else found), time.process_time() - begin


def show(name: str, count: int, nats: float, seconds: float, against: tuple[float, float], aim: str = "") -> float:
    """Print a line; returns how many times the other's seconds are."""
    ratio = against[1] / seconds
    print(
        f"  {name:<34} {count / seconds:9,.1f} tokens/s  {nats / count:9.6f} nats/token  "
        f"{ratio:6.2f} x  apart {abs(nats / against[0] - 1):.1e}  {aim}",
        flush=True,
    )
    return ratio


def random_model() -> nn.Module:
    torch.manual_seed(0)
    model = UNetSpec(qk_gain=4.0).build().eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model


def random_stream(count: int, documents: bool) -> np.ndarray:
    draw = np.random.default_rng(0)
    tokens = draw.integers(2, VOCAB, count + 1).astype(np.uint16)
    tokens[0] = BOS
    if documents:
        ends = draw.lognormal(np.log(1240) - 0.5, 1.0, count).cumsum().astype(int)
        tokens[ends[ends <= count]] = BOS
    return tokens


def race(model: nn.Module, tokens: np.ndarray, documents: bool) -> bool:
    """Every kind on one stream, those that go by documents on documents alone; whether a target was missed."""
    count, given = len(tokens) - 1, (model, tokens, TABLE)
    print(f"{count:,} targets, {'documents' if documents else 'one text'} ({(tokens == BOS).sum()} BOS)")
    plain = timed(obvious, model, tokens)
    show("obvious, 8 windows a batch", count, *plain, plain)
    if not documents:
        show("obvious, 1 window a batch", count, *timed(obvious, model, tokens, rows=1), plain)
    found = timed(SlidingWindow(window=WINDOW, stride=STRIDE).score, *given)
    missed = show("sliding, stride 64", count, *found, plain, f"target {FASTER}") < FASTER
    missed |= abs(found[0] / plain[0] - 1) > APART
    rolled = timed(Rolling(window=WINDOW).score, *given)
    show("rolling cache", count, *rolled, plain, "another score")
    if not documents:
        windows, target = 1 + -(-(count - WINDOW) // STRIDE), rolled[1] / count
        for name, seconds in (("obvious", plain[1]), ("sliding", found[1])):
            spared = seconds / windows / STRIDE / target
            print(f"  rolling, in a long text, against {name} windows: {spared:.1f} x  target {CHEAPER}")
            missed |= spared < CHEAPER
        return missed
    alone = timed(obvious_documents, model, tokens)
    show("obvious, documents isolated", count, *alone, alone)
    apart = SlidingWindow(window=WINDOW, stride=STRIDE, documents="isolated", bos=BOS)
    show("documents isolated", count, *timed(apart.score, *given), alone)
    adapted = timed(DocumentLoRA(window=WINDOW, bos=BOS, lr=1e-4).score, *given)
    show("document LoRA, against that", count, *adapted, alone, "another score")
    learned = timed(obvious_chunks, model, tokens)
    show("obvious, learning by chunks", count, *learned, learned)
    spec = ChunkSGD(window=WINDOW, stride=STRIDE, **LEARNING)
    show("learning by chunks", count, *timed(spec.score, *given), learned)
    return missed


def compare(run: Path, limit: int) -> None:
    """A run's model on its own validation text, by every kind."""
    from golf.data import local, tokenizer
    from golf.publish.use.convert import recall
    from golf.publish.use.scoring import evaluation
    from golf.publish.use.source import open_source

    source = open_source(run)
    tokens = local.tokens_of(recall(run), tokenizer.Tokenizer(source.tokenizer))[: limit + 1]
    table, model, own = tokenizer.byte_table(source.tokenizer), source.build(), evaluation(source.about["eval"])
    window = own.window
    kinds: Sequence[Evaluation] = (
        SlidingWindow(window=window, stride=window),
        SlidingWindow(window=window, stride=max(1, window // 2)),
        SlidingWindow(window=window, stride=max(1, window // 32)),
        SlidingWindow(window=window, stride=max(1, window // 32), documents="isolated"),
        Rolling(window=window),
        ChunkSGD(window=window, stride=max(1, window // 2), chunk=8192, rows=8),
        DocumentLoRA(window=window, chunk=max(1, window // 4)),
    )
    print(f"{run}: {len(tokens) - 1:,} targets of its validation text, window {window}")
    for spec in kinds:
        begin = time.process_time()
        score = spec.score(model, tokens, table)
        seconds = time.process_time() - begin
        named = {name: value for name, value in vars(spec).items() if name in ("stride", "documents", "chunk")}
        print(f"  {spec.kind:<14} {score.bpb:.5f} bpb  {seconds:7.1f} s CPU  {named}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=6144, help="targets to score (with --run: at most so many)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--run", type=Path, help="a run folder, whose own model and text are scored instead")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.run is not None:
        compare(chosen.run, chosen.tokens)
        return 0
    model = random_model()
    missed = [race(model, random_stream(chosen.tokens, documents), documents) for documents in (False, True)]
    return int(any(missed))


if __name__ == "__main__":
    sys.exit(main())
