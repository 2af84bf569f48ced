"""Each filter against the definition written out; all of them against transformers'."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from golf.contracts import SpecError
from golf.eval.sampling import Sampling, banned


def logits(seed=0, vocab=50):
    return torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * 3


def reference(logits_V, seen, sampling):
    """Probabilities [V], by the definitions, in plain Python."""
    scores = logits_V.double().tolist()
    if sampling.repetition_penalty != 1:
        for token in set(seen):
            by = sampling.repetition_penalty
            scores[token] = scores[token] / by if scores[token] > 0 else scores[token] * by
    size = sampling.no_repeat
    grams = {tuple(seen[at : at + size]) for at in range(len(seen) - size + 1)} if size else set()
    for token in range(len(scores)):
        if size and len(seen) >= size - 1 and tuple([*seen, token][-size:]) in grams:
            scores[token] = -math.inf
    top = max(scores)
    shares = [math.exp((score - top) / sampling.temperature) for score in scores]
    order = sorted(range(len(scores)), key=lambda token: -shares[token])
    if sampling.top_k:
        order = order[: sampling.top_k]
    total, kept, reached = sum(shares[token] for token in order), [], 0.0
    for token in order:
        if reached < sampling.top_p:
            kept.append(token)
            reached += shares[token] / total
    total = sum(shares[token] for token in kept)
    return [shares[token] / total if token in kept else 0.0 for token in range(len(scores))]


SEEN = [3, 4, 5, 3, 4, 7, 3, 4]
MANY = [
    Sampling(),
    Sampling(temperature=0.5),
    Sampling(top_k=7),
    Sampling(top_p=0.6),
    Sampling(repetition_penalty=1.7),
    Sampling(no_repeat=3),
    Sampling(no_repeat=1),
    Sampling(temperature=1.3, top_k=20, top_p=0.8, repetition_penalty=1.2, no_repeat=2),
]


@pytest.mark.parametrize("sampling", MANY, ids=str)
def test_draws_have_the_distribution_of_the_definition(sampling):
    """Evenly spaced draws meet every token as often as its probability says."""
    wanted, draws = reference(logits(), SEEN, sampling), 2000
    found = Counter(sampling.pick(logits(), SEEN, (draw + 0.5) / draws) for draw in range(draws))
    for token, share in enumerate(wanted):
        assert found[token] / draws == pytest.approx(share, abs=1.01 / draws)


@pytest.mark.parametrize("sampling", MANY, ids=str)
def test_transformers_agrees(sampling):
    process = pytest.importorskip("transformers.generation.logits_process", reason="needs the extra hf")
    steps = [process.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)]
    steps += [process.NoRepeatNGramLogitsProcessor(sampling.no_repeat)] if sampling.no_repeat else []
    steps.append(process.TemperatureLogitsWarper(sampling.temperature))
    steps += [process.TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    steps += [process.TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    scores = logits()[None]
    for step in steps:
        scores = step(torch.tensor([SEEN]), scores)
    left = reference(logits(), SEEN, sampling)
    np.testing.assert_allclose(torch.softmax(scores[0], -1).numpy(), left, atol=1e-6)


def test_greedy_takes_the_likeliest():
    assert Sampling(temperature=0).pick(logits(), [], 0.99) == int(logits().argmax())
    best = int(logits().argmax())
    assert Sampling(temperature=0, no_repeat=1).pick(logits(), [best], 0.0) == int(logits().topk(2).indices[1])


def test_runs_that_would_come_again():
    assert banned([1, 2, 3, 1, 2], 3) == {3}
    assert banned([1, 2, 3, 1, 2, 4, 1, 2], 3) == {3, 4}
    assert banned([1, 1], 2) == {1} and banned([1, 2, 2], 1) == {1, 2}
    assert banned([1], 3) == banned([], 1) == set()
    everything = list(range(50))
    assert 0 <= Sampling(no_repeat=1).pick(logits(), everything, 0.5) < 50  # nothing new is left


def test_the_last_draw_is_still_a_token():
    assert Sampling(top_k=5).pick(logits(), [], 1.0) in logits().topk(5).indices.tolist()


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}, {"repetition_penalty": 0}, {"no_repeat": -1},
    ],
)  # fmt: skip
def test_what_cannot_be(wrong):
    with pytest.raises(SpecError, match=next(iter(wrong))):
        Sampling(**wrong)
