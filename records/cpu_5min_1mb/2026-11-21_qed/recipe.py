"""QED, small: a minute on the built-in text, the last fifth of it at four times the context."""

from dataclasses import replace

from golf.arch.qed import QEDSpec
from golf.data.builtin import BuiltIn
from golf.eval.sliding import SlidingWindow
from golf.pack.container import PackSpec
from golf.pack.rans import Rans
from golf.quant.apply import Calibration, QuantSpec
from golf.quant.gptq import GPTQ
from golf.quant.nearest import Keep, RoundNearest
from golf.recipe import Recipe
from golf.train.curves import Cosine
from golf.train.spec import AdamW, Stage, TrainSpec

ADAMW = AdamW(lr=4e-3, betas=(0.9, 0.95), weight_decay=0.1)

RECIPE = Recipe(
    track="cpu_5min_1mb",
    data=BuiltIn(vocab=1024),
    model=QEDSpec(vocab=1024, layers=4, dim=128, heads=4, hidden=320, context=512),
    train=TrainSpec(
        steps=300,
        batch_tokens=1024,
        seq_len=128,
        rows=8,
        stages=(Stage(begin=0.8, seq_len=512),),
        ema=0.99,
        matrix=ADAMW,
        head=ADAMW,
        embed=ADAMW,
        control=replace(ADAMW, weight_decay=0.0),
        schedule=Cosine(warmup=0.05, floor=0.1),
        grad_clip=1.0,
    ),
    quant=QuantSpec(
        matrix=GPTQ(bits=6),
        head=GPTQ(bits=8),
        embed=RoundNearest(bits=8),
        control=Keep("float16"),
        calibration=Calibration(sequences=128, rows=16),
    ),
    pack=PackSpec(codec=Rans()),
    eval=SlidingWindow(window=512, stride=512),
)
