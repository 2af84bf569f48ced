"""The default record: a language model in under a million bytes, five minutes on two CPU cores, no network."""

from golf.arch.unet import BigramHash, UNetSpec, ValueEmbedding
from golf.data.builtin import BuiltIn
from golf.eval.sliding import SlidingWindow
from golf.pack.container import PackSpec
from golf.pack.zstd import Zstd
from golf.quant.apply import Calibration, QuantSpec
from golf.quant.gptq import GPTQ
from golf.quant.nearest import Keep, RoundNearest
from golf.recipe import Recipe
from golf.train.spec import AdamW, Muon, Stage, TrainSpec

RECIPE = Recipe(
    track="cpu_5min_1mb",
    data=BuiltIn(vocab=1024),
    model=UNetSpec(
        vocab=1024,
        layers=6,
        dim=160,
        heads=5,
        kv_heads=5,
        bigram=BigramHash(rows=1024, dim=32),
        values=ValueEmbedding(dim=32, layers=(4, 5)),
        xsa_last=6,
        rope_length=512,
    ),
    train=TrainSpec(
        seconds=295,
        batch_tokens=4096,
        seq_len=512,
        rows=8,
        ema=0.99,
        stages=(Stage(begin=0.9, fake_quant=True),),
        matrix=Muon(momentum=0.95, momentum_steps=100),
        head=AdamW(lr=0.02),
        embed=AdamW(lr=0.02),
        control=AdamW(lr=0.02),
    ),
    quant=QuantSpec(
        matrix=GPTQ(bits=6, k=12.85),
        head=GPTQ(bits=8, k=20.0),
        embed=RoundNearest(bits=8, k=20.0),
        control=Keep("float16"),
        calibration=Calibration(sequences=64),
    ),
    pack=PackSpec(codec=Zstd()),
    eval=SlidingWindow(window=512, stride=128),
)
