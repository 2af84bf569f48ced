"""The default record: a language model in under a million bytes, five minutes on two CPU cores, no network."""

from golf.arch.unet import BigramHash, UNetSpec, ValueEmbedding
from golf.data.builtin import BuiltIn
from golf.eval.sliding import SlidingWindow
from golf.pack.container import PackSpec
from golf.pack.rans import Rans
from golf.quant.apply import Calibration
from golf.quant.squeeze import Squeeze
from golf.recipe import Recipe
from golf.train.spec import AdamW, Muon, TrainSpec

RECIPE = Recipe(
    track="cpu_5min_1mb",
    data=BuiltIn(vocab=2048),
    # Small where a step costs time (width, depth, context), large where it costs bytes alone: tables looked up.
    model=UNetSpec(
        vocab=2048,
        layers=5,
        dim=128,
        heads=4,
        kv_heads=4,
        bigram=BigramHash(rows=8192, dim=64),
        values=ValueEmbedding(dim=32, layers=(-2, -1)),
        xsa_last=5,
        rope_length=256,
    ),
    train=TrainSpec(
        seconds=270,
        batch_tokens=4096,
        seq_len=256,
        rows=16,
        ema=0.99,
        matrix=Muon(lr=0.05, momentum=0.95, momentum_steps=100),
        head=AdamW(lr=0.04),
        embed=AdamW(lr=0.04),
        control=AdamW(lr=0.04),
    ),
    # One price of loss per byte for every weight, tables included. Curvature takes backward passes out of the time for
    # training; a little text is enough.
    quant=Squeeze(calibration=Calibration(sequences=32, rows=4)),
    pack=PackSpec(codec=Rans()),
    eval=SlidingWindow(window=256, stride=128),
)
