"""Symmetries that families declare leave what their models compute as it is, and settling changes no code but in its
place."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_waterfill import curved

from golf.arch import families, symmetries
from golf.arch.unet import BigramHash, UNetSpec, ValueEmbedding
from golf.contracts import Side, Symmetry
from golf.quant.apply import dequantize
from golf.quant.fisher import Curvature
from golf.quant.symmetry import act, bend, settle
from golf.quant.waterfill import round_tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "arch"))
from test_decoders import SPECS, shaken

UNET = UNetSpec(
    vocab=90, layers=5, dim=24, heads=4, kv_heads=2, mlp_mult=2, rope_dims=4,
    bigram=BigramHash(rows=20, dim=6), values=ValueEmbedding(dim=8, layers=(1, -1)), xsa_last=5,
)  # fmt: skip
EVERY = SPECS | {
    "gelu_gpt relu2": replace(SPECS["gelu_gpt"], activation="relu2", kv_heads=4),
    "powergqa channels": replace(SPECS["powergqa"], channel_gate=True),
    "pr1361": UNET,
    "pr1361 without xsa": replace(UNET, xsa_last=0, values=ValueEmbedding(dim=12, layers=(-2, -1))),
    "pr1361 plain": replace(UNET, values=None, bigram=None, kv_heads=4, xsa_last=2, dtg=True, tied=False),
}


def drawn(symmetry: Symmetry, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """An order and factors within an octave of 1."""
    units = symmetry.units
    order = torch.arange(units)
    while symmetry.order and torch.equal(order, torch.arange(units)):
        order = torch.randperm(units, generator=random)
    factor = torch.exp2(2 * torch.rand(units, generator=random, dtype=torch.float64) - 1)
    if symmetry.signs:
        factor *= torch.randint(2, (units,), generator=random) * 2 - 1
    return order, factor


@pytest.mark.parametrize("spec", EVERY.values(), ids=EVERY)
def test_a_random_symmetry_changes_no_logits(spec):
    random = torch.Generator().manual_seed(1)
    model = shaken(spec).double().eval()
    ids = torch.randint(2, spec.vocab, (2, 12), generator=random)
    before, weights, declared = model(ids).detach(), dict(model.named_parameters()), symmetries.of(spec)
    moved = {name: W.detach() for name, W in weights.items()}
    for symmetry in declared:
        moved = act(moved, symmetry, *drawn(symmetry, random))
    named = {side.name for symmetry in declared for side in symmetry.sides}
    assert all(not torch.equal(moved[name], weights[name]) for name in named)
    model.load_state_dict(moved)
    torch.testing.assert_close(model(ids), before, rtol=1e-5, atol=1e-5)  # norms and products in float32
    assert before.std() > 0.1


@pytest.mark.parametrize("spec", EVERY.values(), ids=EVERY)
def test_every_hidden_unit_and_every_head_is_declared(spec):
    model, declared = shaken(spec), symmetries.of(spec)
    for name, W in model.named_parameters():
        if ".mlp." in name and W.ndim == 2:
            axis = 1 if W.shape[0] == spec.dim else 0
            assert any(
                side.name == name and side.axis == axis and symmetry.units == W.shape[axis] and symmetry.order
                for symmetry in declared
                for side in symmetry.sides
            )
    assert sum(symmetry.units == getattr(spec, "kv_heads", spec.heads) for symmetry in declared) > 0


def test_every_family_declares_some_and_a_stranger_none():
    assert set(symmetries.FAMILIES) == set(families.FAMILIES)

    class Stranger:
        family = "stranger"

    assert symmetries.of(Stranger()) == ()


def pair() -> tuple[dict, dict, Symmetry]:
    """A matrix of 40 hidden units and the one that reads them, beside other rows and columns, with a gain."""
    up, known_up = curved(50, 24)
    down, known_down = curved(16, 50, seed=1)
    weights = {"up": up, "down": down, "gain": torch.linspace(0.5, 2, 16)}
    known = {"up": known_up, "down": known_down, "gain": Curvature("gain", None, torch.tensor([0.3]))}
    return weights, known, Symmetry(40, (Side("up", 0, 1, 1, 5), Side("down", 1, -2, 1, 5)))


def test_curvature_moves_along_with_the_weights():
    weights, known, symmetry = pair()
    order, factor = drawn(symmetry, torch.Generator().manual_seed(2))
    errors = {name: torch.randn(W.shape, generator=torch.Generator().manual_seed(3)) for name, W in weights.items()}
    bent, moved = bend(known, weights, symmetry, order, factor), act(errors, symmetry, order, factor)
    for name in ("up", "down"):
        assert bent[name].loss(moved[name]) == pytest.approx(known[name].loss(errors[name]), rel=1e-4)


def test_settling_sorts_units_and_changes_no_code_but_in_its_place():
    weights, known, symmetry = pair()
    moved, bent = settle(weights, known, [symmetry])
    plain, ours = (
        {name: round_tensor(w[name], k[name], 0.01) for name in ("up", "down")}
        for w, k in ((weights, known), (moved, bent))
    )
    columns, rows = ours["down"].parts["columns"][5:45], ours["up"].parts["rows"][5:45]
    assert (np.diff(columns) >= 0).all() and (np.diff(plain["down"].parts["columns"][5:45]) < 0).any()
    assert all((np.diff(rows[columns == each]) >= 0).all() for each in columns)
    where = [int((weights["up"] == row).all(1).nonzero()[0]) for row in moved["up"]]
    assert where[:5] == [0, 1, 2, 3, 4] and sorted(where) == list(range(50))
    assert np.array_equal(ours["up"].parts["codes"], plain["up"].parts["codes"][where])
    assert np.array_equal(ours["down"].parts["codes"], plain["down"].parts["codes"][:, where])


def test_a_gain_takes_over_the_exponents_of_rows():
    weights, known, _ = pair()
    gain = Symmetry(16, (Side("gain", 0, 1), Side("down", 0, -1)), order=False, signs=True)
    moved, bent = settle(weights, known, [gain])
    for step in (0.01, 0.0107):
        rounded = round_tensor(moved["down"], bent["down"], step)
        assert len(set(rounded.parts["rows"])) == 1
        cost = bent["down"].loss(moved["down"] - dequantize({"": rounded})[""])
        plain = round_tensor(weights["down"], known["down"], step)
        assert len(set(plain.parts["rows"])) > 5
        assert cost == pytest.approx(known["down"].loss(weights["down"] - dequantize({"": plain})[""]), rel=0.1)
    outcome, before = (w["gain"][:, None] * w["down"] for w in (moved, weights))
    torch.testing.assert_close(outcome, before)


def test_factors_between_columns_and_rows_and_what_nobody_knows_are_left_alone():
    weights, known, symmetry = pair()
    fixed = [replace(symmetry, order=False), replace(symmetry, sides=(Side("elsewhere", 0, 1), *symmetry.sides))]
    moved, bent = settle(weights, known, fixed)
    assert all(moved[name] is weights[name] and bent[name] is known[name] for name in weights)
