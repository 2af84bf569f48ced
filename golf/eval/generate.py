"""Continuing texts token by token with a cache."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from golf.contracts import DataError, SpecError
from golf.eval.sampling import Sampling
from golf.eval.sliding import scoring
from golf.host import Host


def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    tokens: int,
    sampling: Sampling,
    seed: int,
    stops: Collection[int] = (),
    window: int | None = None,
    until: Callable[[int, Sequence[int]], bool] | None = None,
    host: Host | None = None,
) -> Iterator[tuple[int, int]]:
    """(number of the prompt, next token), in the order in which they are drawn, all prompts side by side.

    model: reads on with a cache (`golf.arch.cache`).  tokens: drawn for each prompt at most.
    seed: each prompt draws from a stream of its own, so that it continues alike whatever prompts stand beside it.
    stops: tokens that end a text; they are not handed on.  until: called with a prompt's number and all tokens
        drawn for it; true ends it there.
    window: how far back every token sees; None is everything, as far as the model can.
    Prompts may differ in length. The longer ones are still being read while the shorter ones go on. Raises DataError
    for an empty prompt, and what the model raises for more tokens than it can read.
    """
    host = host or Host()
    if tokens < 1:
        raise SpecError(f"tokens={tokens} must be at least 1")
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise DataError("every prompt needs at least 1 token, such as BOS; there must be at least 1 prompt")
    draws = [np.random.default_rng([seed, number]) for number in range(len(prompts))]
    texts, alive = [[int(token) for token in prompt] for prompt in prompts], list(range(len(prompts)))
    cache, fed = model.open_cache(len(prompts), window), min(map(len, prompts))
    ids_BT = torch.tensor([text[:fed] for text in texts])
    while True:
        with scoring(model, host):  # not around a yield, where the caller would be in it too
            logits_BV = model.read_on(ids_BT.to(host.device), cache, tail=1)[:, -1]
        keep = []
        for row, number in enumerate(alive):
            text, start = texts[number], len(prompts[number])
            if len(text) == fed:  # the prompt has been read
                token = sampling.pick(logits_BV[row], text, draws[number].random())
                if token in stops:
                    continue
                text.append(token)
                yield number, token
                if len(text) - start == tokens or (until is not None and until(number, text[start:])):
                    continue
            keep.append(row)
        if not keep:
            return
        if len(keep) < len(alive):
            cache, alive = cache.pick(torch.tensor(keep)), [alive[row] for row in keep]
        ids_BT = torch.tensor([[texts[number][fed]] for number in alive])
        fed += 1
