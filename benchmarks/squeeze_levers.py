"""What each lever of the squeeze is worth: tax at one byte budget with one of them left out at a time.

    python benchmarks/squeeze_levers.py w.safetensors --calibration FILE --val val.bin [--cap 1551332]

Weights are golf's own (`golf import`). Every line meets the same budget; scored in windows of 512. Seconds are the
processor's for rounding, fitting and learning; curvature is the same for all lines.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from golf.arch import symmetries
from golf.contracts import quiet
from golf.data import local, shards, stream, tokenizer
from golf.eval import sliding
from golf.host import Host
from golf.pack import container
from golf.pack.container import PackSpec
from golf.pack.rans import Rans
from golf.pack.zstd import Zstd
from golf.publish.use.convert import squeeze
from golf.publish.use.source import open_source
from golf.quant import fisher, hessian, symmetry, waterfill
from golf.quant.apply import QuantSpec, dequantize
from golf.quant.fisher import INPUT_DAMP, Curvature
from golf.quant.gptq import GPTQ, Factor, factor
from golf.quant.nearest import Keep, RoundNearest
from golf.quant.squeeze import Squeeze

Change = Callable[[Curvature], Curvature]


class LoudestFirst(Curvature):
    @cached_property
    def factor(self) -> Factor:
        return factor(self.name, self.inputs_KK, INPUT_DAMP, act_order=True)


def even_rows(known: Curvature) -> Curvature:
    return replace(known, rows_R=known.rows_R.mean().expand_as(known.rows_R))


def no_feedback(known: Curvature) -> Curvature:
    return known if known.inputs_KK is None else replace(known, inputs_KK=known.inputs_KK.diagonal().diag())


def loudest_first(known: Curvature) -> Curvature:
    return LoudestFirst(known.name, known.inputs_KK, known.rows_R)


@contextmanager
def even_columns() -> Iterator[None]:
    """One factor for all columns: the one of their mean."""
    usual = waterfill.shares
    waterfill.shares = lambda left_K, rows_R, step: usual(left_K.mean().expand_as(left_K), rows_R, step)
    try:
        yield
    finally:
        waterfill.shares = usual


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--cap", type=int, default=1_551_332)
    told = parser.parse_args()
    source = open_source(told.weights)
    speaker = tokenizer.Tokenizer(source.tokenizer)
    text = local.tokens_of(told.calibration, speaker)
    val, table = shards.Tokens((told.val,)), tokenizer.byte_table(source.tokenizer)
    model = source.build()
    plan = Squeeze().calibration
    window = source.about["eval"]["window"]
    batches = list(stream.sample(text, count=plan.sequences, rows=plan.rows, seq_len=window, seed=0))
    known = fisher.collect(model, batches, host=Host()).by_name
    grams = hessian.collect(model, batches, host=Host()).by_name

    def score(weights: dict[str, Tensor]) -> float:
        fresh = source.build()
        fresh.load_state_dict(weights)
        return sliding.score(fresh, val, table, window=512, stride=512).bpb

    plain = score(source.weights)

    settled, known_settled = symmetry.settle(source.weights, known, symmetries.of(model.spec))

    def line(what: str, spec: QuantSpec, hessians: dict, pack: PackSpec) -> None:
        weights = settled if hessians is known_settled else source.weights
        model.load_state_dict(weights)

        def size_of(qtensors: dict) -> int:
            return len(container.dump(qtensors, source.about, pack))

        begin, bounds = time.process_time(), {"size_of": size_of, "cap": told.cap, "sink": quiet}
        found = spec.fit(weights, model.roles(), hessians, **bounds)
        if isinstance(spec, Squeeze) and spec.learn:
            found = spec.refine(found, model, hessians, batches, host=Host(), **bounds)
        seconds = time.process_time() - begin
        tax = score(dequantize(found.qtensors)) - plain
        print(f"{what:<52}{found.bytes:>10,}{tax:>10.5f}{seconds:>8.0f}", flush=True)

    fewer = fisher.collect(model, batches[: len(batches) // 4], host=Host()).by_name
    lines(line, known, known_settled, fewer, grams)


def lines(
    line: Callable,
    known: dict[str, Curvature],
    settled: dict[str, Curvature],
    fewer: dict[str, Curvature],
    grams: dict[str, Tensor],
) -> None:
    def changed(change: Change) -> dict[str, Curvature]:
        return {name: change(curvature) for name, curvature in known.items()}

    def plain_inputs(curvature: Curvature) -> Curvature:
        """The Hessian of GPTQ: inputs as they come, not weighted by what the loss makes of them."""
        H_KK = grams.get(curvature.name)
        return curvature if H_KK is None else replace(curvature, inputs_KK=H_KK / H_KK.diagonal().mean())

    rans, zstd = PackSpec(codec=Rans()), PackSpec(codec=Zstd())
    by_hand = QuantSpec(
        matrix=GPTQ(bits=8, k=40.0), head=GPTQ(bits=8, k=10.0), embed=RoundNearest(k=10.0), control=Keep()
    )
    print(f"{'lever':<52}{'bytes':>10}{'tax':>10}{'seconds':>8}", flush=True)
    line("one k a role, GPTQ, zstd", by_hand, grams, zstd)
    line("one k a role, GPTQ, rans", by_hand, grams, rans)
    one_grid, two_grids = Squeeze(learn=0), squeeze("default", 1024).quant
    line("all levers", two_grids, settled, rans)
    line("and several beginnings of rows: --effort thorough", squeeze("thorough", 1024).quant, settled, rans)
    line("units in the order they came", two_grids, known, rans)
    line("and without learning after rounding", replace(two_grids, learn=0), known, rans)
    line("and with one grid instead of two", one_grid, known, rans)
    line("  and control tensors in float16", replace(one_grid, control=Keep()), known, rans)
    line("  and zstd instead of rans", one_grid, known, zstd)
    with even_columns():
        line("  and one step for all columns", one_grid, known, rans)
    line("  and one step for all rows of a tensor", one_grid, changed(even_rows), rans)
    line("  and inputs not weighted by gradients", one_grid, changed(plain_inputs), rans)
    line("  and no error feedback", one_grid, changed(no_feedback), rans)
    line("  and loudest columns first", one_grid, changed(loudest_first), rans)
    line("  and a quarter of the calibration text", one_grid, fewer, rans)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
