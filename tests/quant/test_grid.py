"""One rounding: what training rehearses is, bit for bit, what export writes and scoring reads back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.contracts import ArtifactError, QTensor, SpecError
from golf.quant.apply import dequantize
from golf.quant.grid import Grid, fake_quant, stored, to_codes, to_weights
from golf.quant.nearest import Keep, RoundNearest

METHODS = [RoundNearest(bits=b, k=k, clip=c) for b, k in ((2, 1.5), (6, 12.85), (8, 20)) for c in ("sd", "search")]


@pytest.mark.parametrize("method", [*METHODS, Keep("float16"), Keep("float32")], ids=str)
@pytest.mark.parametrize("shape", [(7, 33), (1, 1), (5,), (3, 4, 9)], ids=str)
def test_fake_quant_is_the_export_rounding(method, shape):
    for seed in range(5):
        W = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 10.0 ** (seed - 3)
        exported = method.quantize({"w": W}, {}, 1.0)
        assert torch.equal(method.as_exported(W), dequantize(exported)["w"])


def test_straight_through_gradient_is_the_identity():
    W = torch.randn(6, 40, requires_grad=True)
    upstream = torch.randn(6, 40)
    (RoundNearest(bits=3, k=2.0).as_exported(W) * upstream).sum().backward()
    assert torch.equal(W.grad, upstream)


def test_codes_are_the_nearest_integers_within_symmetric_limits():
    grid = Grid(6)
    assert (grid.limit, grid.alphabet) == (31, 63)
    W = torch.tensor([[0.0, 0.24, 0.26, -0.74, -0.76, 100.0, -100.0]])
    assert to_codes(W, torch.tensor([[0.5]]), grid).tolist() == [[0, 0, 1, -1, -2, 31, -31]]


def test_codes_of_a_mirrored_weight_are_mirrored():
    W, scale = torch.randn(4, 100), torch.full((4, 1), 0.05)
    assert torch.equal(to_codes(-W, scale, Grid(5)), -to_codes(W, scale, Grid(5)))


@settings(deadline=None)
@given(st.floats(2.0**-40, 2.0**20, width=32))
def test_a_stored_scale_survives_the_file_unchanged(value):
    scale = stored(torch.tensor(value))
    assert scale.half().float() == scale
    assert torch.finfo(torch.float16).tiny <= scale <= torch.finfo(torch.float16).max


def test_no_absolute_step_is_forced_on_small_rows():
    """The record's floor of 1 / limit would zero this matrix; only float16's own floor is left."""
    W = torch.randn(4, 256) * 3e-3
    read = dequantize(RoundNearest(bits=6, k=12.85).quantize({"w": W}, {}, 1.0))["w"]
    assert ((read - W).square().sum() / W.square().sum()).sqrt() < 0.2


def test_half_integers_round_to_even_in_both_precisions():
    W = torch.arange(-6, 7) * 0.25
    for dtype in (torch.float32, torch.float64):
        codes = to_codes(W.to(dtype)[None], torch.tensor([[0.5]], dtype=dtype), Grid(4))
        assert codes[0].tolist() == [float(np.round(w / 0.5)) for w in W.tolist()]


def test_fake_quant_equals_its_definition():
    W, scale, grid = torch.randn(3, 50), torch.tensor([[0.1], [0.2], [0.3]]), Grid(4)
    assert torch.equal(fake_quant(W, scale, grid), to_weights(to_codes(W, scale, grid), scale))


@pytest.mark.parametrize("bits", [1, 0, 17])
def test_bits_beyond_two_bytes_are_refused(bits):
    with pytest.raises(SpecError, match=f"bits={bits}"):
        Grid(bits)


CODES, SCALE = np.zeros((2, 3), np.int8), np.ones(2, np.float16)


@pytest.mark.parametrize(
    "parts",
    [
        {"codes": CODES},
        {"codes": CODES, "scale": SCALE, "more": SCALE},
        {"codes": CODES.astype(np.float16), "scale": SCALE},
        {"codes": CODES, "scale": np.ones(3, np.float16)},
        {"codes": CODES.T, "scale": SCALE},
        {"value": SCALE},
    ],
    ids=lambda parts: "+".join(parts),
)
@pytest.mark.parametrize("method", ["gptq", "nearest"])
def test_parts_that_do_not_fit_the_method_are_refused(parts, method):
    with pytest.raises(ArtifactError):
        dequantize({"w": QTensor((2, 3), method, parts, {"codes": 63})})


@pytest.mark.parametrize(
    "parts", [{"value": CODES}, {"value": np.ones(5, np.float16)}, {}], ids=["int", "count", "none"]
)
def test_kept_parts_that_do_not_fit_are_refused(parts):
    with pytest.raises(ArtifactError):
        dequantize({"w": QTensor((2, 3), "keep", parts)})
