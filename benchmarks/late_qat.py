"""Does late QAT pay under the squeeze, and does it help to rehearse the squeeze's own steps? A paired study.

    python benchmarks/late_qat.py [--seeds 0 1 2] [--steps 500] [--save DIR]

The default record made smaller, for a fixed number of steps. Each seed trains once up to the last stage, 85 % of the
steps; from that checkpoint it goes on without rounding, on a plain grid of each width, and on the steps aimed at each
budget. All of them are squeezed into the same bytes: about 3 and 4 bits for every parameter. With --save, a seed whose
results lie there is not run again, so seeds can run as processes of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from scipy import stats
from torch import Tensor, nn

from golf import recipe as recipes
from golf import run
from golf.contracts import Corpus, Hessians, quiet
from golf.data import shards, stream, tokenizer
from golf.eval import significance, sliding
from golf.host import Host, write_atomic
from golf.pack import container
from golf.quant import fisher, waterfill
from golf.quant.apply import LATE_QAT, Calibration, dequantize, fake_quantizer
from golf.quant.grid import to_codes
from golf.quant.rehearse import Rehearsed, reach
from golf.quant.squeeze import Squeeze
from golf.quant.waterfill import Waterfill
from golf.train import checkpoint, engine
from golf.train.spec import Stage, TrainSpec

RECORD = Path(__file__).resolve().parents[1] / "records" / "cpu_5min_1mb" / "2026-11-21_baseline"
CONTEXT, ROWS, SCORED, BEGIN = 128, 8, 65_536, 0.85
# Bits a parameter, and the clip in deviations at which a plain grid of 6 bits spends as many.
WIDTHS = {3: 16.0, 4: 8.0}
QUANT = Rehearsed(calibration=Calibration(sequences=128, rows=1))
HOST = Host()


@dataclass(frozen=True, kw_only=True)
class Falling:
    """The record's course over `steps` steps, whatever share of them a call of the engine takes."""

    steps: int
    warmdown: float = 0.6

    def scale(self, step: int, progress: float) -> float:
        return min(1.0, (1 - step / self.steps) / self.warmdown)

    def tiny(self) -> Falling:
        return self


class Study:
    """One seed: what is trained in common, the branches, and what becomes of them in bytes."""

    def __init__(self, seed: int, steps: int, folder: Path) -> None:
        self.recipe = recipes.load(RECORD)
        shape = replace(self.recipe.model, layers=4, dim=96, rope_length=CONTEXT, xsa_last=4)
        self.shape = replace(shape, bigram=replace(shape.bigram, rows=4096, dim=48))
        self.seed, self.steps, self.folder = seed, steps, folder
        self.corpus: Corpus = run.open_corpus(self.recipe, HOST, quiet)
        self.table = tokenizer.byte_table(self.corpus.tokenizer)
        self.val = shards.Tokens(self.corpus.val, self.corpus.vocab)[:SCORED]
        self.measured: dict = {}

    def caps(self) -> dict[int, int]:
        elements = sum(W.numel() for W in self.shape.build().parameters())
        return {bits: elements * bits // 8 for bits in WIDTHS}

    def text(self, windows: int) -> Iterator[Tensor]:
        return stream.sample(
            self.corpus.train, count=windows, rows=1, seq_len=CONTEXT, seed=self.seed, rank=0, world=1,
            vocab=self.corpus.vocab,
        )  # fmt: skip

    def spec(self, steps: int, rounds: bool) -> TrainSpec:
        return replace(
            self.recipe.train, seconds=None, steps=steps, seq_len=CONTEXT, rows=ROWS, batch_tokens=ROWS * CONTEXT,
            schedule=Falling(steps=self.steps), stages=(Stage(begin=BEGIN, fake_quant=True),) if rounds else (),
            compile="off", warmup_steps=1, checkpoint_seconds=1e9,
        )  # fmt: skip

    def fit(self, name: str, spec: TrainSpec, cap: int, k: float | None) -> tuple[nn.Module, dict[str, Tensor]]:
        """Train from the checkpoint of that name if it is there, on a plain grid where `k` is given."""
        torch.manual_seed(self.seed)
        model = self.shape.build()
        stages = self.spec(self.steps, rounds=True)
        switch = QUANT.rehearse(model, lambda: self.text(QUANT.calibration.sequences), cap, stages, HOST)[LATE_QAT]
        if k is not None:
            plain = Waterfill(bits=6, k=k)
            switch = fake_quantizer(model, Squeeze(matrix=plain, head=plain, embed=plain))
        feed = stream.TokenStream(
            self.corpus.train, seq_len=CONTEXT, seed=self.seed, rank=0, world=1, rows=ROWS, vocab=self.corpus.vocab
        )
        with contextlib.closing(feed):
            trained = engine.fit(
                model, feed, spec, host=HOST, sink=quiet, seed=self.seed, switches={"fake_quant": switch},
                checkpoint=self.folder / f"{name}.safetensors", resume=True,
            )  # fmt: skip
        model.load_state_dict(trained.average)
        return model, trained.average

    def branch(self, name: str, cap: int = 0, k: float | None = None, rounds: bool = True) -> tuple:
        """The last stage, from where all branches part; and the curvature that it aimed by, if it measured any."""
        tensors, meta = checkpoint.load(self.folder / "shared.safetensors")
        checkpoint.save(self.folder / f"{name}.safetensors", tensors, meta | {"stopped": "", "progress": 0.0})
        with remembered(found := []):
            model, weights = self.fit(name, self.spec(self.steps, rounds), cap, k)
        (self.folder / f"{name}.safetensors").unlink()
        return model, weights, found

    def squeeze(self, model: nn.Module, weights: dict[str, Tensor], known: dict, cap: int) -> dict[str, float]:
        def size_of(qtensors: dict) -> int:
            return len(container.dump(qtensors, {}, self.recipe.pack))

        # From where an ideal coder would end, the fit takes fewer tries.
        near = Waterfill(step=QUANT.matrix.step * 2 ** reach(weights, model.roles(), known, QUANT, cap))
        spec = Squeeze(matrix=near, head=near, embed=near, control=near)
        fitted = spec.fit(weights, model.roles(), known, size_of=size_of, cap=cap, sink=quiet)
        return {"bytes": fitted.bytes, "bpb": self.score(dequantize(fitted.qtensors))}

    def score(self, weights: dict[str, Tensor]) -> float:
        fresh = self.shape.build()
        fresh.load_state_dict(weights)
        return sliding.score(fresh.eval(), self.val, self.table, window=CONTEXT, stride=CONTEXT).bpb

    def results(self) -> Iterator[dict]:
        self.fit("shared", self.spec(round(BEGIN * self.steps), rounds=False), 0, None)
        caps, without = self.caps(), self.branch("without", rounds=False)
        for bits, cap in caps.items():
            branches = {
                "without": without,
                "plain grid": self.branch("plain", k=WIDTHS[bits]),
                "aimed": self.branch("aimed", cap),
            }
            for name, (model, weights, found) in branches.items():
                known = fisher.collect(model, self.text(QUANT.calibration.sequences), host=HOST).by_name
                facts = {"bits": bits, "cap": cap, "unquantized": self.score(weights)}
                yield {"name": name} | facts | self.squeeze(model, weights, known, cap)
                if not found:
                    continue
                held = found[-1].by_name
                yield {"name": "aimed, export on its steps"} | facts | self.squeeze(model, weights, held, cap)
                with to_nearest():
                    yield {"name": "the same, to nearest"} | facts | self.squeeze(model, weights, held, cap)


@contextlib.contextmanager
def remembered(found: list) -> Iterator[None]:
    """What curvature is measured within, in order."""
    usual = fisher.collect

    def collect(*given: Any, **named: Any) -> Hessians:
        found.append(usual(*given, **named))
        return found[-1]

    with mock.patch.object(fisher, "collect", collect):
        yield


@contextlib.contextmanager
def to_nearest() -> Iterator[None]:
    """Export rounds as the stage does, without making up for errors."""

    def solve(weights: list, factors: list, scales: list, grid: waterfill.Grid, block: int) -> list:
        return [to_codes(W_RK, scale_R1, grid).T for W_RK, scale_R1 in zip(weights, scales)]

    with mock.patch.object(waterfill, "solve", solve):
        yield


def of_seed(seed: int, steps: int, save: Path | None) -> list[dict]:
    file = save / f"{seed}-{steps}.json" if save else None
    if file and file.exists():
        return json.loads(file.read_text())
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for line in Study(seed, steps, Path(folder)).results():
            print(f"seed {seed}: {line}", flush=True)
            found.append(line)
    if file:
        write_atomic(file, json.dumps(found, indent=1).encode())
    return found


def interval(old: dict[int, float], new: dict[int, float]) -> str:
    """Mean of new - old over seeds, and its 95 % t interval where there is more than one."""
    if len(old) == 1:
        return "".join(f"{new[seed] - old[seed]:+.4f}" for seed in old)
    verdict = significance.paired(old, new)
    spread = significance.sample([old[seed] - new[seed] for seed in old])
    half = stats.t.ppf(0.975, verdict.df) * math.sqrt(spread.error)
    return f"{-verdict.delta:+.4f} ± {half:.4f}"


def table(seeds: dict[int, list[dict]]) -> None:
    def by_seed(name: str, bits: int, value: Callable[[dict], float]) -> dict[int, float]:
        return {
            seed: value(line)
            for seed, found in seeds.items()
            for line in found
            if (line["name"], line["bits"]) == (name, bits)
        }

    values = {
        "bytes": lambda x: x["bytes"],
        "plain": lambda x: x["unquantized"],
        "bpb": lambda x: x["bpb"],
        "tax": lambda x: x["bpb"] - x["unquantized"],
    }
    print("| bits | late QAT | bytes | unquantized | artifact | tax | artifact less without | less plain grid |")
    print("|---|---|---|---|---|---|---|---|")
    names = list(dict.fromkeys(line["name"] for line in next(iter(seeds.values()))))
    for bits in WIDTHS:
        for name in names:
            mean = {what: statistics.fmean(by_seed(name, bits, value).values()) for what, value in values.items()}
            scores = {other: by_seed(other, bits, values["bpb"]) for other in ("without", "plain grid", name)}
            against = [
                interval(scores[other], scores[name]) if name != other else "" for other in ("without", "plain grid")
            ]
            cells = [f"{mean['bytes']:,.0f}", *(f"{mean[what]:.4f}" for what in ("plain", "bpb", "tax")), *against]
            print(f"| {bits} | {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--save", type=Path)
    told = parser.parse_args()
    seeds = {seed: of_seed(seed, told.steps, told.save) for seed in told.seeds}
    table(seeds)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
