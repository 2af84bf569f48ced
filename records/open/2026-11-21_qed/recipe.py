"""QED-75M as its repository trains it: 10 billion tokens at a context of 2,048, then annealing at 8,192."""

from dataclasses import replace

from golf.arch.qed import QEDSpec
from golf.data.local import Documents
from golf.data.mixture import Mixture
from golf.eval.sliding import SlidingWindow
from golf.pack.container import PackSpec
from golf.pack.rans import Rans
from golf.quant.apply import Calibration, QuantSpec
from golf.quant.gptq import GPTQ
from golf.quant.nearest import Keep, RoundNearest
from golf.recipe import Recipe
from golf.train.curves import Chain, Cosine
from golf.train.spec import AdamW, Stage, TrainSpec

ADAMW = AdamW(lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
ANNEAL = 20_000 / 20_500  # where the second stage begins

RECIPE = Recipe(
    track="open",
    data=Mixture(
        sources=(
            (0.6, Documents(train=("data/qed/fineweb_edu.jsonl.zst",))),
            (0.2, Documents(train=("data/qed/cosmopedia_v2.jsonl.zst",))),
            (0.1, Documents(train=("data/qed/stack_python.jsonl.zst",))),
            (0.1, Documents(train=("data/qed/finemath.jsonl.zst",))),
        ),
        vocab=49152,
    ),
    model=QEDSpec(),
    train=TrainSpec(
        steps=20_500,
        batch_tokens=524_288,
        seq_len=2048,
        rows=8,
        ema=0.0,
        stages=(Stage(begin=ANNEAL, seq_len=8192),),
        matrix=ADAMW,
        head=ADAMW,
        embed=ADAMW,
        control=replace(ADAMW, weight_decay=0.0),
        schedule=Chain(
            parts=(
                (0.0, Cosine(warmup_steps=2000, floor=0.1)),
                (ANNEAL, Cosine(warmup_steps=50, peak=1 / 3, floor=0.1)),
            )
        ),
        grad_clip=1.0,
    ),
    quant=QuantSpec(
        matrix=GPTQ(bits=6),
        head=GPTQ(bits=8),
        embed=RoundNearest(bits=8),
        control=Keep("float16"),
        calibration=Calibration(sequences=256),
    ),
    pack=PackSpec(codec=Rans()),
    eval=SlidingWindow(window=8192, stride=4096),
)
