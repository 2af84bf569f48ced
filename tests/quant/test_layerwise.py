"""Block after block gives what all at once gives: Hessians to the bit, and the same codes."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from golf.arch import families
from golf.arch.unet import UNetSpec
from golf.contracts import HessianError, SpecError, quiet
from golf.host import Host
from golf.quant import apply, hessian, layerwise
from golf.quant.apply import QuantSpec
from golf.quant.lockstep import Batch, Walk, blocks_of
from golf.quant.nearest import RoundNearest

SPEC = UNetSpec(vocab=300, layers=5, dim=32, heads=4, kv_heads=2, rope_dims=4, rope_length=16)


@pytest.fixture
def model():
    torch.manual_seed(0)
    built = SPEC.build()
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.2)
    return built


def weights_of(model) -> dict[str, Tensor]:
    """As a large file has them: bf16."""
    return {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}


def meta():
    with torch.device("meta"):
        return SPEC.build()


def batches(count=5):
    random = torch.Generator().manual_seed(1)
    return [torch.randint(300, (3, 24), generator=random) for _ in range(count)]


def at_once(model, spec=None):
    """Codes and Hessians of the whole model in memory."""
    weights = weights_of(model)
    model.load_state_dict(weights)
    means = hessian.collect(model, batches(), host=Host()).by_name
    return apply.quantize(weights, model.roles(), means, spec or QuantSpec()), means


def test_hessians_to_the_bit(model):
    _, wanted = at_once(model)
    walk = Walk(meta(), weights_of(model), batches(), Host())
    found, seen = {}, []
    for block, means in walk.run(set(wanted), lambda *_: None):
        seen.append(block)
        found |= means
    found |= walk.rest()
    assert seen == [f"blocks.{layer}" for layer in range(5)]
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not [thread for thread in threading.enumerate() if isinstance(thread, Batch)]


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family_to_the_bit(family):
    spec = replace(families.spec_class(family)(), vocab=300).tiny()
    torch.manual_seed(0)
    model = spec.build()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    wanted, _ = at_once(model)
    with torch.device("meta"):
        empty = spec.build()
    found = {}
    for piece in layerwise.quantize(empty, weights_of(model), batches(), QuantSpec(), host=Host(), sink=quiet):
        found |= piece.qtensors
    assert found.keys() == wanted.keys()
    assert "gptq" in {qtensor.method for name, qtensor in found.items() if ".1." in name}
    for name, qtensor in wanted.items():
        assert all(np.array_equal(found[name].parts[part], array) for part, array in qtensor.parts.items()), name


@pytest.mark.parametrize("slice_elements", [1 << 24, 2000])
def test_codes_to_the_bit(model, slice_elements):
    wanted, _ = at_once(model)
    found, rows = {}, []
    for piece in layerwise.quantize(
        meta(), weights_of(model), batches(), QuantSpec(), host=Host(), sink=quiet, slice_elements=slice_elements
    ):
        found |= piece.qtensors
        rows += piece.rows
    assert found.keys() == wanted.keys() == {row.name for row in rows}
    for name, qtensor in wanted.items():
        other = found[name]
        assert (other.shape, other.method, other.role) == (qtensor.shape, qtensor.method, qtensor.role)
        for part, array in qtensor.parts.items():
            assert np.array_equal(other.parts[part], array), (name, part)


def test_a_finished_block_is_passed_and_not_made_again(model):
    def run(finished):
        told = []
        made = layerwise.quantize(
            meta(), weights_of(model), batches(), QuantSpec(), host=Host(), sink=told.append, finished=finished
        )
        return {piece.name: piece for piece in made}, told

    whole, _ = run(())
    rest, told = run({"blocks.0", "blocks.2", "tok_emb.weight"})
    assert whole.keys() - rest.keys() == {"blocks.0", "blocks.2", "tok_emb.weight"}
    for name, piece in rest.items():
        for tensor, qtensor in piece.qtensors.items():
            assert all(np.array_equal(qtensor.parts[p], whole[name].qtensors[tensor].parts[p]) for p in qtensor.parts)
    last = told[-1].values
    done = [event.values["done"] for event in told]
    assert last["done"] == pytest.approx(last["total"]) and done == sorted(done)
    assert last["seconds_left"] == pytest.approx(0, abs=1e-3) and told[-2].values["seconds_left"] > 0


def test_without_hessians_nothing_is_read(model):
    spec = QuantSpec(matrix=RoundNearest(bits=6), head=RoundNearest())
    made = list(layerwise.quantize(meta(), weights_of(model), [], spec, host=Host(), sink=quiet))
    assert {name for piece in made for name in piece.qtensors} == set(model.state_dict())
    with pytest.raises(HessianError, match="0 tokens"):
        list(layerwise.quantize(meta(), weights_of(model), [], QuantSpec(), host=Host(), sink=quiet))


class Looped(nn.Module):
    """Goes through its two blocks twice."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(block.mlp) for block in SPEC.build().blocks[:2])

    def roles(self):
        return {name: apply.Role.MATRIX for name, _ in self.named_parameters()}

    def forward(self, ids):
        x = ids[..., None].float().expand(*ids.shape, 32)
        for block in [*self.blocks, *self.blocks]:
            x = block(x)
        return x


def test_a_loop_is_refused_and_leaves_no_thread():
    with torch.device("meta"):
        model = Looped()
    assert blocks_of(model) == ("blocks.0", "blocks.1")
    weights = {name: torch.randn(tensor.shape) for name, tensor in model.state_dict().items()}
    with pytest.raises(SpecError, match=r"runs blocks\.0 twice"):
        list(layerwise.quantize(model, weights, batches(), QuantSpec(), host=Host(), sink=quiet))
    assert not [thread for thread in threading.enumerate() if isinstance(thread, Batch)]


def test_an_error_in_a_batch_comes_out_and_leaves_no_thread(model):
    odd = [*batches(), torch.full((1, 8), 300)]  # outside the vocabulary
    with pytest.raises(ValueError, match="token id 300"):
        list(layerwise.quantize(meta(), weights_of(model), odd, QuantSpec(), host=Host(), sink=quiet))
    assert not [thread for thread in threading.enumerate() if isinstance(thread, Batch)]
