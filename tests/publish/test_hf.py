"""Folders for transformers: every family, loaded offline by a process that has no golf."""

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from safetensors.torch import save_file
from small_record import write_documents
from torch import nn

from golf.arch import families
from golf.cli import cli
from golf.data import documents, tokenizer
from golf.publish.hf import folder as hf
from golf.run import with_tokenizer
from golf.train import checkpoint

VOCAB = 400
TEXTS = ["the model packs the bytes 42.", "  two  spaces\n\nand lines ", "naïve – 日本 😀", ""]


def golf(*words):
    outcome = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    text = write_documents(folder / "text.jsonl", 60)
    (folder / "tokenizer.model").write_bytes(tokenizer.train(documents.read(text), VOCAB))
    return folder


def spec_of(family):
    spec = replace(families.spec_class(family)(), vocab=VOCAB).tiny()
    return replace(spec, rope_length=36) if family == "pr1361" else spec


@pytest.fixture(scope="module")
def exported(place):
    """A folder for each family, made by the command, with what golf itself computes beside it. PR 1361 comes from a
    quantized artifact, PowerGQA in bf16."""
    found = {}
    spelled = (place / "tokenizer.model").read_bytes()
    for family in families.FAMILIES:
        torch.manual_seed(5)
        model = spec_of(family).build()
        for name, parameter in model.named_parameters():
            nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 0.5)
            if name.endswith("norm.weight"):
                nn.init.uniform_(parameter, 0.5, 1.5)
        weights = model.state_dict()
        if family == "powergqa":
            weights = {name: tensor.bfloat16() for name, tensor in weights.items()}
        about = {
            "model": families.spec_to_json(model.spec),
            "eval": {"window": 16, "stride": 8},
            "tokenizer_sha256": tokenizer.Tokenizer(spelled).sha256,
        }
        source = place / f"{family}.safetensors"
        checkpoint.save_weights(source, weights, with_tokenizer(about, spelled))
        if family == "pr1361":
            less = ("--effort", "fast", "--set", "quant.calibration.sequences=32")
            golf("quantize", source, "-o", place / "a.golf", "--calibration", place / "text.jsonl", *less)
            source = place / "a.golf"
        golf("export", source, "--to", "hf", "-o", place / family)
        found[family] = place / family
        expect(source, place / family)
    return found


def expect(source, folder):
    from golf.publish.use.source import open_source

    model = open_source(source).build()
    ids = torch.randint(4, VOCAB, (2, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(ids)
    targets = ids[:, 1:].clone()
    targets[:, :2] = -100
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100).item()
    (folder / "expected").mkdir()
    save_file({"ids": ids, "logits": logits}, folder / "expected" / "tensors.safetensors")
    (folder / "expected" / "values.json").write_text(json.dumps({"loss": loss, "texts": TEXTS}))


@pytest.fixture(scope="module")
def seen(exported, tmp_path_factory):
    """What transformers made of the folders."""
    pytest.importorskip("transformers", reason="needs the extra hf")
    home = tmp_path_factory.mktemp("home")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HOME": str(home)}
    script = Path(__file__).parent / "hf_process.py"
    words = [sys.executable, str(script), *map(str, exported.values())]
    done = subprocess.run(words, capture_output=True, text=True, timeout=250, env=environment, cwd=home)
    assert done.returncode == 0, done.stderr[-3000:]
    values = json.loads(done.stdout.splitlines()[-1])
    return {family: values[str(folder)] for family, folder in exported.items()}


each = pytest.mark.parametrize("family", families.FAMILIES)


@each
def test_logits_loss_and_caches(seen, family):
    found = seen[family]
    for what in ("logits", "ones", "positions", "kept", "cached", "again"):
        assert found[what] < 2e-4, what
    assert found["loss"] < 2e-5
    assert found["half"][0] == "torch.bfloat16" and found["half"][1] < 0.1
    assert found["half cached"] > 0
    assert found["stored"] == ("torch.bfloat16" if family == "powergqa" else "torch.float32")
    assert found["gradients"]


@each
def test_generation(seen, family):
    cached, uncached = seen[family]["generated"]
    assert cached == uncached and len(cached[0]) == 30 + 12
    assert seen[family]["beams"][0] == seen[family]["beams"][1]
    assert 0 < seen[family]["sampled"] <= 8


@each
def test_what_a_family_cannot_honor_it_refuses(seen, family):
    found = seen[family]
    assert "input_ids" in found["none"] and "inputs_embeds" in found["odd"]
    if family in ("qed", "xgqa"):
        assert found["zeros"] < 2e-4
    else:
        assert "attention_mask with zeros" in found["zeros"]


@each
def test_names_and_sizes(seen, family):
    spec, found = spec_of(family), seen[family]
    assert found["type"] == hf.FAMILIES[family].type
    assert found["class"] == hf.FAMILIES[family].name + "ForCausalLM"
    assert found["standard"] == [spec.vocab, spec.dim, spec.layers, spec.heads]
    assert found["parameters"] == sum(parameter.numel() for parameter in spec.build().parameters())


@each
def test_the_tokenizer_says_the_same(seen, exported, family):
    speaker = tokenizer.Tokenizer(exported[family] / "tokenizer.model")
    assert seen[family]["texts"] == [[speaker.bos, *speaker.encode(text).tolist()] for text in TEXTS]
    assert seen[family]["decoded"] == TEXTS
    assert seen[family]["special"] == [speaker.bos, speaker.eos]


@each
def test_the_code_stands_alone(family):
    """It imports torch, transformers and the standard library, and reads no name that it does not define."""
    text = hf.modeling(family)
    tops = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            tops |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            tops.add(node.module.partition(".")[0])
    assert tops - sys.stdlib_module_names == {"torch", "transformers"}
    assert not re.search(r"\bgolf\.(arch|publish|contracts)\.\w+\(", text)


def test_published_sizes_have_their_configurations():
    for family in families.FAMILIES:
        spec = families.spec_class(family)()
        told = hf.configuration(spec, torch.float32)
        assert told["vocab_size"] == spec.vocab and json.loads(json.dumps(told)) == told


@pytest.mark.parametrize("lossless", [True, False], ids=["trained by golf", "stock"])
def test_tokenizers_agree_on_documents(place, shared, lossless):
    """Also for the challenge's tokenizers, which normalize."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra hf")
    from golf.publish.hf import tokenizer as hf_tokenizer

    file = shared / "data" / "tokenizers" / "fineweb_1024_bpe.model"
    spelled = (place / "tokenizer.model" if lossless else file).read_bytes()
    speaker = tokenizer.Tokenizer(spelled)
    theirs = tokenizers.Tokenizer.from_str(hf_tokenizer.files(spelled, None)["tokenizer.json"])
    reviews = documents.read(shared / "data" / "reviews" / "docs_val.jsonl.zst")
    for text, _ in zip(reviews, range(150)):
        assert theirs.encode(text).ids == [speaker.bos, *speaker.encode(text).tolist()]
