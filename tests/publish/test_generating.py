"""`golf generate` on the terminal and as JSON, for every family."""

import json
from dataclasses import fields, replace

import pytest
import torch
from click.testing import CliRunner
from small_record import write_documents
from torch import nn

from golf.arch import families
from golf.cli import cli
from golf.contracts import SpecError
from golf.data import documents, tokenizer
from golf.run import with_tokenizer
from golf.train import checkpoint


@pytest.fixture(scope="module", params=families.FAMILIES)
def weights(request, tmp_path_factory):
    """A weights file of the family, whose model reads no more than 48 tokens where it has a limit of its own."""
    folder = tmp_path_factory.mktemp("weights")
    spelled = tokenizer.train(documents.read(write_documents(folder / "text.jsonl", 60)), 400)
    torch.manual_seed(0)
    spec = families.spec_class(request.param)(vocab=400).tiny()
    limits = {"context", "rope_length"} & {field.name for field in fields(spec)}
    model = replace(spec, **dict.fromkeys(limits, 48)).build()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    about = {
        "model": families.spec_to_json(model.spec),
        "eval": {"window": 48, "stride": 8},
        "tokenizer_sha256": tokenizer.Tokenizer(spelled).sha256,
    }
    checkpoint.save_weights(folder / "w.safetensors", model.state_dict(), with_tokenizer(about, spelled))
    return folder / "w.safetensors"


def golf(weights, *words):
    outcome = CliRunner().invoke(cli, ["generate", str(weights), *map(str, words)], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def test_the_stream_is_the_text(weights):
    """Characters of several bytes come whole; one prompt alone continues as among others."""
    words = ("--tokens", 30, "--temperature", 1.5, "--seed", 3)
    alone = golf(weights, "--prompt", "the model packs", *words)
    texts = json.loads(golf(weights, "--prompt", "the model packs", "--prompt", "a", *words, "--json"))
    assert alone == texts[0]["prompt"] + texts[0]["text"] + "\n" and texts[0]["prompt"] == "the model packs"
    assert all(text["tokens"] == 30 or text["ended"] == "stop" for text in texts)
    assert golf(weights, "--prompt", "the model packs", *words) == alone
    both = golf(weights, "--prompt", "the model packs", "--prompt", "a", *words)
    assert both == "".join(f"{text['prompt']}{text['text']}\n\n" for text in texts)


def test_past_the_models_reach_and_from_nothing(weights):
    (text,) = json.loads(golf(weights, "--tokens", 120, "--no-repeat", 4, "--top-k", 300, "--json"))
    assert text["tokens"] == 120 or text["ended"] == "stop"
    assert text["prompt"] == ""


def test_what_cannot_be(weights):
    with pytest.raises(SpecError, match="top_p=2"):
        golf(weights, "--top-p", 2)
