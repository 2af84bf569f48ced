"""The card of an exported folder says what the run's files say, and nothing that nobody knows."""

import json
from dataclasses import fields

from test_generating import weights  # noqa: F401  (a fixture)
from test_hf import golf

from golf.contracts import RunResult
from golf.publish.hf import card

NUMBERS = {
    "val_bpb": 1.23456, "val_bpb_unquantized": 1.2299, "bytes_model": 900_001, "bytes_total": 990_002, "steps": 507,
    "train_tokens": 2_076_672, "train_seconds": 267.8, "seed": 1337, "tokens_scored": 191_544, "bytes_scored": 535_464,
}  # fmt: skip
TEXTS = {"track": "cpu_5min_1mb", "corpus": "builtin", "hardware": "2x laptop", "eval_kind": "sliding"}


def result():
    """A result.json with something in every field."""
    kinds = {"int": 1, "float": 1.0, "str": "0" * 64, "bool": True, "dict[str, str]": {}}
    rest = {field.name: kinds.get(str(field.type), None) for field in fields(RunResult)}
    return rest | NUMBERS | TEXTS


def test_filled_in_from_the_run(weights, tmp_path):  # noqa: F811
    run = tmp_path / "2026-01-01_small" / "1337"
    run.mkdir(parents=True)
    (run / "weights.safetensors").write_bytes(weights.read_bytes())
    (run / "result.json").write_text(json.dumps(result()))
    golf("export", run / "weights.safetensors", "--to", "hf", "-o", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers\n") and "- cpu_5min_1mb\n" in text
    assert "# 2026-01-01_small (" in text
    for said in ("1.2299 (sliding; 191,544 tokens, 535,464 bytes of builtin)", "507 steps, 2,076,672 tokens, 268 s"):
        assert said in text
    assert "not quantized" in text and "1.2346" not in text  # the artifact's score is not that of these weights
    assert "cpu_5min_1mb, 1337" in text and "trust_remote_code=True" in text


def test_weights_without_a_run_have_no_scores(weights, tmp_path):  # noqa: F811
    golf("export", weights, "--to", "hf", "-o", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "bits per byte" not in text and "parameters" in text



def test_a_quantized_run():
    """The scores of what is in the artifact, and its bytes."""
    facts = dict(card.facts(RunResult(**result()), quantized=True))
    assert facts["bits per byte"].startswith("1.2346 (") and facts["bits per byte before quantization"] == "1.2299"
    assert facts["bytes"] == "900,001 of weights, 990,002 in all"
