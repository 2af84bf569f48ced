"""GELU d=12 Chinchilla 261M as its card trains it: 5.2 billion tokens of C4, AdamW, warm-up and cosine."""

from dataclasses import replace

from golf.arch.nanochat import GeluGPTSpec
from golf.data.local import Documents
from golf.eval.sliding import SlidingWindow
from golf.pack.container import PackSpec
from golf.pack.rans import Rans
from golf.quant.apply import Calibration, QuantSpec
from golf.quant.gptq import GPTQ
from golf.quant.nearest import Keep, RoundNearest
from golf.recipe import Recipe
from golf.train.curves import Cosine
from golf.train.spec import AdamW, TrainSpec

ADAMW = AdamW(lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)

RECIPE = Recipe(
    track="open",
    data=Documents(train=("data/c4/en.jsonl.zst",), tokenizer="data/c4/tokenizer.model", vocab=32768),
    model=GeluGPTSpec(),
    train=TrainSpec(
        steps=19_920,  # 5.22 billion tokens, 20 a parameter
        batch_tokens=262_144,
        seq_len=1024,
        rows=32,
        ema=0.0,
        matrix=ADAMW,
        head=ADAMW,
        embed=ADAMW,
        control=replace(ADAMW, weight_decay=0.0),
        schedule=Cosine(warmup=0.02),
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
    eval=SlidingWindow(window=1024, stride=512),
)
