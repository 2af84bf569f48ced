"""A vocabulary that shards of 16 bits cannot hold: imported, calibrated on token ids, packed and given back."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from golf.arch import families
from golf.cli import cli
from golf.contracts import DataError
from golf.data import ids

CONFIG = {
    "vocab_size": 70_000, "dim": 8, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "mlp_hidden": 130,
    "max_seq_len": 32,
}  # fmt: skip


def golf(*words):
    outcome = CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def test_from_a_checkpoint_to_an_artifact_and_back(tmp_path):
    torch.manual_seed(0)
    model = families.original("powergqa").from_config(CONFIG).build()
    state = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    torch.save({"model": state, "cfg": CONFIG, "step": 13500}, tmp_path / "m.pt")
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 70_000, (50, 32), np.uint32))
    weights, artifact = tmp_path / "w.safetensors", tmp_path / "a.golf"
    golf("import", tmp_path / "m.pt", "--family", "powergqa", "-o", weights)
    words = ["--calibration", tmp_path / "ids.npy", "--set", "quant.calibration.sequences=40", "--layerwise", "--json"]
    report = json.loads(golf("quantize", weights, "-o", artifact, *words))
    assert report["bytes_model"] == artifact.stat().st_size
    golf("export", artifact, "--to", "original", "-o", tmp_path / "back")
    back = load_file(tmp_path / "back/model.safetensors")
    assert back.keys() == state.keys()
    assert (back["tok_emb.weight"] - state["tok_emb.weight"]).abs().max() < 0.01


def batches(path: Path, **changes):
    return list(ids.sample(path, **{"vocab": 100, "count": 6, "rows": 4, "seq_len": 10, "seed": 0} | changes))


def test_windows_are_those_of_the_file(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(95))
    first, second = batches(tmp_path / "ids.npy")
    assert [*first.shape, *second.shape] == [4, 10, 2, 10] and first.dtype == torch.int64
    windows = torch.cat([first, second])
    assert torch.equal(windows - windows[:, :1], torch.arange(10).expand(6, -1))
    assert len({int(begin) for begin in windows[:, 0]}) == 6 and not (windows[:, 0] % 10).any()
    assert len(torch.cat(batches(tmp_path / "ids.npy", count=100))) == 9
    assert torch.equal(torch.cat(batches(tmp_path / "ids.npy")), windows)


@pytest.mark.parametrize(
    "array, why",
    [
        (np.arange(95) + 11, "token id 100, outside 0..99"),
        (np.arange(95) - 1, "token id -1, outside 0..99"),
        (np.arange(9), "9 token ids, a window takes 10"),
        (np.ones(95), "holds float64"),
        (np.array([{}]), "cannot be read as token ids"),
    ],
)
def test_what_is_no_file_of_ids(tmp_path, array, why):
    np.save(tmp_path / "ids.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=why):
        batches(tmp_path / "ids.npy", count=100)
