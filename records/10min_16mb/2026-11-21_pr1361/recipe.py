"""Parameter-golf PR 1361 with its defects repaired, squeezed: 11 layers, 512 wide, 27,067,484 parameters."""

from golf.arch.unet import BigramHash, UNetSpec, ValueEmbedding
from golf.data.fineweb import FineWeb
from golf.eval.sliding import SlidingWindow
from golf.pack.container import PackSpec
from golf.pack.rans import Rans
from golf.quant.apply import Calibration
from golf.quant.squeeze import Squeeze
from golf.recipe import Recipe
from golf.train.spec import AdamW, Muon, TrainSpec

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
        matrix=Muon(lr=0.025, momentum=0.99, momentum_start=0.92, momentum_steps=1500, weight_decay=0.04),
        head=AdamW(lr=0.035, weight_decay=0.04),
        embed=AdamW(lr=0.035, weight_decay=0.04),
        control=AdamW(lr=0.025),
        warmdown=0.55,
        grad_clip=0.3,
    ),
    # Steps from curvature, one price of loss for all bytes.
    quant=Squeeze(calibration=Calibration(sequences=256, rows=8)),
    pack=PackSpec(codec=Rans()),
    eval=SlidingWindow(window=2048, stride=64),
)
