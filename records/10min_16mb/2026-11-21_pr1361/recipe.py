"""Parameter-golf PR 1361 with its defects repaired: 11 layers, 512 wide, 27,067,484 parameters."""

from golf.arch.unet import BigramHash, UNetSpec, ValueEmbedding
from golf.data.fineweb import FineWeb
from golf.eval.sliding import SlidingWindow
from golf.pack.container import PackSpec
from golf.pack.zstd import Zstd
from golf.quant.apply import Calibration, QuantSpec
from golf.quant.gptq import GPTQ
from golf.quant.nearest import Keep, RoundNearest
from golf.recipe import Recipe
from golf.train.spec import AdamW, Muon, Stage, TrainSpec

RECIPE = Recipe(
    track="10min_16mb",
    data=FineWeb(tokenizer="sp1024"),
    model=UNetSpec(
        vocab=1024,
        layers=11,
        dim=512,
        heads=8,
        kv_heads=4,
        mlp_mult=3.0,
        bigram=BigramHash(rows=3072, dim=112),
        values=ValueEmbedding(dim=128, layers=(-2, -1)),
        xsa_last=11,
        rope_dims=16,
        rope_length=2048,
        qk_gain=4.0,
    ),
    train=TrainSpec(
        seconds=600,
        batch_tokens=786_432,
        seq_len=2048,
        rows=48,
        ema=0.997,
        stages=(Stage(begin=0.9, fake_quant=True),),
        matrix=Muon(lr=0.025, momentum=0.99, momentum_start=0.92, momentum_steps=1500, weight_decay=0.04),
        head=AdamW(lr=0.035, weight_decay=0.04),
        embed=AdamW(lr=0.035, weight_decay=0.04),
        control=AdamW(lr=0.025),
        warmdown=0.55,
        grad_clip=0.3,
    ),
    quant=QuantSpec(
        # Seven bits leave steps room to shrink until the budget is full; the packer charges entropy, not bits.
        matrix=GPTQ(bits=7, k=15.0),
        head=GPTQ(bits=8, k=8.0),
        embed=RoundNearest(bits=8, k=20.0),
        control=Keep("float16"),
        calibration=Calibration(sequences=256),
    ),
    pack=PackSpec(codec=Zstd()),
    eval=SlidingWindow(window=2048, stride=64),
)
