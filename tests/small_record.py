"""A record small enough to run in seconds: its own documents, its own tokenizer, every room on the way."""

import json
import random
from pathlib import Path

SUBJECTS = "the model|a tokenizer|one codec|this grid|every row|the budget|a seed|the window".split("|")
VERBS = "packs|rounds|reads|scores|keeps|moves|learns|spends".split("|")
OBJECTS = "its weights|the bytes|a stream|every token|what is left|the scale|two halves|the text".split("|")

RECIPE = '''
from golf.arch.pieces import Pieces
from golf.arch.unet import BigramHash, UNetSpec, ValueEmbedding
from golf.data.local import Documents
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
    data=Documents(train=({documents!r},), val_share=0.1, vocab=400),
    model=UNetSpec(vocab=400, layers=3, dim=32, heads=4, kv_heads=2, bigram=BigramHash(rows=64, dim=8),
                   values=ValueEmbedding(dim=8, layers=(-1,)), rope_dims=4, rope_length=32),
    train=TrainSpec(steps=8, batch_tokens=512, seq_len=32, rows=8, warmup_steps=1,
                    stages=(Stage(begin=0.75, fake_quant=True),), matrix=Muon(), log_every=2,
                    head=AdamW(lr=0.01), embed=AdamW(lr=0.01), control=AdamW(lr=0.01), checkpoint_seconds=0,
                    attention=Pieces(rows=16)),
    quant=QuantSpec(matrix=GPTQ(bits=6), head=GPTQ(bits=8, k=20.0), embed=RoundNearest(bits=8, k=20.0),
                    control=Keep("float16"), calibration=Calibration(sequences=8, rows=4)),
    pack=PackSpec(codec=Zstd(), script="plain"),  # at once: the dense one has tests of its own
    eval=SlidingWindow(window=32, stride=8, batch_tokens=1024),
)
'''


def sentences(draw: random.Random, count: int) -> str:
    parts = [(draw.choice(SUBJECTS), draw.choice(VERBS), draw.choice(OBJECTS)) for _ in range(count)]
    return " ".join(f"{' '.join(part)} {draw.randrange(100)}." for part in parts)


def write_documents(path: Path, count: int = 400) -> Path:
    """A .jsonl file of `count` distinct documents."""
    draw = random.Random(0)
    path.write_text("".join(json.dumps({"text": sentences(draw, 12)}) + "\n" for _ in range(count)))
    return path


def write_record(folder: Path) -> Path:
    """A record folder in `folder`, with its documents beside it."""
    record = folder / "records" / "cpu_5min_1mb" / "2026-01-01_small"
    record.mkdir(parents=True)
    documents = write_documents(folder / "documents.jsonl")
    (record / "recipe.py").write_text(RECIPE.replace("{documents!r}", repr(str(documents))))
    return record


def check_same_run(one: Path, other: Path) -> None:
    """The same artifact and the same result, but for what a clock measures."""
    assert (one / "artifact.golf").read_bytes() == (other / "artifact.golf").read_bytes()
    results = [json.loads((each / "result.json").read_text()) for each in (one, other)]
    for result in results:
        for clocked in ("train_seconds", "quantize_seconds", "eval_seconds"):
            assert result.pop(clocked) > 0
    assert results[0] == results[1]
