"""Models that speak a tokenizer.json, from a published checkpoint to transformers and back, ids beyond 65,535 too."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from byte_level import END, lifted, save, trained
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import nn

from golf.arch import families
from golf.cli import cli
from golf.contracts import quiet
from golf.eval.validity.verdict import Status
from golf.publish.bundle.one_file import bundle
from golf.publish.use.source import open_source
from golf.publish.verify import suite as verify
from golf.train import checkpoint

tokenizers = pytest.importorskip("tokenizers", reason="needs the extra hf")
ROOT = Path(__file__).parents[2]
TEXTS = [path.read_text() for path in sorted((ROOT / "golf" / "data").glob("[a-z]*.py"))]
TEXT = "naïve – 日本 😀 and the tokens of a text.\n\n  def text(self) -> str:\n"
TIER = verify.Tier(name="test", probe=0.1, rescore=60.0, scan=60.0)
FAMILIES = {"powergqa": 66_150, "gelu_gpt": 448, "qed": 460}


def golf(*words):
    outcome = CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoken")
    (folder / "text.txt").write_text(TEXT)
    lines = [json.dumps({"text": text}) for text in TEXTS]
    (folder / "train.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def imported(place):
    """Weights files of small models, imported from folders as the Hub has them. PowerGQA's tokenizer has ids beyond
    65,535 and a configuration that names nothing that opens documents, as Qwen's; the GELU GPT's has none."""
    found = {}
    for family, vocab in FAMILIES.items():
        small = {"dim": 8, "layers": 2, "hidden": 8} if family == "powergqa" else {}
        spec = replace(replace(families.spec_class(family)(), vocab=vocab).tiny(), **small)
        torch.manual_seed(1)
        model = spec.build()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
        about = {"model": families.spec_to_json(spec), "eval": {"window": 32, "stride": 16}, "tokenizer_sha256": ""}
        checkpoint.save_weights(place / "bare.safetensors", model.state_dict(), about)
        folder = place / f"{family}-original"
        golf("export", place / "bare.safetensors", "--to", "original", "-o", folder)
        words = []
        if family == "powergqa":
            made = lifted(trained(TEXTS, 450, [END, "<|im_end|>"]), 65_700)
            save(folder, made, bos_token=None, eos_token="<|im_end|>")
            words = ["--bos", END]
        elif family == "gelu_gpt":
            save(folder, trained(TEXTS, 448, ["<|bos|>"]))
            words = ["--bos", "<|bos|>"]
        else:  # seven rows more than tokens
            made = trained(TEXTS, 453, ["<pad>", "<s>", "</s>"])
            save(folder, made, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
        found[family] = place / f"{family}.safetensors"
        golf("import", folder, "--family", family, "-o", found[family], *words)
    return found


each = pytest.mark.parametrize("family", FAMILIES)


@torch.no_grad()
def by_hand(family, place, path):
    """(nats of the text behind the token that opens it, number of its tokens), one forward pass for each token."""
    made = tokenizers.Tokenizer.from_file(str(place / f"{family}-original" / "tokenizer.json"))
    opens = {"powergqa": END, "gelu_gpt": "<|bos|>", "qed": "<s>"}[family]
    ids = [made.token_to_id(opens), *made.encode(TEXT, add_special_tokens=False).ids]
    source, nats = open_source(path), 0.0
    model, window, stride = source.build(), source.about["eval"]["window"], source.about["eval"]["stride"]
    for target in range(1, len(ids)):
        end = min(-(-max(target - window, 0) // stride) * stride + window, len(ids) - 1)
        begin = max(-(-max(target - window, 0) // stride) * stride, 0)
        logits = model(torch.tensor([ids[begin:end]]))[0, target - 1 - begin]
        nats -= torch.log_softmax(logits, -1)[ids[target]].item()
    return nats, len(ids) - 1


@each
def test_bits_per_byte_are_those_computed_by_hand(imported, place, family):
    found = json.loads(golf("score", imported[family], "--data", place / "text.txt", "--json"))
    nats, tokens = by_hand(family, place, imported[family])
    assert (found["tokens_scored"], found["bytes_scored"]) == (tokens, len(TEXT.encode()))
    assert found["val_bpb"] == pytest.approx(nats / math.log(2) / len(TEXT.encode()), rel=1e-5)
    assert found["text_bpb"] == pytest.approx(found["val_bpb"]) and found["text_bytes"] == len(TEXT.encode())
    assert found["token_perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    words = len(TEXT.split()) + TEXT.count("\n")
    assert found["word_perplexity"] == pytest.approx(math.exp(nats / words), rel=1e-4)


@pytest.fixture(scope="module")
def artifacts(imported, place):
    found = {}
    for family, weights in imported.items():
        found[family] = place / family / "a.golf"
        found[family].parent.mkdir()
        words = ["--layerwise", "--set", "quant.calibration.sequences=4"]
        golf("quantize", weights, "-o", found[family], "--calibration", place / "train.jsonl", *words)
    return found


@each
def test_an_artifact_knows_its_tokenizer(imported, artifacts, place, family):
    scores = [
        json.loads(golf("score", path, "--data", place / "text.txt", "--json"))
        for path in (imported[family], artifacts[family])
    ]
    assert scores[0]["bytes_scored"] == scores[1]["bytes_scored"]
    assert scores[1]["val_bpb"] == pytest.approx(scores[0]["val_bpb"], abs=0.3)
    texts = json.loads(golf("generate", artifacts[family], "--prompt", "日本 def", "--tokens", 12, "--json"))
    assert texts[0]["prompt"] == "日本 def" and (texts[0]["tokens"] == 12) == (texts[0]["ended"] == "length")
    (artifacts[family].parent / "a.tokenizer.model").rename(place / "elsewhere")
    said = CliRunner().invoke(cli, ["score", str(artifacts[family]), "--data", str(place / "text.txt")])
    assert said.exit_code and "tokenizer" in str(said.exception)
    golf("score", artifacts[family], "--data", place / "text.txt", "--tokenizer", place / "elsewhere")
    (place / "elsewhere").rename(artifacts[family].parent / "a.tokenizer.model")


SCRIPT = """
import json, sys
sys.modules["golf"] = None
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
found = {}
for folder in sys.argv[2:]:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    ids = tokenizer(sys.argv[1], add_special_tokens=False)["input_ids"]
    ids = [tokenizer.bos_token_id, *ids]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    told = model.generation_config
    found[folder] = [ids, logits.sum(-1).tolist(), tokenizer.decode(ids, skip_special_tokens=True), told.eos_token_id]
print(json.dumps(found))
"""


def test_a_role_without_a_tokenizer_is_refused(imported, place, tmp_path):
    file = place / "qed-original" / "model.safetensors"
    given = ["--config", file.parent / "config.json", "--bos", "x"]
    words = ["import", file, "--family", "qed", *given, "-o", tmp_path / "w.safetensors"]
    said = CliRunner().invoke(cli, list(map(str, words)))
    assert "brings no tokenizer" in str(said.exception)


def test_transformers_gives_the_same_tokens_and_logits(artifacts, place, tmp_path):
    folders = {family: tmp_path / family for family in FAMILIES}
    for family, folder in folders.items():
        golf("export", artifacts[family], "--to", "hf", "-o", folder)
        theirs = place / f"{family}-original"
        assert (folder / "tokenizer.json").read_bytes() == (theirs / "tokenizer.json").read_bytes()
        assert not (folder / "tokenizer.model").exists()
        opening = {"powergqa": END, "gelu_gpt": "<|bos|>", "qed": "<s>"}[family]
        assert f'tokenizer("{opening}Once upon a time"' in (folder / "README.md").read_text()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, TEXT, *map(str, folders.values())],
        capture_output=True, text=True, timeout=250, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    for family, folder in folders.items():
        ids, logits, text, stops = seen[str(folder)]
        made = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert ids[1:] == made.encode(TEXT, add_special_tokens=False).ids and text == TEXT
        with torch.no_grad():
            ours = open_source(artifacts[family]).build()(torch.tensor([ids]))[0].sum(-1)
        assert torch.allclose(torch.tensor(logits), ours, atol=2e-4 * FAMILIES[family] ** 0.5, rtol=1e-4)
        assert ids[0] in stops and (family != "powergqa" or ids[0] == 65_700)
        golf("import", folder, "--family", family, "-o", tmp_path / "back.safetensors")
        back, there = open_source(tmp_path / "back.safetensors"), open_source(artifacts[family])
        assert all(torch.equal(back.weights[name], tensor) for name, tensor in there.weights.items())


@each
def test_the_original_comes_back_with_its_tokenizer(imported, place, tmp_path, family):
    golf("export", imported[family], "--to", "original", "-o", tmp_path)
    theirs = place / f"{family}-original"
    held, given = load_file(tmp_path / "model.safetensors"), load_file(theirs / "model.safetensors")
    assert all(torch.equal(held[name], given[name]) for name in given)
    assert (tmp_path / "tokenizer.json").read_bytes() == (theirs / "tokenizer.json").read_bytes()


RECIPE = '''
from golf.arch.qed import QEDSpec
from golf.data.local import Documents
from golf.data.tokenizer_json import TokenizerJson
from golf.eval.sliding import SlidingWindow
from golf.pack.container import PackSpec
from golf.pack.zstd import Zstd
from golf.quant.apply import QuantSpec
from golf.quant.nearest import RoundNearest
from golf.recipe import Recipe
from golf.train.spec import TrainSpec

RECIPE = Recipe(
    track="open",
    data=Documents(
        train=("train.jsonl",), tokenizer=TokenizerJson(file="tokenizer.json", bos="<|bos|>"), vocab=448, val_share=0.2
    ),
    model=QEDSpec(vocab=448, layers=1, dim=16, heads=2, hidden=16, context=64),
    train=TrainSpec(steps=2, rows=2, batch_tokens=128, seq_len=64),
    quant=QuantSpec(matrix=RoundNearest(), head=RoundNearest()),
    pack=PackSpec(codec=Zstd(), script="plain"),
    eval=SlidingWindow(window=64, stride=64),
)
'''


def test_a_record_and_its_one_file(place, tmp_path, monkeypatch):
    """The file alone reads the tokenizer too, and what it writes holds to all that is verified."""
    made = trained(TEXTS, 448, ["<|bos|>"])
    save(tmp_path, made)
    (tmp_path / "train.jsonl").write_text((place / "train.jsonl").read_text())
    (tmp_path / "recipe.py").write_text(RECIPE)
    (tmp_path / "train_gpt.py").write_bytes(bundle(tmp_path / "recipe.py").code)
    environment = os.environ | {"GOLF_CACHE": str(tmp_path / "cache")}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-I", "train_gpt.py", "--out", "out"], cwd=tmp_path, env=environment, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "out" / "1337" / "result.json").read_text())
    chosen = list((tmp_path / "cache").rglob("manifest.json"))
    told = json.loads(chosen[0].read_text())["splits"]["val"]
    assert (result["tokens_scored"], result["bytes_scored"]) == (told["tokens"] - 1, told["bytes"])
    assert not result["tokenizer_counted"] and result["bytes_tokenizer"] == 0
    generated = golf("generate", tmp_path / "out" / "1337", "--prompt", "def", "--tokens", 3)
    assert generated.startswith("def")
    monkeypatch.setenv("GOLF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    subject = verify.open_subject(Path("out", "1337"))
    assert Path(subject.retrain).is_absolute()  # it trains again from another folder
    report = verify.verify(subject, TIER, quiet)
    assert report.ok, [f"{each.check}: {each.why}" for each in report.verdicts if each.status is Status.FAIL]
    found = {each.check: each for each in report.verdicts}
    for check in "C1a C1b C2a C2b C2c C3b C3c C4a C4b B1 B2 B4 D2 D4 A1 A2 A3 A4 A5 S3 S4".split():
        assert found[check].status is Status.PASS, found[check]
