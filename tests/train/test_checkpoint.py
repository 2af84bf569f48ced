import json
import random
import struct

import pytest
import torch

from golf.contracts import CheckpointError
from golf.train.checkpoint import load, load_weights, save, save_weights, sweep


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "state.safetensors"


def tensors():
    torch.manual_seed(0)
    return {
        "a": torch.randn(3, 5),
        "scalar": torch.tensor(2.5),
        "low": torch.randn(4).bfloat16(),
        "count": torch.arange(6, dtype=torch.int64),
        "rng": torch.get_rng_state(),
        "empty": torch.zeros(0, 3),
    }


def test_round_trip_to_the_bit(path):
    meta = {"step": 3, "elapsed": 0.1 + 0.2, "streams": [{"epoch": 1}], "nan": float("nan")}
    save(path, tensors(), meta)
    found, told = load(path, step=3)
    assert told["elapsed"] == meta["elapsed"] and told["streams"] == meta["streams"]
    assert told["nan"] != told["nan"]
    assert found.keys() == tensors().keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors().items()
    )
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_views_and_ties_are_stored_apart(path):
    bank = torch.randn(4, 3)
    save_weights(path, {"one": bank[1], "same": bank[1], "turned": bank.T}, {"model": {"family": "toy"}})
    weights, metadata = load_weights(path)
    assert metadata == {"model": {"family": "toy"}}
    assert torch.equal(weights["one"], bank[1]) and torch.equal(weights["same"], bank[1])
    assert torch.equal(weights["turned"], bank.T)


def test_weights_are_readable_by_the_plain_library(path):
    from safetensors import safe_open

    save_weights(path, {"w": torch.ones(2)}, {"a": 1})
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["golf"]) == {"a": 1}


def test_weights_of_other_tools_have_empty_metadata(path):
    from safetensors.torch import save_file

    path.parent.mkdir()
    save_file({"w": torch.ones(2)}, path)
    assert load_weights(path)[1] == {}
    save_file({"w": torch.ones(2)}, path, {"golf": "not json"})
    with pytest.raises(CheckpointError, match="unreadable metadata"):
        load_weights(path)
    save_file({"w": torch.ones(2)}, path, {"golf": "[1]"})
    with pytest.raises(CheckpointError, match="type list, not an object"):
        load_weights(path)


@pytest.mark.parametrize(("name", "value"), [("digest", "b"), ("seed", 2), ("world", 4)])
def test_a_checkpoint_of_another_run_is_refused(path, name, value):
    identity = {"digest": "a", "seed": 1, "world": 2}
    save(path, tensors(), identity | {"step": 1})
    load(path, **identity)
    with pytest.raises(CheckpointError, match=f"{name}={identity[name]!r}, this run has {value!r}"):
        load(path, **identity | {name: value})


def test_every_truncation_is_refused(path):
    save(path, tensors(), {"step": 1})
    whole = path.read_bytes()
    for length in [*range(0, 64), *range(64, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load(path)


def test_every_flipped_bit_is_refused_or_harmless(path):
    """A flip may land in the header's spelling; what is loaded is then still exactly what was saved."""
    save(path, tensors(), {"step": 1})
    whole, rng, refused = bytearray(path.read_bytes()), random.Random(0), 0
    for _ in range(300):
        bit = rng.randrange(len(whole) * 8)
        whole[bit // 8] ^= 1 << bit % 8
        path.write_bytes(whole)
        whole[bit // 8] ^= 1 << bit % 8
        try:
            found, meta = load(path)
        except CheckpointError:
            refused += 1
            continue
        assert meta == {"step": 1} and found.keys() == tensors().keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())
    assert refused > 250


def test_a_header_that_promises_too_much_is_refused(path):
    path.parent.mkdir()
    path.write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    with pytest.raises(CheckpointError, match="no whole safetensors file"):
        load(path)


def test_missing_files_and_folders_that_cannot_be_written(path, tmp_path):
    with pytest.raises(CheckpointError, match="no file"):
        load(path)
    (tmp_path / "deep").write_text("a file where a folder should be")
    with pytest.raises(CheckpointError, match="cannot write"):
        save(path, tensors(), {})


def test_leftovers_of_killed_writers_are_swept(path):
    save(path, {"a": torch.ones(1)}, {})
    (path.parent / f".{path.name}.abc").write_bytes(b"half")
    sweep(path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
