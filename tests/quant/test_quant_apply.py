"""Each tensor gets the method of its role, every refusal names its tensor, and late QAT is the export's rounding."""

from __future__ import annotations

import pytest
import torch
from test_hessian import Layer
from torch import Tensor, nn

from golf.contracts import ArtifactError, DivergedError, HessianError, QTensor, Role, SpecError
from golf.quant.apply import METHODS, Calibration, QuantSpec, dequantize, fake_quantizer, method, quantize
from golf.quant.gptq import GPTQ, gptq
from golf.quant.grid import Grid
from golf.quant.nearest import Keep, RoundNearest

ROLES = {
    "emb.weight": Role.HEAD,
    "table.weight": Role.EMBED,
    "fc.weight": Role.MATRIX,
    "fc2.weight": Role.MATRIX,
    "tiny.weight": Role.MATRIX,
    "gain": Role.CONTROL,
}
SPEC = QuantSpec(matrix=GPTQ(bits=5), head=GPTQ(bits=8, k=20.0), embed=RoundNearest(bits=7), small=32)


def weights() -> dict[str, Tensor]:
    shapes = {"emb.weight": (20, 8), "table.weight": (30, 4), "fc.weight": (16, 8), "fc2.weight": (16, 8)}
    return {name: torch.randn(shape) for name, shape in shapes.items()} | {
        "tiny.weight": torch.randn(2, 4),
        "gain": torch.randn(8),
    }


def hessians() -> dict[str, Tensor]:
    X = torch.randn(100, 8)
    H = X.T @ X / 100
    return dict.fromkeys(("emb.weight", "fc.weight", "fc2.weight"), H) | {"tiny.weight": H[:4, :4]}


def test_methods_follow_roles_and_small_tensors_stay_in_float():
    found = quantize(weights(), ROLES, hessians(), SPEC)
    assert list(found) == list(ROLES)
    assert {name: (q.method, q.role) for name, q in found.items()} == {
        "emb.weight": ("gptq", "head"),
        "table.weight": ("nearest", "embed"),
        "fc.weight": ("gptq", "matrix"),
        "fc2.weight": ("gptq", "matrix"),
        "tiny.weight": ("keep", "matrix"),
        "gain": ("keep", "control"),
    }
    assert {name: q.alphabets.get("codes") for name, q in found.items()} == {
        "emb.weight": 255,
        "table.weight": 127,
        "fc.weight": 31,
        "fc2.weight": 31,
        "tiny.weight": None,
        "gain": None,
    }


def test_each_tensor_is_quantized_by_its_own_hessian():
    plain, H = weights(), hessians()
    H["fc2.weight"] = torch.diag(torch.arange(1.0, 9.0)) + 0.5
    found = quantize(plain, ROLES, H, SPEC)
    for name in ("fc.weight", "fc2.weight"):
        alone = gptq(plain[name], H[name], Grid(5))
        assert (found[name].parts["codes"] == alone.parts["codes"]).all()


def test_what_is_read_back_is_near_and_has_its_shape():
    plain = weights()
    read = dequantize(quantize(plain, ROLES, hessians(), QuantSpec(matrix=GPTQ(bits=8, k=8.0), small=0)))
    for name, W in plain.items():
        assert read[name].shape == W.shape
        assert read[name].dtype == torch.float32
        assert (read[name] - W).abs().max() < 0.2 * W.abs().max()


def test_the_multiplier_widens_every_step_and_leaves_floats():
    plain, H = weights(), hessians()
    one, two = (quantize(plain, ROLES, H, SPEC, m) for m in (1.0, 2.0))
    for name in ("emb.weight", "table.weight", "fc.weight"):
        assert two[name].parts["scale"] == pytest.approx(2 * one[name].parts["scale"], rel=2e-3)
    assert (two["gain"].parts["value"] == one["gain"].parts["value"]).all()


def test_a_missing_hessian_is_an_error_that_names_the_tensor():
    H = hessians()
    del H["fc2.weight"]
    with pytest.raises(HessianError, match=r"fc2\.weight"):
        quantize(weights(), ROLES, H, SPEC)


def test_a_hessian_of_another_model_is_an_error_that_names_the_tensor():
    with pytest.raises(HessianError, match=r"fc2\.weight.*9 x 9"):
        quantize(weights(), ROLES, hessians() | {"fc2.weight": torch.eye(9)}, SPEC)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_weights_beyond_float16_are_refused_by_name(value):
    plain = weights()
    plain["gain"][3] = value
    with pytest.raises(DivergedError, match="gain"):
        quantize(plain, ROLES, hessians(), SPEC)


def test_weights_without_a_role_are_refused():
    for names in (weights() | {"stray": torch.zeros(1)}, {"gain": torch.zeros(8)}):
        with pytest.raises(SpecError, match="one role"):
            quantize(names, ROLES, hessians(), SPEC)


def test_methods_are_found_by_the_names_they_write():
    assert {name: method(name).name for name in METHODS} == {name: name for name in METHODS}
    with pytest.raises(ArtifactError, match="'pickle'"):
        dequantize({"w": QTensor((1,), "pickle", {})})


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Layer(8, 16), Layer(16, 4)
        self.gain = nn.Parameter(torch.ones(4))

    def roles(self) -> dict[str, Role]:
        return {"first.weight": Role.MATRIX, "second.weight": Role.HEAD, "gain": Role.CONTROL}

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            weight = layer.weight if layer.fake is None else layer.fake(layer.weight)
            x = torch.tanh(x @ weight.T)
        return x * self.gain


QAT = QuantSpec(matrix=RoundNearest(bits=3, k=3.0), head=RoundNearest(bits=4, k=4.0), small=0)


@pytest.mark.parametrize("compiled", [False, True])
def test_late_qat_computes_with_the_weights_that_export_would_leave(compiled):
    model, x = Toy(), torch.randn(5, 8)
    forward = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    switch = fake_quantizer(model, QAT)
    plain = forward(x)
    switch(True)
    rounded = forward(x)
    switch(False)
    assert torch.equal(forward(x), plain)
    exported = dequantize(quantize(dict(model.named_parameters()), model.roles(), {}, QAT))
    with torch.no_grad():
        for name in ("first", "second"):
            getattr(model, name).weight.copy_(exported[f"{name}.weight"])
    torch.testing.assert_close(rounded, model(x), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(rounded, plain, atol=1e-3)


def test_late_qat_follows_the_weight_as_it_moves():
    model, x = Toy(), torch.randn(5, 8)
    fake_quantizer(model, QAT)(True)
    forward = torch.compile(model, backend="aot_eager", fullgraph=True)
    before = forward(x)
    before.square().sum().backward()
    assert model.first.weight.grad.abs().sum() > 0
    with torch.no_grad():
        model.first.weight.mul_(1.7).add_(0.1)
    after = forward(x)
    assert torch.allclose(after, model(x), atol=1e-6)
    assert not torch.allclose(after, before, atol=1e-3)


def test_late_qat_rehearses_the_grid_of_gptq():
    """Where no error can be made up for, GPTQ is plain rounding: the rehearsal is the performance."""
    W = torch.randn(12, 30)
    read = dequantize(GPTQ(bits=4, k=5.0).quantize({"w": W}, {"w": torch.eye(30)}, 1.0))["w"]
    assert torch.equal(GPTQ(bits=4, k=5.0).as_exported(W), read)


def test_specs_refuse_what_cannot_work():
    for wrong in ({"small": -1}, {"control": GPTQ()}):
        with pytest.raises(SpecError):
            QuantSpec(**wrong)
    for wrong in ({"sequences": 0}, {"rows": 0}):
        with pytest.raises(SpecError):
            Calibration(**wrong)


@pytest.mark.parametrize("sequences, rows, world, batches", [(64, 8, 1, 8), (64, 8, 8, 1), (10, 4, 1, 3), (1, 8, 8, 1)])
def test_calibration_reads_at_least_what_it_says(sequences, rows, world, batches):
    assert Calibration(sequences=sequences, rows=rows).batches(world) == batches


def test_bfloat16_and_transposed_weights_are_taken():
    W = torch.randn(8, 16).bfloat16().T
    found = quantize({"w": W}, {"w": Role.EMBED}, {}, QuantSpec(small=0))["w"]
    assert found.shape == (16, 8)
    assert torch.allclose(dequantize({"w": found})["w"], W.float(), atol=0.2)


def test_keep_holds_the_precision_it_says():
    W = torch.randn(50)
    assert torch.equal(dequantize(Keep("float32").quantize({"w": W}, {}, 1.0))["w"], W)
    assert torch.equal(dequantize(Keep().quantize({"w": W}, {}, 1.0))["w"], W.half().float())
    with pytest.raises(SpecError, match="bfloat16"):
        Keep("bfloat16")
