"""How likely a model finds continuations of texts: what zero-shot multiple choice comes down to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from golf.contracts import DataError, Sink, emit, quiet
from golf.eval.sliding import CPU_TOKENS, GPU_TOKENS, forward_tail, scoring
from golf.host import Host

# Rows are padded on the right to a multiple of this. A row's padded length never depends on its neighbors, so
# that neither does its score: a model may change with the length of its input.
STEP = 32
# The same for continuations that are read behind a context in a cache.
CACHED_STEP = 8


@dataclass(frozen=True)
class Request:
    """context: tokens that are given, BOS first.  continuation: tokens whose likelihood is asked for."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """log_probability: of the whole continuation, in nats.  greedy: whether each token was the likeliest."""

    log_probability: float
    greedy: bool


@dataclass
class Row:
    """Tokens fed at once, and what is read off them: (place of the request, position of its first logits)."""

    tokens: tuple[int, ...]
    asked: list[tuple[int, int]] = field(default_factory=list)

    def length(self, window: int) -> int:
        """What the row is padded to."""
        return min(window, -(-len(self.tokens) // STEP) * STEP)


def log_probabilities(
    model: nn.Module,
    requests: Sequence[Request],
    *,
    window: int,
    batch_tokens: int | None = None,
    host: Host | None = None,
    sink: Sink = quiet,
) -> list[Answer]:
    """One answer for each request, in order.

    window: tokens fed at most; a longer context loses its beginning, as lm-eval does it.
    Requests that read the same tokens, or a beginning of what another one reads, share a row. Where several continue
    one context, a model that reads on with a cache (`golf.arch.cache`) reads that once.
    Raises DataError for an empty context or continuation, or a continuation longer than the window.
    """
    host = host or Host()
    if batch_tokens is None:
        batch_tokens = CPU_TOKENS if host.device.type == "cpu" else GPU_TOKENS
    _check(requests, window)
    contexts = shared(requests, window) if hasattr(model, "read_on") else {}
    cached = {place for places in contexts.values() for place in places}
    alone = [place for place in range(len(requests)) if place not in cached]
    rows, answers, done = plan([requests[place] for place in alone], window), {}, 0
    total = len(rows) + len(contexts)

    def tell(more: int) -> None:
        nonlocal done
        done += more
        emit(sink, "score", done=done, total=total, what=f"{len(requests):,} requests")

    forward = forward_tail(model)
    with scoring(model, host):
        for batch, _ in _alike(list(contexts), len, batch_tokens):
            some = {context: contexts[context] for context in batch}
            answers |= _behind_contexts(model, requests, some, batch_tokens, host)
            tell(len(batch))
        for batch, length in _alike(rows, lambda row: row.length(window), batch_tokens):
            first = min(start for row in batch for _, start in row.asked)
            ids_BT = torch.zeros(len(batch), length, dtype=torch.int64)
            for place, row in enumerate(batch):
                ids_BT[place, : len(row.tokens)] = torch.tensor(row.tokens)
            logits_BTV = forward(ids_BT.to(host.device), length - first)
            for logits_TV, row in zip(logits_BTV, batch):
                for place, start in row.asked:
                    asked = alone[place]
                    answers[asked] = _answer(logits_TV[start - first :], requests[asked].continuation)
            tell(len(batch))
    return [answers[place] for place in range(len(requests))]


def _check(requests: Sequence[Request], window: int) -> None:
    for place, request in enumerate(requests):
        if not request.context or not 0 < len(request.continuation) <= window:
            raise DataError(
                f"request {place} has a context of {len(request.context)} tokens and a continuation of "
                f"{len(request.continuation)}; give at least 1 of each, and continue by at most window={window}"
            )


def shared(requests: Sequence[Request], window: int) -> dict[tuple[int, ...], list[int]]:
    """Contexts worth reading once, with the places of the requests that continue them by more than one token each.

    Only what fits the window is shared: a context that loses its beginning is another one.
    """
    found: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, request in enumerate(requests):
        padded = -(-len(request.continuation) // CACHED_STEP) * CACHED_STEP
        if len(request.context) >= STEP and len(request.context) + padded <= window:
            found[request.context].append(place)
    several = {context: {requests[place].continuation[:-1] for place in places} for context, places in found.items()}
    return {context: places for context, places in found.items() if len(several[context]) > 1}


def plan(requests: Sequence[Request], window: int) -> list[Row]:
    """The rows to feed, the longest first. A row that begins another of the same padded length is read off that."""
    wanted = [
        ((request.context + request.continuation)[-window - 1 : -1], place) for place, request in enumerate(requests)
    ]
    rows: list[Row] = []
    # In lexicographic order, whatever a row begins comes right behind it.
    for tokens, place in sorted(wanted, reverse=True):
        fresh = Row(tokens)
        if not (rows and rows[-1].tokens[: len(tokens)] == tokens and rows[-1].length(window) == fresh.length(window)):
            rows.append(fresh)
        rows[-1].asked.append((place, len(tokens) - len(requests[place].continuation)))
    return sorted(rows, key=lambda row: -len(row.tokens))


def _alike(items: Sequence[Any], length: Callable[[Any], int], batch_tokens: int) -> Iterator[tuple[list[Any], int]]:
    """Items of one length together, as many as `batch_tokens` holds and at least one."""
    alike: dict[int, list[Any]] = defaultdict(list)
    for item in items:
        alike[length(item)].append(item)
    for each, group in alike.items():
        size = max(1, batch_tokens // each)
        for first in range(0, len(group), size):
            yield group[first : first + size], each


def _behind_contexts(
    model: nn.Module,
    requests: Sequence[Request],
    contexts: dict[tuple[int, ...], list[int]],
    batch_tokens: int,
    host: Host,
) -> dict[int, Answer]:
    """Answers by place, for contexts of one length. Continuations of one padded length are read side by side."""
    cache = model.open_cache(len(contexts))
    first_BV = model.read_on(torch.tensor(list(contexts)).to(host.device), cache, tail=1)[:, -1]
    asked = [(row, place) for row, places in enumerate(contexts.values()) for place in places]

    def padded(each: tuple[int, int]) -> int:
        return -(-len(requests[each[1]].continuation) // CACHED_STEP) * CACHED_STEP

    answers = {}
    for batch, length in _alike(asked, padded, batch_tokens):
        ids_BT = torch.zeros(len(batch), length, dtype=torch.int64)
        for line, (_, place) in enumerate(batch):
            continuation = requests[place].continuation
            ids_BT[line, : len(continuation)] = torch.tensor(continuation)
        behind = cache.pick(torch.tensor([row for row, _ in batch]))
        logits_BTV = model.read_on(ids_BT.to(host.device), behind)
        for (row, place), logits_TV in zip(batch, logits_BTV):
            joined_TV = torch.cat([first_BV[row : row + 1], logits_TV[:-1]])
            answers[place] = _answer(joined_TV, requests[place].continuation)
    return answers


def _answer(logits_TV: Tensor, continuation: tuple[int, ...]) -> Answer:
    """logits_TV: those that predict the first token of the continuation, and all after them."""
    targets_T = torch.tensor(continuation, device=logits_TV.device)
    logits_TV = logits_TV[: len(continuation)].float()
    found_T = torch.log_softmax(logits_TV, -1).gather(-1, targets_T[:, None])[:, 0]
    greedy = bool((logits_TV.argmax(-1) == targets_T).all())
    return Answer(found_T.sum(dtype=torch.float64).item(), greedy)
