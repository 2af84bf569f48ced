"""Entry point of a run's own `train_gpt.py` for its sandbox: its code reads the artifact and scores, nobody else's."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCRIPT, TOKENIZER = "train_gpt.py", "tokenizer.model"


def script() -> None:
    """Load the bundle, which puts the modules inside it before any that are installed."""
    if "bundle" not in sys.modules:
        loaded = importlib.util.spec_from_file_location("bundle", Path(__file__).with_name(SCRIPT))
        sys.modules["bundle"] = module = importlib.util.module_from_spec(loaded)
        loaded.loader.exec_module(module)


def open(artifact: str) -> Any:
    script()
    from golf.run import read_model

    return read_model(Path(artifact).read_bytes())


def evaluate(artifact: str, tokens: Any) -> Iterator[tuple[int, float]]:
    """Positions and nats of every target, in stream order: a batch of windows may score a later document first, and
    what a fixed model says of one does not depend on the other."""
    script()
    from golf_record import RECIPE

    from golf.data.tokenizer import byte_table
    from golf.pack import container

    data, found = Path(artifact).read_bytes(), {}
    about = container.load(data)[0]["eval"]
    spec = type(RECIPE.eval)(**{name: value for name, value in about.items() if name != "kind"})

    def report(positions: Any, nats: Any) -> None:
        for position, each in zip(positions.tolist(), nats.tolist()):
            assert position not in found, f"target {position} is scored twice"
            found[position] = each

    spec.score(open(artifact), tokens, byte_table(Path(TOKENIZER)), report=report)
    yield from sorted(found.items())
