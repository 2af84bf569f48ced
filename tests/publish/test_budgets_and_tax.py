"""The curve of bytes against tax, from the command to the picture."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from click.testing import CliRunner
from small_record import write_documents

from golf.arch import families
from golf.arch.unet import UNetSpec
from golf.cli import cli
from golf.contracts import DataError
from golf.data import documents, tokenizer
from golf.publish.use.convert import EFFORTS, squeeze
from golf.publish.use.curves import MULTIPLIERS, reference_points
from golf.quant.beam import Beam
from golf.quant.trellis import Trellis
from golf.run import with_tokenizer
from golf.train import checkpoint


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the weights of a small U-Net that has seen nothing, and calibration text."""
    folder = tmp_path_factory.mktemp("curve")
    spelled = tokenizer.train(documents.read(write_documents(folder / "text.jsonl", 60)), 320)
    torch.manual_seed(0)
    model = UNetSpec(
        vocab=320, layers=2, dim=16, heads=4, kv_heads=2, bigram=None, values=None, rope_dims=4, rope_length=32
    ).build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    digest = tokenizer.Tokenizer(spelled).sha256
    about = {
        "model": families.spec_to_json(model.spec), "eval": {"window": 32, "stride": 8}, "tokenizer_sha256": digest,
    }  # fmt: skip
    checkpoint.save_weights(folder / "w.safetensors", model.state_dict(), with_tokenizer(about, spelled))
    return folder


def quantize(place, *words):
    files = ["quantize", place / "w.safetensors", "-o", place / "a.golf", "--calibration", place / "text.jsonl"]
    less = ["--set", "quant.calibration.sequences=128"]  # of 32 tokens: seconds instead of a minute
    outcome = CliRunner().invoke(cli, [*map(str, files), *map(str, words), *less, "--json"], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


def test_the_curve_falls_and_is_foretold(place):
    reference = place / "reference.json"
    reference.write_text(
        json.dumps({"reference": {"points": [{"bytes": 12_000, "tax": 0.1}, {"bytes": 9000, "tax": 1}]}})
    )
    plain = "--effort", "fast", "--set", "quant.learn=0"  # a curve is of what rounding alone does
    report = quantize(place, *plain, "--curve", place / "curve.svg", "--reference", reference)
    curve = report["curve"]
    assert [point["multiplier"] for point in curve] == list(MULTIPLIERS)
    for finer, coarser in itertools.pairwise(curve):
        assert finer["bytes"] > coarser["bytes"]
        assert finer["measured"] < coarser["measured"] and finer["predicted"] < coarser["predicted"]
    natural = curve[MULTIPLIERS.index(1.0)]
    assert natural["bytes"] == report["bytes_model"]
    assert natural["predicted"] == pytest.approx(sum(row["tax"] for row in report["tensors"]))
    assert 0.25 < natural["measured"] / natural["predicted"] < 4
    assert "<svg" in (place / "curve.svg").read_text()


def test_fast_reads_less_and_a_png_needs_no_reference(place):
    quantize(place, "--cap", 9_000, "--effort", "fast", "--curve", place / "curve.png")
    assert (place / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert 9_000 * 0.99 < (place / "a.golf").stat().st_size <= 9_000


def test_effort_is_how_much_is_read_and_how_far_rounding_looks():
    fast, default, thorough = (squeeze(effort, 1024).quant for effort in EFFORTS)
    assert fast.matrix == default.matrix == Trellis() and thorough.matrix == thorough.head == thorough.embed == Beam()
    assert 0 < fast.learn < default.learn == thorough.learn
    assert 2 * fast.calibration.sequences < default.calibration.sequences == thorough.calibration.sequences


def test_a_file_without_points_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(DataError, match=r"holds no reference\.points"):
        reference_points(tmp_path / "x.json")
