"""PowerGQA-778M from scratch on text: talking heads, head gates and a convolution beside attention."""

from dataclasses import replace

from golf.arch.powergqa import PowerGQASpec
from golf.data.local import Documents
from golf.data.tokenizer_json import TokenizerJson
from golf.eval.sliding import SlidingWindow
from golf.pack.container import PackSpec
from golf.pack.rans import Rans
from golf.quant.apply import Calibration, QuantSpec
from golf.quant.gptq import GPTQ
from golf.quant.nearest import Keep, RoundNearest
from golf.recipe import Recipe
from golf.train.curves import Cosine
from golf.train.spec import AdamW, TrainSpec

ADAMW = AdamW(lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1)

RECIPE = Recipe(
    track="open",
    data=Documents(
        train=("data/powergqa/text.jsonl.zst",),
        tokenizer=TokenizerJson(file="data/powergqa/tokenizer.json", bos="<|endoftext|>", eos="<|im_end|>"),
        vocab=151665,
    ),
    model=PowerGQASpec(),
    train=TrainSpec(
        steps=20_000,
        batch_tokens=524_288,
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
)
