"""Every family against the golden vector of its original, read whole and in pieces."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from golf.arch.families import import_checkpoint

ORACLES = Path(__file__).parents[3] / "shared" / "oracles"
FAMILIES = ("pr1361", "gelu_gpt", "qed", "xgqa", "powergqa")
pytestmark = pytest.mark.skipif(
    not ORACLES.is_dir(), reason="the golden vectors are not beside the repository"
)


def golden(family):
    data = load_file(ORACLES / f"{family}_a.safetensors")
    meta = json.loads((ORACLES / f"{family}_a.json").read_text())
    state = {name[2:]: tensor for name, tensor in data.items() if name.startswith("w.")}
    return data, meta, import_checkpoint(family, state, meta["config"])


def compare(logits, data):
    """Where the input is no padding; elsewhere numbers must be finite."""
    assert torch.isfinite(logits).all()
    kept = data.get("attention_mask", torch.ones_like(data["tokens"])).bool()
    torch.testing.assert_close(logits[kept], data["logits"][kept], atol=2e-4, rtol=0)


def masked(data, end, begin=0):
    """What a model with padding is told of the tokens begin..end."""
    return {"allowed_BS": data["attention_mask"][:, begin:end]} if "attention_mask" in data else {}


@pytest.mark.parametrize("family", FAMILIES)
def test_forward_and_loss(family):
    data, meta, model = golden(family)
    assert sum(parameter.numel() for parameter in model.parameters()) == meta["n_params"]
    mask = {"attention_mask": data["attention_mask"]} if "attention_mask" in data else {}
    with torch.no_grad():
        logits = model(data["tokens"], **mask)
        compare(logits, data)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), data["targets"].flatten())
        torch.testing.assert_close(loss, data["loss"], atol=2e-5, rtol=0)
        if not mask:
            loss = model.loss(data["tokens"], data["targets"])
            torch.testing.assert_close(loss, data["loss"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_decoding(family, seed):
    """Pieces drawn at random; seed 0 goes token by token."""
    data, _, model = golden(family)
    time, draw = data["tokens"].shape[1], random.Random(seed)
    cuts = range(1, time) if seed == 0 else sorted(draw.sample(range(1, time), 5))
    cache, pieces = model.open_cache(len(data["tokens"])), []
    with torch.no_grad():
        for begin, end in zip([0, *cuts], [*cuts, time]):
            pieces.append(model.read_on(data["tokens"][:, begin:end], cache, **masked(data, end)))
    compare(torch.cat(pieces, dim=1), data)


def test_a_mask_of_the_new_columns_alone():
    """Right padding is then all a cached key needs to be hidden from: rows without padding on the left agree."""
    data, _, model = golden("qed")
    cache, rows = model.open_cache(2), slice(0, 2)
    tokens, kept = data["tokens"][rows], data["attention_mask"][rows].bool()
    with torch.no_grad():
        pieces = [
            model.read_on(tokens[:, begin:end], cache, allowed_BS=kept[:, begin:end])
            for begin, end in ((0, 17), (17, 18), (18, 40))
        ]
    torch.testing.assert_close(torch.cat(pieces, 1)[kept], data["logits"][rows][kept], atol=2e-4, rtol=0)


def test_what_the_cache_of_qed_holds():
    data, _, model = golden("qed")
    cache = model.open_cache(3)
    with torch.no_grad():
        model.read_on(data["tokens"], cache, allowed_BS=data["attention_mask"])
    kept = data["attention_mask"].bool()
    for layer in (0, 2):
        for name, held in zip("kv", cache.blocks[layer]):
            torch.testing.assert_close(
                held[kept], data[f"cache.{layer}.{name}"].transpose(1, 2)[kept], atol=2e-4, rtol=0
            )


def test_what_the_cache_of_gelu_gpt_holds():
    data, meta, model = golden("gelu_gpt")
    assert model.spec.windows == tuple(meta["windows"])
    cache = model.open_cache(2)
    with torch.no_grad():
        model.read_on(data["tokens"][:, :8], cache)
        for layer in (0, 3):
            for name, held in zip("kv", cache.blocks[layer]):
                torch.testing.assert_close(
                    held, data[f"cache.{layer}.{name}"].transpose(1, 2), atol=2e-4, rtol=0
                )
        model.read_on(data["tokens"][:, 8:], cache)
    torch.testing.assert_close(cache.notes["entry"], data["cache.last_embed"], atol=1e-5, rtol=0)
    assert [keys.shape[1] for keys, _ in cache.blocks] == [128, 128, 128, 200]
