import dataclasses

import pytest

from golf.contracts import SpecError
from golf.train.spec import AdamW, Muon, Stage, TrainSpec


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: TrainSpec(), "neither seconds nor steps"),
        (lambda: TrainSpec(seconds=0), "TrainSpec.seconds=0"),
        (lambda: TrainSpec(steps=0), "TrainSpec.steps=0"),
        (lambda: TrainSpec(steps=1, seq_len=0), "TrainSpec.seq_len=0"),
        (lambda: TrainSpec(steps=1, rows=0), "TrainSpec.rows=0"),
        (lambda: TrainSpec(steps=1, ema=1.0), "TrainSpec.ema=1.0"),
        (lambda: TrainSpec(steps=1, warmup=0.5, warmdown=0.6), "warmup + warmdown=1.1"),
        (lambda: TrainSpec(steps=1, min_lr=-0.1), "TrainSpec.min_lr=-0.1"),
        (lambda: TrainSpec(steps=1, grad_clip=-1), "TrainSpec.grad_clip=-1"),
        (lambda: TrainSpec(steps=1, explode=1.0), "TrainSpec.explode=1.0"),
        (lambda: TrainSpec(steps=1, compile="maybe"), "TrainSpec.compile=maybe"),
        (lambda: TrainSpec(steps=1, warmup_steps=-1), "TrainSpec.warmup_steps=-1"),
        (lambda: TrainSpec(steps=1, warmup_steps=0, stages=(Stage(begin=0.5),)), "warmup_steps=0"),
        (lambda: TrainSpec(steps=1, stages=(Stage(begin=0.5), Stage(begin=0.2))), "rising order"),
        (lambda: TrainSpec(steps=1, stages=(Stage(begin=0.5), Stage(begin=0.5))), "each begin once"),
        (lambda: TrainSpec(steps=1, stages=(Stage(begin=0.5, seq_len=3000),)), "Stage.seq_len="),
        (
            lambda: TrainSpec(steps=1, stages=(Stage(begin=0.5, seq_len=1 << 17),)),
            "which divides rows x seq_len (98304)",
        ),
        (lambda: TrainSpec(steps=1, stages=(Stage(begin=0.5, seq_len=0),)), "Stage.seq_len=0"),
        (lambda: TrainSpec(steps=1, log_every=0), "TrainSpec.log_every=0"),
        (lambda: TrainSpec(steps=1, checkpoint_seconds=-1), "TrainSpec.checkpoint_seconds=-1"),
        (lambda: Stage(begin=1.0), "Stage.begin=1.0"),
        (lambda: Stage(begin=-0.1), "Stage.begin=-0.1"),
        (lambda: Muon(lr=-1), "Muon.lr=-1"),
        (lambda: Muon(momentum=1.0), "Muon.momentum=1.0"),
        (lambda: Muon(coefficients="cubic"), "Muon.coefficients=cubic"),
        (lambda: Muon(iterations=0), "Muon.iterations=0"),
        (lambda: AdamW(lr=0.1, betas=(0.9, 1.0)), "AdamW.betas"),
        (lambda: AdamW(lr=0.1, eps=0), "AdamW.eps=0"),
        (lambda: AdamW(lr=0.1, weight_decay=float("nan")), "AdamW.weight_decay=nan"),
    ],
)
def test_values_that_cannot_work_are_named(make, told):
    with pytest.raises(SpecError) as error:
        make()
    assert told in str(error.value)


def test_accumulation_splits_the_batch_over_rows_and_ranks():
    spec = TrainSpec(steps=1, batch_tokens=786_432, seq_len=2048, rows=48)
    assert [spec.accumulation(world) for world in (1, 2, 4, 8)] == [8, 4, 2, 1]
    with pytest.raises(SpecError, match="16 ranks; nearest that does: 1572864"):
        spec.accumulation(16)
    with pytest.raises(SpecError, match=r"batch_tokens=1000 .* nearest that does: 1024"):
        TrainSpec(steps=1, batch_tokens=1000, seq_len=64, rows=4)


def test_a_stage_lists_what_is_on():
    assert Stage(begin=0.1, fake_quant=True, on=("loop",)).switches == {"fake_quant", "loop"}
    assert Stage(begin=0.1).switches == frozenset()
    assert Stage(begin=0.1, seq_len=8192, fake_quant=True).switches == {"fake_quant", "seq_len=8192"}


def test_specs_are_values():
    spec = TrainSpec(steps=3)
    assert dataclasses.replace(spec, steps=3) == spec
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.steps = 4
