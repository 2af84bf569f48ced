"""`golf quantize --layerwise`: the artifact of the path in memory, byte for byte, and going on after a kill."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import click
import pytest
import torch
from click.testing import CliRunner
from small_record import RECIPE, write_documents
from torch import nn

from golf.arch import families
from golf.arch.unet import UNetSpec
from golf.cli import cli
from golf.contracts import BudgetError, CheckpointError
from golf.data import documents, tokenizer
from golf.publish.use import large
from golf.run import with_tokenizer
from golf.train import checkpoint


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with bf16 weights of a small U-Net, mixed by a name order of their own, and calibration text."""
    folder = tmp_path_factory.mktemp("large")
    text = write_documents(folder / "text.jsonl", 60)
    spelled = tokenizer.train(documents.read(text), 400)
    torch.manual_seed(0)
    model = UNetSpec(vocab=400, layers=6, dim=64, heads=4, kv_heads=2, rope_length=32).build()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    about = {
        "model": families.spec_to_json(model.spec),
        "eval": {"window": 32, "stride": 8},
        "tokenizer_sha256": tokenizer.Tokenizer(spelled).sha256,
    }
    weights = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    names = sorted(weights, key=lambda name: random.Random(name).random())
    checkpoint.save_weights(
        folder / "w.safetensors", {name: weights[name] for name in names}, with_tokenizer(about, spelled)
    )
    # One Hessian a layer, as layer by layer allows, in memory too.
    plain = "\nfrom dataclasses import replace\nRECIPE = replace(RECIPE, quant=QuantSpec())\n"
    (folder / "recipe.py").write_text(RECIPE.replace("{documents!r}", "'text.jsonl'") + plain)
    return folder


def command(place, name, *words):
    output = place / name / "a.golf"
    files = ["-o", output, "--calibration", place / "text.jsonl", "--recipe", place]
    return output, ["quantize", str(place / "w.safetensors"), *map(str, files), "--json", *words]


def golf(words):
    outcome = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


@pytest.fixture(scope="module")
def wanted(place):
    output, words = command(place, "memory", "--at-once")
    return golf(words), output.read_bytes()


def test_the_same_artifact_and_report(place, wanted):
    output, words = command(place, "layers", "--layerwise")
    report = golf(words)
    assert output.read_bytes() == wanted[1]
    assert {path.name for path in output.parent.iterdir()} == {"a.golf", "a.tokenizer.model"}
    for row, other in zip(report["tensors"], wanted[0]["tensors"]):
        assert row["name"] == other["name"] and row["error"] == pytest.approx(other["error"], rel=1e-6)


def test_large_weights_take_it_by_themselves(place, wanted, monkeypatch):
    output, words = command(place, "auto")
    monkeypatch.setattr(large, "LARGE_BYTES", 1000)
    monkeypatch.setattr("golf.publish.use.convert.quantize_weights", None)
    golf(words)
    assert output.read_bytes() == wanted[1]


def test_after_a_kill_it_goes_on(place, wanted):
    output, words = command(place, "killed", "--layerwise", "--set", "quant.calibration.sequences=60")
    process = subprocess.Popen([sys.executable, "-m", "golf", *words], stdout=subprocess.DEVNULL)
    parts = output.with_suffix(".golf.parts")
    while len(list(parts.glob("blocks*.golf"))) < 2:
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("*.golf")}
    assert len(kept) >= 2 and not output.exists()

    with pytest.raises(CheckpointError, match="other weights, settings or calibration text"):
        golf([*words[:-1], "quant.calibration.sequences=61"])
    made = []
    original = large.Parts.keep
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large.Parts, "keep", lambda self, piece: (made.append(piece.name), original(self, piece)))
        golf(words)
    assert not {f"{name}.golf" for name in made} & {path.name for path in kept}
    assert not parts.exists()
    other, words = command(place, "whole", "--layerwise", "--set", "quant.calibration.sequences=60")
    golf(words)
    assert output.read_bytes() == other.read_bytes()


FEW = ["--layerwise", "--set", "quant.calibration.sequences=8", "--cap"]


def test_a_cap_is_met_and_used(place, wanted):
    cap = int(0.8 * len(wanted[1]))
    output, words = command(place, "cap", *FEW, str(cap))
    report = golf(words)
    assert 0.995 * cap <= output.stat().st_size == report["bytes_model"] <= cap
    assert report["cap"] == cap and report["scale_multiplier"] > 1
    assert len(report["tensors"]) == len(wanted[0]["tensors"])
    assert {path.name for path in output.parent.iterdir()} == {"a.golf", "a.tokenizer.model"}


def test_after_a_kill_between_passes_the_first_is_not_made_again(place, wanted, monkeypatch):
    cap = int(0.8 * len(wanted[1]))
    monkeypatch.setattr(large, "next_try", lambda sizes, tried, cap: [0.0, 1.0, None][len(tried)])
    whole, words = command(place, "passes", *FEW, str(cap))
    expected = golf(words)
    made, kept = [], large.Parts.keep
    output, words = command(place, "cut", *FEW, str(cap))

    def keep(self, piece):
        made.append(piece.name)
        if len(made) == stop:
            raise KeyboardInterrupt
        kept(self, piece)

    monkeypatch.setattr(large.Parts, "keep", keep)
    pieces = 6 + len([row for row in expected["tensors"] if not row["name"].startswith("blocks.")])
    stop = pieces + 4
    with pytest.raises(click.Abort):
        CliRunner().invoke(cli, words, catch_exceptions=False, standalone_mode=False)
    assert not output.exists()
    stop = None
    assert golf(words)["bytes_model"] == expected["bytes_model"]
    assert output.read_bytes() == whole.read_bytes() and len(made) == 2 * pieces + 1


@pytest.mark.parametrize("cap", [3000, 60_000])
def test_a_cap_out_of_reach_is_refused_with_the_least_there_is(place, cap):
    with pytest.raises(BudgetError, match=rf"at least [\d,]+ bytes.* over the {cap:,} left for"):
        golf(command(place, f"small{cap}", "--layerwise", "--cap", str(cap))[1])
