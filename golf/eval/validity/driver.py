"""The one who holds the targets: asks for a distribution, puts it on record, and only then shows the target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from golf.contracts import ByteTable, DataError, DivergedError, Event, PredictorError, Score, Sink, emit
from golf.eval.validity.interface import Stretches

# Rows of a stretch: 1,024 of 8,192 float32 each are 32 MB.
STRETCH = 1024
# Logits that a predictor on golf's side of the fence is asked for at once: 32 MB of float32, and twice that in float64.
STRETCH_LOGITS = 1 << 23
# How far probabilities may add up beside 1: float32 rows of 65,536 entries stay within a hundredth of this.
MASS_TOLERANCE = 1e-4


class Scored(NamedTuple):
    """What is on record about targets t_(first) .. t_(first + T - 1).

    nats_T: float64, minus the log probability of each.  mass_T: float64, what its whole distribution adds up to.
    """

    first: int
    nats_T: np.ndarray
    mass_T: np.ndarray


def _quiet(event: Event) -> None:
    pass


def drive(
    predictor: Any, artifact: Any, tokens: Sequence[int], *, stretch: int | None = STRETCH, vocab: int | None = None
) -> Iterator[Scored]:
    """Score t_1 .. t_N of a stream in order, each once, and yield what was recorded, piece by piece.

    tokens: t_0 .. t_N; anything one-dimensional with a length and slices that become arrays.
    stretch: at most so many targets are asked for at once where the predictor has `logprobs`; None: always one
        distribution before one target, even then.
    vocab: the length every row must have; None: that of the first row.

    Raises DataError for fewer than two tokens, PredictorError for rows of another shape or that are no numbers.
    """
    positions = len(tokens) - 1
    if positions < 1:
        raise DataError(f"scoring needs at least 2 tokens, the stream has {len(tokens)}; give more text")
    stepping = stretch is None or not isinstance(predictor, Stretches)
    state = predictor.observe(predictor.open(artifact), int(tokens[0]))
    done = 0
    while done < positions:
        if stepping:
            row = record(predictor.distribution(state), 1, vocab, done + 1)
            targets_T = np.asarray(tokens[done + 1 : done + 2], np.int64)
            scored = weigh(row, targets_T, done + 1)
            state = predictor.observe(state, int(targets_T[0]))
        else:
            count = min(stretch, positions - done, horizon(predictor, state, done + 1))
            targets_T = np.asarray(tokens[done + 1 : done + 1 + count], np.int64)
            # A copy: what the predictor does to the array it was given must not reach the targets.
            row = record(predictor.logprobs(state, targets_T.copy()), count, vocab, done + 1)
            scored = weigh(row, targets_T, done + 1)
            state = advance(predictor, state, targets_T)
        vocab = row.shape[1]
        done += len(targets_T)
        yield scored


def score(
    predictor: Any,
    artifact: Any,
    tokens: Sequence[int],
    table: ByteTable,
    *,
    stretch: int | None = STRETCH,
    sink: Sink = _quiet,
    report: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> Score:
    """Nats, count and bytes of t_1 .. t_N. Emits `score` events with `done` and `total` in targets; `report` gets
    positions of targets and their nats as they go on record.

    Raises PredictorError as `drive` does and for a distribution that does not add up to 1 within MASS_TOLERANCE,
    DivergedError for a sum that is not finite.
    """
    total, nats, spelled = len(tokens) - 1, 0.0, 0
    emit(sink, "score", done=0, total=total)
    for first, nats_T, mass_T in drive(predictor, artifact, tokens, stretch=stretch, vocab=table.vocab):
        worst = int(np.abs(mass_T - 1).argmax())
        if not abs(mass_T[worst] - 1) <= MASS_TOLERANCE:
            raise PredictorError(
                f"the probabilities at target {first + worst} add up to {mass_T[worst]:.6f}, not 1; "
                "a score needs a whole distribution, take the log-softmax last"
            )
        nats += math.fsum(nats_T)
        end = first + len(nats_T)
        spelled += int(table.count(np.asarray(tokens[first - 1 : end - 1]), np.asarray(tokens[first:end])).sum())
        emit(sink, "score", done=end - 1, total=total)
        if report is not None:
            report(np.arange(first, end), nats_T)
    if not math.isfinite(nats):
        raise DivergedError(f"the predictor's loss over {total} tokens is {nats}; a target had probability 0")
    return Score(nats, total, spelled)


def advance(predictor: Any, state: Any, targets_T: np.ndarray) -> Any:
    """The state after the predictor was shown these targets."""
    if hasattr(predictor, "advance"):
        return predictor.advance(state, targets_T.copy())
    for token in targets_T.tolist():
        state = predictor.observe(state, token)
    return state


def record(rows: Any, count: int, vocab: int | None, first: int) -> Tensor:
    """What a predictor answered, as a tensor [count, V]. Raises PredictorError."""
    rows_TV = torch.as_tensor(rows).detach()
    rows_TV = rows_TV.reshape(1, -1) if count == 1 and rows_TV.dim() == 1 else rows_TV
    if rows_TV.dim() != 2 or len(rows_TV) != count or (vocab is not None and rows_TV.shape[1] != vocab):
        raise PredictorError(
            f"asked for {count} distributions over {vocab or 'the vocabulary'} at target {first}, the predictor gave "
            f"shape {tuple(rows_TV.shape)}; every row names every token"
        )
    if rows_TV.isnan().any():
        at = first + int(rows_TV.isnan().any(1).nonzero()[0])
        raise PredictorError(f"the distribution at target {at} holds NaN; a log probability is a number or -inf")
    return rows_TV


def weigh(rows_TV: Tensor, targets_T: np.ndarray, first: int) -> Scored:
    """Nats of the targets and the mass of each row, in float64. Raises PredictorError for a target no row names."""
    if targets_T.min() < 0 or targets_T.max() >= rows_TV.shape[1]:
        raise PredictorError(
            f"target {first + int(targets_T.argmax())} is token {targets_T.max()}, the predictor knows "
            f"{rows_TV.shape[1]}; score with the tokenizer that made the stream"
        )
    rows_TV = rows_TV.double()
    nats_T = -rows_TV.gather(1, torch.from_numpy(targets_T).to(rows_TV.device)[:, None])[:, 0]
    return Scored(first, nats_T.cpu().numpy(), rows_TV.exp().sum(1).cpu().numpy())


def horizon(predictor: Any, state: Any, first: int) -> int:
    """For how many targets the predictor answers at once, from target `first` on."""
    count = predictor.horizon(state) if hasattr(predictor, "horizon") else None
    if count is not None and count < 1:
        raise PredictorError(f"horizon is {count} at target {first}; at least the next target can always be predicted")
    return count if count is not None else 1 << 62
