"""QED-75M learns to answer: supervised fine-tuning on eight sources of conversations, as its repository does it."""

from dataclasses import replace

from golf.arch.qed import QEDSpec
from golf.data.dialogues import Dialogues
from golf.data.mixture import Mixture
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

BASE = "runs/2026-11-21_qed/1337"
ADAMW = AdamW(lr=5e-4, betas=(0.9, 0.95), weight_decay=0.01)

RECIPE = Recipe(
    track="open",
    data=Mixture(
        sources=(
            (0.4, Dialogues(train=("data/smoltalk/smol_magpie_ultra.jsonl.zst",))),
            (0.15, Dialogues(train=("data/smoltalk/openhermes.jsonl.zst",))),
            (0.15, Dialogues(train=("data/smoltalk/self_oss_instruct.jsonl.zst",))),
            (0.01, Dialogues(train=("data/smoltalk/everyday_conversations.jsonl.zst",))),
            (0.1, Dialogues(train=("data/smoltalk/numina_cot.jsonl.zst",))),
            (0.05, Dialogues(train=("data/smoltalk/metamathqa.jsonl.zst",))),
            (0.015, Dialogues(train=("data/smoltalk/longalign.jsonl.zst",))),
            (0.125, Dialogues(train=("data/smoltalk/ultrachat_200k.jsonl.zst",))),
        ),
        tokenizer=f"{BASE}/tokenizer.model",
        vocab=49152,
    ),
    model=QEDSpec(),
    train=TrainSpec(
        steps=10_000,
        batch_tokens=262_144,
        seq_len=2048,
        rows=8,
        ema=0.0,
        matrix=ADAMW,
        head=ADAMW,
        embed=ADAMW,
        control=replace(ADAMW, weight_decay=0.0),
        schedule=Cosine(warmup_steps=200, floor=0.1),
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
    eval=SlidingWindow(window=2048, stride=1024),
    init=Weights(path=BASE),
)
