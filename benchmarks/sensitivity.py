"""Does curvature foretell what rounding a tensor costs? Predicted against measured, tensor by tensor, every family.

    python benchmarks/sensitivity.py FOLDER [--weights w.safetensors --text FILE] [--plot FILE.png]

Each tensor is rounded alone, as `golf quantize` rounds it, all others left as they are. Predicted is the loss that its
report has for the tensor, from which the tax it prints is made; measured is the divergence of the model's predictions
from those of the untouched model. Both are nats per token, the latter on windows that the curvature has not seen:
random ids for the families' small checkpoints, text for weights of golf's own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr
from torch import Tensor, nn

from golf.arch import families
from golf.data import local, stream, tokenizer
from golf.host import Host
from golf.publish.use.convert import squeeze
from golf.publish.use.source import open_source
from golf.quant import fisher, report
from golf.quant.apply import dequantize, quantize

FAMILIES = ("pr1361", "gelu_gpt", "qed", "xgqa", "powergqa")


def cases(told: argparse.Namespace) -> Iterator[tuple[str, nn.Module, list[Tensor], list[Tensor]]]:
    """(name, model, batches for the curvature, batches to measure on)."""
    random = torch.Generator().manual_seed(0)
    for family in FAMILIES:
        config = json.loads((told.oracles / f"{family}_a.json").read_bytes())["config"]
        data = load_file(told.oracles / f"{family}_a.safetensors")
        state = {name[2:]: tensor for name, tensor in data.items() if name.startswith("w.")}
        model = families.import_checkpoint(family, state, config).eval()
        ids = torch.randint(model.spec.vocab, (80, 4, 32), generator=random)
        yield family, model, list(ids[:64]), list(ids[64:])
    if told.weights:
        source = open_source(told.weights)
        tokens = local.tokens_of(told.text, tokenizer.Tokenizer(source.tokenizer))
        windows = list(stream.sample(tokens, count=144, rows=1, seq_len=512, seed=0))
        yield told.weights.stem, source.build(), windows[:128], windows[128:]


@torch.no_grad()
def logs(model: nn.Module, batches: list[Tensor]) -> list[Tensor]:
    return [model(ids).double().log_softmax(dim=-1) for ids in batches]


@torch.no_grad()
def measure(model: nn.Module, told: argparse.Namespace, curvature: dict, batches: list[Tensor]) -> np.ndarray:
    """Predicted and measured nats per token of every tensor that the loss minds at all, [n, 2]."""
    before, found, roles = logs(model, batches), [], model.roles()
    count = sum(ids.numel() for ids in batches)
    plan = squeeze("default", 1).quant
    for name, W in model.named_parameters():
        kept = W.detach().clone()
        rounded = quantize({name: kept}, {name: roles[name]}, curvature, plan, told.step / plan.matrix.step)
        (row,) = report.rows({name: kept}, rounded, curvature)
        predicted = row.loss
        W.copy_(dequantize(rounded)[name])
        after = logs(model, batches)
        W.copy_(kept)
        nats = sum((p.exp() * (p - q)).sum().item() for p, q in zip(before, after)) / count
        if predicted > 0 and nats > 0:
            found.append((predicted, nats))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("oracles", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--step", type=float, default=3e-3)
    parser.add_argument("--plot", type=Path)
    told = parser.parse_args()
    print(f"{'model':<12}{'tensors':>8}{'rank correlation':>18}{'measured / predicted, quartiles':>34}")
    points = {}
    for name, model, learn, held in cases(told):
        curvature = fisher.collect(model, learn, host=Host()).by_name
        points[name] = found = measure(model, told, curvature, held)
        quartiles = " ".join(f"{share:8.2f}" for share in np.quantile(found[:, 1] / found[:, 0], (0.25, 0.5, 0.75)))
        print(f"{name:<12}{len(found):>8}{spearmanr(*found.T).statistic:>18.3f}{quartiles:>34}", flush=True)
    if told.plot:
        draw(points, told.plot)


def draw(points: dict[str, np.ndarray], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 6))
    for name, found in points.items():
        axes.loglog(*found.T, "o", ms=4, alpha=0.7, label=name)
    low, high = min(found.min() for found in points.values()), max(found.max() for found in points.values())
    axes.plot([low, high], [low, high], "k:", lw=1)
    axes.set(
        xlabel="predicted, nats per token", ylabel="measured, nats per token", title="One tensor rounded at a time"
    )
    axes.legend()
    figure.savefig(file, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
