"""Every family through the house: a step of training, Hessians, int6, the container, and back to the same logits."""

import pytest
import torch

from golf.arch import families
from golf.host import Host
from golf.pack import container
from golf.pack.container import PackSpec
from golf.pack.zstd import Zstd
from golf.quant import apply, hessian
from golf.quant.apply import QuantSpec
from golf.quant.gptq import GPTQ

FAMILIES = ("pr1361", "gelu_gpt", "qed", "xgqa", "powergqa")


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request):
    """A shrunken model after steps on a text with a pattern, and windows of that text."""
    torch.manual_seed(0)
    model = families.spec_class(request.param)(vocab=64).tiny().build()
    generator = torch.Generator().manual_seed(1)
    step = torch.randint(1, 4, (12, 8, 64), generator=generator)
    batches = (step.cumsum(-1) * 7 + torch.randint(2, 60, (12, 8, 1), generator=generator)) % 60 + 2
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for ids in batches:
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), batches[:, :, :-1]


def test_trains_quantizes_packs_and_reads_back(trained):
    model, batches = trained
    assert all(parameter.grad is not None for parameter in model.parameters())
    weights, roles = dict(model.named_parameters()), model.roles()
    hessians = hessian.collect(model, batches, host=Host()).by_name
    plan = QuantSpec(matrix=GPTQ(bits=6), small=256)
    qtensors = apply.quantize(weights, roles, hessians, plan)
    assert any(qtensor.method == "gptq" for qtensor in qtensors.values())
    about, again = container.load(
        container.dump(qtensors, {"model": families.spec_to_json(model.spec)}, PackSpec(codec=Zstd()))
    )
    fresh = families.build(about["model"])
    fresh.load_state_dict(apply.dequantize(again))
    ids, targets = batches[0][:, :-1], batches[0][:, 1:]
    with torch.no_grad():
        bits = [each.loss(ids, targets) / torch.log(torch.tensor(2.0)) for each in (model, fresh)]
        assert fresh.spec == model.spec and torch.isfinite(fresh(ids)).all()
        logits = model(ids)
        assert (fresh(ids) - logits).std() < 0.05 * logits.std()
    assert bits[0] < 5.9  # better than the 6 bits a token of 64 costs unseen
    assert abs(bits[1] - bits[0]) < 0.05


def test_fake_quantization_is_what_export_leaves(trained):
    """Late QAT on every hooked layer computes with the weights that rounding to nearest would write."""
    from golf.quant.nearest import Keep, RoundNearest

    model, batches = trained
    plan = QuantSpec(
        matrix=RoundNearest(bits=6), head=RoundNearest(bits=8), control=Keep("float32"), small=256
    )
    switch = apply.fake_quantizer(model, plan)
    rounded = families.build(families.spec_to_json(model.spec))
    quantized = apply.dequantize(apply.quantize(dict(model.named_parameters()), model.roles(), {}, plan))
    rounded.load_state_dict(quantized)
    try:
        switch(True)
        with torch.no_grad():
            torch.testing.assert_close(model(batches[0]), rounded(batches[0]), atol=1e-4, rtol=0)
    finally:
        switch(False)
