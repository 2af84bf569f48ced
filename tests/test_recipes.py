"""The published set-ups hold the figures of their cards, and each family goes down the whole corridor in seconds."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from small_record import write_documents
from test_finetune import write_chats

from golf import recipe as recipes
from golf import run as corridor
from golf.data.dialogues import Dialogues
from golf.data.local import Documents
from golf.data.mixture import Mixture
from golf.host import Host
from golf.train.curves import Cosine
from golf.train.init import Weights
from golf.train.spec import AdamW

DATE = "2026-11-21"
FAMILIES = ("gpt_s", "gelu_gpt", "qed", "powergqa")


def record(root, track, name):
    return recipes.load(root / "records" / track / f"{DATE}_{name}")


def rates(recipe, steps):
    """Learning rates of a published schedule at the given steps."""
    spec = recipe.train
    return [spec.matrix.lr * spec.schedule.scale(step, step / spec.steps) for step in steps]


@pytest.mark.parametrize(
    ("track", "name", "parameters"),
    [
        ("non_record_16mb", "gpt_s", 1_426_176),
        ("open", "gelu_gpt", 261_096_338),
        ("open", "qed", 75_571_584),
        ("open", "qed_chat", 75_571_584),
        ("open", "powergqa", 778_221_606),
        ("open", "powergqa_dialogue", 778_221_606),
    ],
)
def test_records_have_the_published_size(root, track, name, parameters):
    with torch.device("meta"):
        model = record(root, track, name).model.build()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_gpt_s_trains_as_its_card_says(root):
    recipe = record(root, "non_record_16mb", "gpt_s")
    train = recipe.train
    assert train.batch_tokens == 294_912 and train.seq_len == 384 and train.grad_clip == 1.0
    assert train.steps * train.batch_tokens == pytest.approx(6e9, rel=1e-4)
    assert train.accumulation(world=1) == 3
    for rule in (train.matrix, train.head, train.embed):
        assert rule == AdamW(lr=3.5e-3, betas=(0.9, 0.95), weight_decay=0.01)
    assert train.control.weight_decay == 0
    late = 0.9 * train.steps
    assert rates(recipe, [999, 2000, 16_000, late]) == pytest.approx([1.75e-3, 3.5e-3, 3.5e-3, 1.75e-3])
    assert [weight for weight, _ in recipe.data.sources] == [0.15, 0.30, 0.20, 0.20, 0.15]


def test_gelu_gpt_trains_as_its_card_says(root):
    recipe = record(root, "open", "gelu_gpt")
    assert recipe.train.steps * recipe.train.batch_tokens == pytest.approx(20 * 261_096_338, rel=1e-3)
    half = 0.51 * recipe.train.steps  # half way between the end of the warm-up and that of the run
    assert rates(recipe, [0.02 * recipe.train.steps, half]) == pytest.approx([0.01, 0.005])
    assert isinstance(recipe.train.matrix, AdamW)


def test_qed_anneals_its_context_as_its_repository_says(root):
    recipe = record(root, "open", "qed")
    train, (stage,) = recipe.train, recipe.train.stages
    assert (train.seq_len, stage.seq_len, train.longest) == (2048, 8192, 8192)
    assert math.isclose(stage.begin * train.steps, 20_000)
    assert train.batch_tokens == 524_288 and (train.steps - 20_000) * train.batch_tokens == 1000 * 262_144
    floor = 3e-4 + (3e-3 - 3e-4) * (1 + math.cos(math.pi * 17_999 / 18_000)) / 2
    assert rates(recipe, [1999, 2000, 19_999]) == pytest.approx([3e-3, 3e-3, floor])
    assert rates(recipe, [20_000, 20_049.0, 20_499]) == pytest.approx([2e-5, 1e-3, 1e-4], rel=1e-3)


@pytest.mark.parametrize(("name", "steps", "weights"), [("qed_chat", 10_000, 8), ("powergqa_dialogue", 1000, 4)])
def test_conversations_are_data(root, name, steps, weights):
    recipe = record(root, "open", name)
    assert recipe.init is not None and recipe.train.steps == steps
    assert len(recipe.data.sources) == weights
    assert all(isinstance(part, Dialogues) for _, part in recipe.data.sources)
    assert sum(weight for weight, _ in recipe.data.sources) in (pytest.approx(1.0), 4)


# --------------------------------------------------------------------------------------- down the corridor, in seconds


def shrunken(root, name, data):
    """The family's record for a minute of a CPU, for some seconds of it."""
    recipe = record(root, "cpu_5min_1mb", name)
    model = replace(recipe.model, layers=2, dim=64, vocab=400)
    train = replace(recipe.train, seconds=None, steps=40, batch_tokens=1024, rows=1024 // recipe.train.seq_len)
    quant = replace(recipe.quant, calibration=replace(recipe.quant.calibration, sequences=16, rows=8))
    return replace(recipe, data=data, model=model, train=train, quant=quant)


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """A function from a family's name to (recipe, folder, result, losses), each family trained once."""
    folder = tmp_path_factory.mktemp("families")
    data = Documents(train=(str(write_documents(folder / "documents.jsonl", 150)),), val_share=0.1, vocab=400)

    @cache
    def train(name):
        recipe = shrunken(root, name, data)
        return recipe, folder / name, *run(recipe, folder / name)

    return train


def run(recipe, out):
    losses = []

    def sink(event):
        if event.kind == "step":
            losses.append(event.values["loss"])

    return corridor.run(recipe, corridor.Job(seed=1, out=out, code=b"#", host=Host(), sink=sink)), losses


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_trains_quantizes_packs_reloads_and_scores(trained, name):
    recipe, _, result, losses = trained(name)
    assert losses[-1] < losses[0] - 1.0
    assert recipe.quant.matrix.bits == 6
    assert abs(result.val_bpb - result.val_bpb_unquantized) < 0.02
    assert result.bytes_model < 1.2 * result.parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qed", "powergqa"])
def test_a_family_learns_to_answer(trained, tmp_path, name):
    recipe, folder, *_ = trained(name)
    sources = ((2, write_chats(tmp_path / "a.jsonl", 150)), (1, write_chats(tmp_path / "b.jsonl", 60)))
    parts = tuple((weight, Dialogues(train=(path,), val_share=0.1)) for weight, path in sources)
    data = Mixture(sources=parts, tokenizer=str(folder / "tokenizer.model"), vocab=400)
    schedule = Cosine(warmup_steps=2)
    train = replace(recipe.train, steps=12, stages=(), schedule=schedule)
    result, losses = run(replace(recipe, data=data, train=train, init=Weights(path=str(folder))), tmp_path / "out")
    assert losses[0] < 5.0, "it begins where the text left it, below the log of 400"
    assert losses[-1] < losses[0]
    assert 0.2 < result.supervised_tokens / result.train_tokens < 0.8
    assert abs(result.val_bpb - result.val_bpb_unquantized) < 0.02
