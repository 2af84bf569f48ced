"""Score and perplexity of a text file, for every family, against the definition; WikiText's own count of its words."""

import json
import math

import pytest
import torch
from click.testing import CliRunner
from test_generating import weights  # noqa: F401  (a fixture)

from golf.cli import cli
from golf.contracts import Score
from golf.data.tokenizer import Tokenizer
from golf.publish.use.perplexity import of_text
from golf.publish.use.source import open_source


def score(*words):
    outcome = CliRunner().invoke(cli, ["score", *map(str, words)], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


@pytest.mark.parametrize("name", ["text.txt", "wiki.tokens"])
def test_by_the_definition(weights, tmp_path, name):  # noqa: F811
    """One forward over the text; three words and a line end, two of them with spaces around."""
    path = tmp_path / name
    path.write_text(" the  model packs \n")
    found = json.loads(score(weights, "--data", path, "--json"))
    source = open_source(weights)
    speaker = Tokenizer(source.tokenizer)
    ids = torch.tensor([[speaker.bos, *speaker.encode(path.read_text()).tolist()]])
    with torch.no_grad():
        nats = torch.nn.functional.cross_entropy(source.build()(ids[:, :-1])[0], ids[0, 1:], reduction="sum").item()
    assert found["token_perplexity"] == pytest.approx(math.exp(nats / (ids.shape[1] - 1)), rel=1e-4)
    assert found["word_perplexity"] == pytest.approx(math.exp(nats / 4), rel=1e-4)
    assert found["text_bpb"] == pytest.approx(nats / math.log(2) / 19, rel=1e-4)
    assert found["val_loss"] == pytest.approx(nats / (ids.shape[1] - 1), rel=1e-4)
    assert (found["words"], found["text_bytes"]) == (4, 19)
    assert "perplexity per word" in score(weights, "--data", path)


def test_documents_have_none(weights, tmp_path):  # noqa: F811
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "the model packs"}\n')
    assert "word_perplexity" not in json.loads(score(weights, "--data", path, "--json"))


def test_wikitext_counts_as_published(shared):
    """217,646 tokens in the validation set, by the data set's own page."""
    path = shared / "data" / "wikitext" / "wiki.valid.tokens"
    found = of_text(path, Score(217_646.0, 300_000, 1_000_000))
    assert found.words == 217_646 and found.word_perplexity == pytest.approx(math.e)


def test_a_hopeless_model_has_an_infinite_one(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    assert of_text(tmp_path / "a.txt", Score(5000.0, 1, 1)).word_perplexity == math.inf
