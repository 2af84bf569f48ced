"""How likely a model finds continuations of texts: what zero-shot multiple choice comes down to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from golf.contracts import DataError, Sink, emit
from golf.eval.sliding import CPU_TOKENS, GPU_TOKENS, forward_tail, quiet, scoring
from golf.host import Host

# Rows are padded on the right to a multiple of this. A row's padded length never depends on its neighbors, so
# that neither does its score: a model may change with the length of its input.
STEP = 32


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
    Requests that read the same tokens, or a beginning of what another one reads, share a row.
    Raises DataError for an empty context or continuation, or a continuation longer than the window.
    """
    host = host or Host()
    if batch_tokens is None:
        batch_tokens = CPU_TOKENS if host.device.type == "cpu" else GPU_TOKENS
    rows, answers, done = plan(requests, window), {}, 0
    forward = forward_tail(model)
    with scoring(model, host):
        for batch, length in _batches(rows, window, batch_tokens):
            first = min(start for row in batch for _, start in row.asked)
            ids_BT = torch.zeros(len(batch), length, dtype=torch.int64)
            for place, row in enumerate(batch):
                ids_BT[place, : len(row.tokens)] = torch.tensor(row.tokens)
            logits_BTV = forward(ids_BT.to(host.device), length - first)
            for logits_TV, row in zip(logits_BTV, batch):
                for place, start in row.asked:
                    answers[place] = _answer(logits_TV[start - first :], requests[place].continuation)
            done += len(batch)
            emit(sink, "score", done=done, total=len(rows), what=f"{len(requests):,} requests")
    return [answers[place] for place in range(len(requests))]


def plan(requests: Sequence[Request], window: int) -> list[Row]:
    """The rows to feed, the longest first. A row that begins another of the same padded length is read off that."""
    wanted = []
    for place, request in enumerate(requests):
        if not request.context or not 0 < len(request.continuation) <= window:
            raise DataError(
                f"request {place} has a context of {len(request.context)} tokens and a continuation of "
                f"{len(request.continuation)}; give at least 1 of each, and continue by at most window={window}"
            )
        tokens = (request.context + request.continuation)[-window - 1 : -1]
        wanted.append((tokens, place))
    rows: list[Row] = []
    # In lexicographic order, whatever a row begins comes right behind it.
    for tokens, place in sorted(wanted, reverse=True):
        fresh = Row(tokens)
        if not (rows and rows[-1].tokens[: len(tokens)] == tokens and rows[-1].length(window) == fresh.length(window)):
            rows.append(fresh)
        rows[-1].asked.append((place, len(tokens) - len(requests[place].continuation)))
    return sorted(rows, key=lambda row: -len(row.tokens))


def _batches(rows: Sequence[Row], window: int, batch_tokens: int) -> Iterator[tuple[list[Row], int]]:
    """Rows of one padded length together, as many as `batch_tokens` holds and at least one."""
    alike: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        alike[row.length(window)].append(row)
    for length, group in alike.items():
        size = max(1, batch_tokens // length)
        for first in range(0, len(group), size):
            yield group[first : first + size], length


def _answer(logits_TV: Tensor, continuation: tuple[int, ...]) -> Answer:
    """logits_TV: those that predict the first token of the continuation, and all after them."""
    targets_T = torch.tensor(continuation, device=logits_TV.device)
    logits_TV = logits_TV[: len(continuation)].float()
    found_T = torch.log_softmax(logits_TV, -1).gather(-1, targets_T[:, None])[:, 0]
    greedy = bool((logits_TV.argmax(-1) == targets_T).all())
    return Answer(found_T.sum(dtype=torch.float64).item(), greedy)
