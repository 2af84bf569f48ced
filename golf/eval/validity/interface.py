"""What a submission has to offer to be scored and verified: three functions, and two forms that are faster.

    open(artifact) -> state            a fresh start: what two calls return shares nothing that changes
    distribution(state) -> [V]         natural-log probabilities of the next target, all of the vocabulary
    observe(state, token) -> state     the target was `token`; the state handed in is not used again

Tokens t_0 .. t_N are a stream. t_0 is observed and never scored; t_1 .. t_N are the targets. Whoever scores this way
cannot see a target before its distribution is on record, nor score it twice, nor change a number afterwards: the
driver (`golf.eval.validity.driver`) holds the targets and the sum.

One call per token is slow. A predictor may also answer for a stretch of targets at once:

    logprobs(state, targets_T) -> [T, V]   row i is what `distribution` gives after `observe` of targets_T[:i]
    advance(state, targets_T) -> state     `observe` of all of them (optional: without it they are observed in turn)
    horizon(state) -> int | None           for how many of the next targets that holds, at least 1: those after them
                                           will be predicted by something learned from them (None: for all)

Here the targets are in the predictor's hands before it answers. So the stretch form is believed only as far as it is
seen to equal the step form, and to ignore what comes later: see `causality`.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np


class Predictor(Protocol):
    """The step form. `artifact` is a file's path for a submission, and what golf's own evaluators are given
    otherwise (a model); rows are torch tensors, arrays or lists of floats."""

    def open(self, artifact: Any) -> Any: ...

    def distribution(self, state: Any) -> Any: ...

    def observe(self, state: Any, token: int) -> Any: ...


@runtime_checkable
class Stretches(Protocol):
    """The form for many targets at once, beside the step form. `advance` and `horizon` are optional."""

    def open(self, artifact: Any) -> Any: ...

    def logprobs(self, state: Any, targets_T: np.ndarray) -> Any: ...
