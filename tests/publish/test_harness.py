"""`golf score --task`: lm-eval's numbers against likelihoods computed by hand, one forward pass a choice."""

import json
import sys
from pathlib import Path

import pytest
import torch
from byte_level import END, save, trained
from click.testing import CliRunner
from torch import nn

from golf.arch import families
from golf.arch.unet import UNetSpec
from golf.cli import cli
from golf.contracts import DataError, SpecError
from golf.data import speaking, tokenizer_json
from golf.data.tokenizer import Tokenizer
from golf.data.tokenizer import train as train_tokenizer
from golf.publish import use
from golf.run import with_tokenizer
from golf.train import checkpoint

TASKS = Path(__file__).parent / "tasks"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weights file of a small model with an opinion, and its tokenizer inside."""
    texts = [path.read_text() for path in sorted(TASKS.glob("*.jsonl"))] * 20
    spelled = train_tokenizer(texts, 320)
    torch.manual_seed(3)
    model = UNetSpec(vocab=320, rope_length=64).tiny().build()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    about = {
        "model": families.spec_to_json(model.spec),
        "eval": {"window": 64, "stride": 16},
        "tokenizer_sha256": Tokenizer(spelled).sha256,
    }
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    checkpoint.save_weights(path, model.state_dict(), with_tokenizer(about, spelled))
    return path, model.eval(), Tokenizer(spelled)


def score(weights, *words):
    pytest.importorskip("lm_eval", reason="needs the extra lm-eval")
    outcome = CliRunner().invoke(cli, ["score", str(weights[0]), *map(str, words)], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


@torch.no_grad()
def by_hand(weights, questions):
    """(share of questions whose likeliest choice is right, the same with likelihood per character)."""
    _, model, speaker = weights
    right = per_character = 0
    for query, choices, answer, gap in questions:
        chances, shares = [], []
        for choice in choices:
            context = speaker.encode(query).tolist()
            whole = speaker.encode(query + gap + choice).tolist()
            ids = [speaker.bos, *whole]
            logits = torch.log_softmax(model(torch.tensor([ids[:-1]]))[0], -1)
            nats = sum(logits[place - 1, ids[place]].item() for place in range(1 + len(context), len(ids)))
            chances.append(nats)
            shares.append(nats / len(choice))
        right += chances.index(max(chances)) == answer
        per_character += shares.index(max(shares)) == answer
    return right / len(questions), per_character / len(questions)


def test_a_task_in_yaml(weights):
    lines = [json.loads(line) for line in (TASKS / "habits.jsonl").read_text().splitlines()]
    questions = [(f"Question: {q['goal']}\nAnswer:", q["ways"], q["best"], " ") for q in lines]
    found = score(weights, "--task", TASKS / "habits.yaml", "--json")["habits"]
    acc, acc_norm = by_hand(weights, questions)
    assert (found["acc"], found["acc_norm"]) == (acc, acc_norm)
    assert found["questions"] == len(lines) and 0 < found["acc_stderr"] < 0.5
    assert acc != acc_norm  # so that one taken for the other would show


def test_a_task_in_lines_and_a_limit(weights):
    lines = [json.loads(line) for line in (TASKS / "opposites.jsonl").read_text().splitlines()]
    questions = [(q["query"], q["choices"], q["answer"], "") for q in lines]
    task = TASKS / "opposites.jsonl"
    found = score(weights, "--task", task, "--json")["opposites"]
    assert (found["acc"], found["acc_norm"]) == by_hand(weights, questions)
    found = score(weights, "--task", task, "--task", TASKS / "habits.yaml", "--limit", 2, "--json")
    assert {name: values["questions"] for name, values in found.items()} == {"opposites": 2, "habits": 2}
    assert found["opposites"]["acc"] == by_hand(weights, questions[:2])[0]


def test_a_tokenizer_json(tmp_path):
    pytest.importorskip("tokenizers", reason="needs the extra hf")
    texts = [path.read_text() for path in sorted(TASKS.glob("*.jsonl"))] * 20
    spelled = tokenizer_json.read(save(tmp_path, trained(texts, 320), bos_token=END))
    torch.manual_seed(4)
    model = UNetSpec(vocab=320, rope_length=64).tiny().build()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    speaker = speaking.speaker(spelled)
    about = {
        "model": families.spec_to_json(model.spec),
        "eval": {"window": 64, "stride": 16},
        "tokenizer_sha256": speaker.sha256,
    }
    checkpoint.save_weights(tmp_path / "w.safetensors", model.state_dict(), with_tokenizer(about, spelled))
    lines = [json.loads(line) for line in (TASKS / "opposites.jsonl").read_text().splitlines()]
    questions = [(q["query"], q["choices"], q["answer"], "") for q in lines]
    weights = tmp_path / "w.safetensors", model.eval(), speaker
    found = score(weights, "--task", TASKS / "opposites.jsonl", "--json")["opposites"]
    assert (found["acc"], found["acc_norm"]) == by_hand(weights, questions)


def test_a_task_that_generates(weights, tmp_path):
    """The text up to the first stop, as greedy decoding without a cache spells it."""
    _, model, speaker = weights
    context = "Question: How do you dry"
    ids = [speaker.bos, *speaker.encode(context).tolist()]
    for _ in range(12):
        with torch.no_grad():
            ids.append(model(torch.tensor([ids]))[0, -1].argmax().item())
    text = speaker.decode(ids)[len(context) :]
    stop = text[4:6]
    (tmp_path / "lines.jsonl").write_text(json.dumps({"start": context, "end": text.partition(stop)[0]}) + "\n")
    (tmp_path / "going.yaml").write_text(
        "task: going\ndataset_path: json\ndataset_kwargs: {data_files: {test: lines.jsonl}}\ntest_split: test\n"
        "output_type: generate_until\ndoc_to_text: '{{start}}'\ndoc_to_target: '{{end}}'\ntarget_delimiter: ''\n"
        f"generation_kwargs: {json.dumps({'until': [stop], 'max_gen_toks': 12})}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    assert score(weights, "--task", tmp_path / "going.yaml", "--json")["going"]["exact_match"] == 1.0


@pytest.mark.parametrize(
    "name, text, why",
    [
        ("arc_easy", None, "not in the cache of `datasets`"),
        ("mmlu", None, "not in the cache of `datasets`"),
        ("arc_eazy", None, "nor one of hellaswag"),
        ("gone.yaml", None, "does not exist"),
        ("odd.yaml", "task: odd\ndoc_to_text: !function os.getcwd\n", "runs no functions"),
        ("odd.yaml", "[1, 2]", "must be a table"),
        ("odd.yaml", "task: odd\ndataset_path: json\ntest_split: test\n", "reads json files and names none"),
        ("odd.yaml", "task: odd\ndataset_path: json\ndataset_kwargs: {data_files: x.jsonl}\n", "cannot run"),
        ("odd.jsonl", '{"query": "a", "choices": ["b"], "answer": 1}\n', "line 1 is not"),
        ("odd.jsonl", "\n", "holds no question"),
    ],
)
def test_what_is_no_task(weights, tmp_path, monkeypatch, name, text, why):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    if text is not None:
        name = tmp_path / name
        name.write_text(text)
    with pytest.raises(DataError, match=why):
        score(weights, "--task", tmp_path / name if "." in str(name) else name)


def test_without_lm_eval_there_is_one_sentence(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "golf.publish.use.harness", raising=False)
    monkeypatch.delattr(use, "harness", raising=False)
    with pytest.raises(SpecError, match=r"golf\[lm-eval\]"):
        CliRunner().invoke(cli, ["score", str(weights[0]), "--task", "piqa"], catch_exceptions=False)
