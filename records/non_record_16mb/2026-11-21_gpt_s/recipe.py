"""GPT-S-1.4M as its card trains it: 6 billion tokens of five sources, AdamW, warmup-stable-decay."""

from dataclasses import replace

from golf.arch.xgqa import GPTSSpec
from golf.data.local import Documents
from golf.data.mixture import Mixture
from golf.eval.sliding import SlidingWindow
from golf.pack.container import PackSpec
from golf.pack.rans import Rans
from golf.quant.apply import Calibration, QuantSpec
from golf.quant.gptq import GPTQ
from golf.quant.nearest import Keep, RoundNearest
from golf.recipe import Recipe
from golf.train.curves import WarmupStableDecay
from golf.train.spec import AdamW, TrainSpec

ADAMW = AdamW(lr=3.5e-3, betas=(0.9, 0.95), weight_decay=0.01)

RECIPE = Recipe(
    track="non_record_16mb",
    data=Mixture(
        sources=(
            (0.15, Documents(train=("data/gpt_s/fineweb_edu.jsonl.zst",))),
            (0.30, Documents(train=("data/gpt_s/cosmopedia_v2.jsonl.zst",))),
            (0.20, Documents(train=("data/gpt_s/fineweb_hq.jsonl.zst",))),
            (0.20, Documents(train=("data/gpt_s/ultra_fineweb_qa.jsonl.zst",))),
            (0.15, Documents(train=("data/gpt_s/ultra_fineweb_multi_style.jsonl.zst",))),
        ),
        vocab=4096,
    ),
    model=GPTSSpec(),
    train=TrainSpec(
        steps=20_345,  # 6 billion tokens
        batch_tokens=294_912,
        seq_len=384,
        rows=256,
        ema=0.0,
        matrix=ADAMW,
        head=ADAMW,
        embed=ADAMW,
        control=replace(ADAMW, weight_decay=0.0),
        schedule=WarmupStableDecay(warmup_steps=2000, decay_from=0.8),
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
    eval=SlidingWindow(window=384, stride=128),
)
