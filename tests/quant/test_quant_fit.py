"""The fit lands under the cap, close to it, in few tries, or says with numbers why it cannot."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from golf.contracts import BudgetError, Event, QTensor, Role
from golf.quant import apply
from golf.quant.apply import QuantSpec
from golf.quant.fit import COARSEST_STEP, NARROWEST_CLIP, SLACK, fit
from golf.quant.gptq import GPTQ
from golf.quant.nearest import Keep, RoundNearest
from golf.quant.report import entropy, rows

SPEC = QuantSpec(matrix=GPTQ(bits=6), head=GPTQ(bits=8, k=20.0), embed=RoundNearest(bits=8))
ROLES = {"emb.weight": Role.HEAD, "fc.weight": Role.MATRIX, "table.weight": Role.EMBED, "gain": Role.CONTROL}


def model(width: int = 64) -> tuple[dict, dict]:
    random = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=random)

    weights = {
        "emb.weight": normal(256, width) * torch.exp(0.3 * normal(256, 1)),
        "fc.weight": normal(8 * width, width) * 0.05,
        "table.weight": normal(128, 32),
        "gain": normal(width),
    }
    X = normal(300, width) @ normal(width, width)
    return weights, dict.fromkeys(("emb.weight", "fc.weight"), X.T @ X / 300)


def size_of(qtensors: dict[str, QTensor]) -> int:
    """What an ideal coder would need: entropy of the codes, two bytes a float, and a header."""
    return 300 + sum(
        math.ceil(entropy(array) * array.size / 8) if part in q.alphabets else array.nbytes
        for q in qtensors.values()
        for part, array in q.parts.items()
    )


def run(cap, spec=SPEC, size=size_of):
    events: list[Event] = []
    fitted = fit(*(model()[0], ROLES, model()[1]), spec, size_of=size, cap=cap, sink=events.append)
    assert fitted.bytes == size(fitted.qtensors)
    assert fitted.tries == len(events)
    assert {"attempt", "multiplier", "bytes", "cap"} == set(events[-1].values)
    return fitted


NATURAL = size_of(apply.quantize(model()[0], ROLES, model()[1], SPEC))


def test_without_a_cap_the_spec_stands():
    fitted = run(None)
    assert (fitted.multiplier, fitted.tries, fitted.bytes) == (1.0, 1, NATURAL)


@pytest.mark.parametrize("share", [0.5, 0.6, 0.8, 0.9, 0.97, 0.999, 1.0, 1.003, 1.02, 1.1, 1.2])
def test_never_over_and_within_half_a_percent(share):
    cap = int(NATURAL * share)
    fitted = run(cap)
    assert cap * (1 - SLACK) <= fitted.bytes <= cap
    assert fitted.tries <= (4 if share > 0.7 else 6)
    assert (fitted.multiplier > 1) == (fitted.bytes < NATURAL) or fitted.multiplier == 1


def test_the_multiplier_is_the_one_the_tensors_were_made_with():
    fitted = run(int(NATURAL * 0.7))
    again = apply.quantize(model()[0], ROLES, model()[1], SPEC, fitted.multiplier)
    for name, q in fitted.qtensors.items():
        assert all(np.array_equal(array, again[name].parts[part]) for part, array in q.parts.items())


def test_steps_are_not_narrowed_below_a_harmless_clip():
    fitted = run(NATURAL * 3)
    assert fitted.bytes < NATURAL * 1.5
    # The tightest clip of the spec is 12.85 deviations; float16 scales and the typical row move it a little.
    assert fitted.multiplier == pytest.approx(NARROWEST_CLIP / 12.85, rel=0.01)


def test_a_step_that_jumps_over_the_window_still_ends_under_the_cap():
    """A packer whose sizes come in lumps has nothing within half a percent of the cap."""

    def lumpy(qtensors):
        return -(-size_of(qtensors) // 4000) * 4000

    cap = int(NATURAL * 0.7) // 4000 * 4000 + 3900
    fitted = run(cap, size=lumpy)
    assert fitted.bytes == cap // 4000 * 4000
    assert fitted.tries <= 12


def test_a_cap_below_the_kept_floats_is_refused_before_quantizing():
    def only_floats(qtensors):
        assert all(q.method == "keep" for q in qtensors.values())
        return size_of(qtensors)

    with pytest.raises(BudgetError, match=r"alone are 428 bytes, 128 over the 300"):
        run(300, size=only_floats)


def test_a_cap_no_step_can_meet_is_refused_after_one_try():
    calls = []

    def counted(qtensors):
        calls.append(len(qtensors))
        return size_of(qtensors)

    with pytest.raises(BudgetError, match=r"at least .* over the 5,000 left"):
        run(5_000, size=counted)
    # Once for the kept floats, once for everything.
    assert calls == [1, 4]


def test_a_cap_just_under_the_coarsest_step_is_refused_by_trying_it():
    coarsest = COARSEST_STEP / 0.4
    least = size_of(apply.quantize(model()[0], ROLES, model()[1], SPEC, coarsest * 1.5))
    with pytest.raises(BudgetError, match="coarsest sensible"):
        run(least)


def test_a_model_all_in_float_fits_or_not():
    spec = QuantSpec(matrix=Keep(), head=Keep(), embed=Keep())
    whole = size_of(apply.quantize(model()[0], ROLES, {}, spec))
    assert run(whole, spec=spec).multiplier == 1.0
    with pytest.raises(BudgetError):
        run(whole - 1, spec=spec)


def test_search_clips_are_fitted_too():
    spec = QuantSpec(matrix=GPTQ(bits=5, clip="search"), head=GPTQ(bits=6, clip="search"), embed=RoundNearest())
    natural = run(None, spec=spec).bytes
    fitted = run(int(natural * 0.8), spec=spec)
    assert natural * 0.8 * (1 - SLACK) <= fitted.bytes <= natural * 0.8


def test_rows_of_zeros_do_not_confuse_the_fit():
    weights, hessians = model()
    weights["fc.weight"][:] = 0
    weights["table.weight"][::2] = 0
    natural = size_of(apply.quantize(weights, ROLES, hessians, SPEC))
    fitted = fit(weights, ROLES, hessians, SPEC, size_of=size_of, cap=int(natural * 0.8), sink=lambda event: None)
    assert natural * 0.8 * (1 - SLACK) <= fitted.bytes <= natural * 0.8


def test_report_rows_say_what_happened():
    weights, hessians = model()
    found = apply.quantize(weights, ROLES, hessians, SPEC)
    table = {row.name: row for row in rows(weights, found, hessians)}
    assert [(r.role, r.method, r.parameters) for r in table.values()] == [
        ("head", "gptq", 256 * 64),
        ("matrix", "gptq", 512 * 64),
        ("embed", "nearest", 128 * 32),
        ("control", "keep", 64),
    ]
    # The rate model of Gaussian rows, and a step's variance over the weight's.
    assert table["fc.weight"].bits == pytest.approx(2.047 + math.log2(31 / 12.85), abs=0.05)
    assert table["table.weight"].error == pytest.approx((20 / 127) ** 2 / 12, rel=0.1)
    assert table["table.weight"].scale == pytest.approx(20 / 127, rel=0.05)
    assert 0 < table["fc.weight"].error < (12.85 / 31) ** 2 / 12
    assert table["gain"].bits == 16
    assert table["gain"].scale == 0
    assert table["gain"].error < 1e-6


def test_entropy_of_known_histograms():
    assert entropy(np.array([], np.int8)) == 0
    assert entropy(np.array([3, 3, 3], np.int8)) == 0
    assert entropy(np.array([0, 1, 2, 3] * 5, np.int8)) == pytest.approx(2)
