"""Cached generation equals uncached generation token for token, in every family."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from golf.arch import families
from golf.contracts import DataError, SpecError
from golf.eval.generate import generate
from golf.eval.sampling import Sampling

VOCAB = 90
PROMPTS = [[1, 5, 6, 7], [1, 8], [1, 9, 10, 11, 12, 13, 14]]
WAYS = [
    Sampling(temperature=0),
    Sampling(temperature=1.5, top_k=30, top_p=0.95, repetition_penalty=1.1, no_repeat=3),
]


def small(family):
    torch.manual_seed(4)
    model = replace(families.spec_class(family)(), vocab=VOCAB).tiny().build()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@torch.no_grad()
def uncached(model, prompt, number, tokens, sampling, seed, stops=()):
    """A forward over everything for each token."""
    draw, text = np.random.default_rng([seed, number]), list(prompt)
    model.eval()
    for _ in range(tokens):
        token = sampling.pick(model(torch.tensor([text]))[0, -1], text, draw.random())
        if token in stops:
            break
        text.append(token)
    return text[len(prompt) :]


def collected(*args, **options):
    found = {}
    for number, token in generate(*args, **options):
        found.setdefault(number, []).append(token)
    return found


@pytest.mark.parametrize("sampling", WAYS, ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_equals_uncached(family, sampling):
    model = small(family)
    found = collected(model, PROMPTS, tokens=20, sampling=sampling, seed=11)
    for number, prompt in enumerate(PROMPTS):
        assert found[number] == uncached(model, prompt, number, 20, sampling, 11)


def test_seeds_and_neighbors():
    model, way = small("xgqa"), WAYS[1]
    whole = collected(model, PROMPTS, tokens=12, sampling=way, seed=1)
    assert collected(model, PROMPTS, tokens=12, sampling=way, seed=1) == whole
    assert collected(model, PROMPTS, tokens=12, sampling=way, seed=2) != whole
    assert collected(model, PROMPTS[:1], tokens=12, sampling=way, seed=1)[0] == whole[0]


def test_stops():
    """A stop token ends its text and is not handed on; the others go on as they would."""
    model, way = small("qed"), WAYS[1]
    free = collected(model, PROMPTS, tokens=15, sampling=way, seed=3)
    stop = free[1][4]
    found = collected(model, PROMPTS, tokens=15, sampling=way, seed=3, stops={stop})
    for number, text in free.items():
        cut = text.index(stop) if stop in text else len(text)
        assert found.get(number, []) == text[:cut]
    ended = collected(
        model, PROMPTS, tokens=15, sampling=way, seed=3, until=lambda number, text: number == 0 and len(text) == 2
    )
    assert {number: len(text) for number, text in ended.items()} == {0: 2, 1: 15, 2: 15}


@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_window_goes_on_without_end(family):
    """Past the model's own limit, in flat memory: each token sees the last 8."""
    model = small(family)
    found = collected(model, [[1, 5, 6]], tokens=40, sampling=WAYS[0], seed=0, window=8)
    assert len(found[0]) == 40


def test_limits():
    model = small("xgqa")
    spec = replace(model.spec, context=12)
    small_one = spec.build()
    with pytest.raises(DataError, match="limit of 12"):
        collected(small_one, [[1, 2, 3]], tokens=20, sampling=WAYS[0], seed=0)
    with pytest.raises(DataError, match="prompt"):
        next(generate(model, [[1], []], tokens=3, sampling=WAYS[0], seed=0))
    with pytest.raises(DataError, match="prompt"):
        next(generate(model, [], tokens=3, sampling=WAYS[0], seed=0))
    with pytest.raises(SpecError, match="tokens=0"):
        next(generate(model, [[1]], tokens=0, sampling=WAYS[0], seed=0))
