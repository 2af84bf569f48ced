"""`golf score --task`: a model on disk through lm-eval's tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from golf import host as hosts
from golf.contracts import Sink, SpecError
from golf.publish.use.source import open_source


def score_tasks(
    path: Path, tokenizer: Path | None, tasks: Sequence[str], limit: int | None, sink: Sink
) -> dict[str, dict[str, Any]]:
    """See `harness.evaluate`. Raises SpecError where lm-eval is not installed."""
    try:
        from golf.publish.use import harness
    except ImportError as error:
        raise SpecError(f"--task needs lm-eval ({error}); install it with `pip install 'golf[lm-eval]'`") from error
    source = open_source(path, tokenizer)
    with hosts.join() as host:
        window = source.about["eval"]["window"]
        model = source.build().to(host.device)
        lm = harness.GolfLM(model, source.tokenizer, window=window, host=host, sink=sink)
        return harness.evaluate(lm, tasks, limit)
