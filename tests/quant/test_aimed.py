"""A fit that foretells its step meets the cap as the search does, with fewer roundings."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from golf.contracts import BudgetError, HessianError, Role
from golf.quant import abreast, aimed
from golf.quant.aimed import Aimed, foretold, payers, reach
from golf.quant.apply import quantize
from golf.quant.fisher import Curvature
from golf.quant.report import entropy
from golf.quant.squeeze import AIM, Squeeze, room
from golf.quant.trellis import Trellis

TWO_GRIDS = dict.fromkeys(("matrix", "head", "embed"), Trellis(step=0.003))
ROLES = {"table": Role.EMBED, "a.weight": Role.MATRIX, "b.weight": Role.MATRIX, "c.weight": Role.MATRIX}
SHAPES = {"table": (300, 32), "a.weight": (96, 64), "b.weight": (64, 96), "c.weight": (96, 64)}


@pytest.fixture(scope="module")
def model():
    """Weights, roles and curvature, where louder inputs and rows that count more have smaller weights; and a gain."""
    random = torch.Generator().manual_seed(0)
    weights, known = {}, {}
    for name, (rows, width) in SHAPES.items():
        loud_K, count_R = (torch.exp(torch.randn(size, generator=random)) for size in (width, rows))
        X = torch.randn(4 * width, width, generator=random) * loud_K
        H = (X.T @ X) / len(X)
        known[name] = Curvature(name, H / H.diagonal().mean(), count_R)
        weights[name] = 0.05 * torch.randn(rows, width, generator=random) / count_R.sqrt()[:, None] / loud_K
    weights["gain"], known["gain"] = torch.ones(64), Curvature("gain", None, torch.ones(1))
    return weights, ROLES | {"gain": Role.CONTROL}, known


def size_of(qtensors):
    arrays = [array for q in qtensors.values() for array in q.parts.values()]
    return 100 + sum(math.ceil(entropy(array) * array.size / 8) for array in arrays)


def fitted(model, cap, spec=None):
    return (spec or Aimed(**TWO_GRIDS)).fit(*model, size_of=size_of, cap=cap, sink=lambda event: None)


def rounded_codes(monkeypatch, model, cap, spec):
    """Codes that a fit rounds in all."""
    counts = []

    def counted(weights, *rest):
        counts.append(sum(W.numel() for W in weights.values()))
        return quantize(weights, *rest)

    monkeypatch.setattr("golf.quant.aimed.quantize", counted)
    monkeypatch.setattr("golf.quant.squeeze.quantize", counted)
    fitted(model, cap, spec)
    return sum(counts)


def test_caps_are_met_with_fewer_roundings(model, monkeypatch):
    natural, codes = size_of(quantize(*model, Aimed(**TWO_GRIDS))), {Aimed: 0, Squeeze: 0}
    for share in (0.7, 0.85):
        cap = int(share * natural)
        found = fitted(model, cap)
        assert found.bytes == size_of(found.qtensors) and found.bytes in room(cap)
        for plan in codes:
            codes[plan] += rounded_codes(monkeypatch, model, cap, plan(**TWO_GRIDS))
    assert codes[Aimed] < 0.7 * codes[Squeeze]


def test_the_same_for_any_number_of_threads(model):
    found = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        with abreast.alone():
            found.append(fitted(model, 15_000))
        torch.set_num_threads(before)
    assert found[0].bytes == found[1].bytes
    for name, one in found[0].qtensors.items():
        assert all((array == found[1].qtensors[name].parts[part]).all() for part, array in one.parts.items())


def test_bytes_are_foretold_and_found_again(model):
    weights, roles, known = model
    spec, codes = Aimed(**TWO_GRIDS), sum(W.numel() for W in weights.values())
    sizes = foretold(weights, roles, known, spec)
    for octaves in (-2.0, -1.0, 0.0, 0.5):
        real = size_of(quantize(weights, roles, known, spec, 2.0**octaves))
        assert sizes(octaves) == pytest.approx(real, rel=0.08)
        assert reach(sizes, sizes(octaves), codes) == pytest.approx(octaves, abs=0.01)


def test_those_pay_that_are_packed_anew_the_soonest(model):
    weights, roles, _ = model
    matrices = {name: weights[name] for name in SHAPES}
    assert payers(matrices, roles, 6000) == ["b.weight"]  # as wide as no other, and enough
    assert payers(matrices, roles, 6200) == ["table"]
    assert payers(matrices, roles, 10_000) == ["a.weight", "c.weight"]
    assert payers(matrices, roles, 20_000) == ["table", "a.weight", "b.weight"]
    assert payers(matrices, roles, 10**6) == payers({}, roles, 1) == []


def test_where_foretelling_leads_nowhere_the_search_goes_on(model, monkeypatch):
    cap = 15_000
    monkeypatch.setattr(aimed, "foretold", lambda *_: lambda octaves: AIM * cap)  # the same whatever the step
    assert fitted(model, cap).bytes in room(cap)
    with pytest.raises(BudgetError, match=r"the smallest artifact .* is \d+ bytes, \d+ over"):
        fitted(model, 150)


def test_what_has_no_curvature_is_named(model):
    weights, roles, known = model
    with pytest.raises(HessianError, match=r"no curvature for table"):
        fitted((weights, roles, {"gain": known["gain"]}), 15_000)


def test_without_a_cap_the_step_stands(model):
    ours, theirs = fitted(model, None), fitted(model, None, Squeeze(**TWO_GRIDS))
    assert (ours.multiplier, ours.bytes) == (1.0, theirs.bytes)
    assert replace(ours, qtensors={}) == replace(theirs, qtensors={})
