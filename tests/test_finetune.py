"""From a text's weights to a model of conversations: the corridor twice, the second time with `init`."""

import json
import random
from dataclasses import replace

import pytest
from small_record import sentences, write_record

from golf import recipe as recipes
from golf import run as corridor
from golf.contracts import CheckpointError, Event, quiet
from golf.data.dialogues import Dialogues
from golf.data.mixture import Mixture
from golf.host import Host
from golf.publish.terminal import run_table
from golf.train.init import Weights


def write_chats(path, count=200):
    draw = random.Random(5)
    lines = []
    for _ in range(count):
        roles = ["user", "assistant"] * draw.randrange(1, 4)
        lines.append(json.dumps({"messages": [{"role": role, "content": sentences(draw, 2)} for role in roles]}))
    path.write_text("\n".join(lines))
    return str(path)


def run(recipe, out, sink=quiet):
    return corridor.run(recipe, corridor.Job(seed=3, out=out, code=b"#", host=Host(), sink=sink))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    recipe = recipes.load(write_record(folder))
    run(recipe, folder / "base")
    return recipe, folder


def test_fine_tuning_starts_from_the_weights_and_counts_its_targets(pretrained, capsys):
    recipe, folder = pretrained
    speaker = str(folder / "base" / "tokenizer.model")
    one, two = (Dialogues(train=(write_chats(folder / f"{n}.jsonl", n),), val_share=0.1) for n in (200, 90))
    tuned = replace(
        recipe,
        data=Mixture(sources=((0.7, one), (0.3, two)), tokenizer=speaker, vocab=400),
        init=Weights(path=str(folder / "base")),
    )
    events: list[Event] = []
    result = run(tuned, folder / "tuned", events.append)
    assert 0.3 * result.train_tokens < result.supervised_tokens < 0.7 * result.train_tokens
    (end,) = [event.values for event in events if event.kind == "train_end"]
    assert end["supervised"] == result.supervised_tokens
    assert json.loads((folder / "tuned" / "result.json").read_text())["supervised_tokens"] == result.supervised_tokens
    assert "supervised" in [str(cell).strip() for cell in run_table(result, ()).columns[0].cells]
    fresh = run(replace(tuned, init=None), folder / "fresh")
    assert result.val_bpb_unquantized < fresh.val_bpb_unquantized

    with pytest.raises(CheckpointError, match="layers is 3 there and 4 here"):
        run(replace(tuned, model=replace(tuned.model, layers=4)), folder / "other")
    with pytest.raises(CheckpointError, match="speaks the tokenizer with SHA-256"):
        run(replace(tuned, data=replace(tuned.data, tokenizer="")), folder / "other")
