"""PowerGQA-778M learns to answer: the four sources of conversations that its card names."""

from dataclasses import replace

from golf.arch.powergqa import PowerGQASpec
from golf.data.dialogues import Dialogues
from golf.data.mixture import Mixture
from golf.data.tokenizer_json import TokenizerJson
from golf.eval.sliding import SlidingWindow
from golf.pack.container import PackSpec
from golf.pack.rans import Rans
from golf.quant.apply import Calibration, QuantSpec
from golf.quant.gptq import GPTQ
from golf.quant.nearest import Keep, RoundNearest
from golf.recipe import Recipe
from golf.train.curves import Cosine
from golf.train.init import Weights
from golf.train.spec import AdamW, TrainSpec

BASE = "runs/2026-11-21_powergqa/1337"
ADAMW = AdamW(lr=2e-5, betas=(0.9, 0.95), weight_decay=0.01)

RECIPE = Recipe(
    track="open",
    data=Mixture(
        sources=(
            (1.0, Dialogues(train=("data/powergqa/capybara.jsonl.zst",))),
            (1.0, Dialogues(train=("data/powergqa/pure_dove.jsonl.zst",))),
            (1.0, Dialogues(train=("data/powergqa/no_robots.jsonl.zst",))),
            (1.0, Dialogues(train=("data/powergqa/bespoke_stratos.jsonl.zst",))),
        ),
        tokenizer=TokenizerJson(file=f"{BASE}/tokenizer.model"),
        vocab=151665,
    ),
    model=PowerGQASpec(),
    train=TrainSpec(
        steps=1000,
        batch_tokens=65_536,
        seq_len=1024,
        rows=8,
        ema=0.0,
        matrix=ADAMW,
        head=ADAMW,
        embed=ADAMW,
        control=replace(ADAMW, weight_decay=0.0),
        schedule=Cosine(warmup=0.02, floor=0.1),
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
    init=Weights(path=BASE),
)
