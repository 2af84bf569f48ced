"""Sinks: where the events of a run go. Everyone emits, only sinks write."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from golf.contracts import Event, Sink


def fan(*sinks: Sink) -> Sink:
    """One sink that hands every event to all."""

    def sink(event: Event) -> None:
        for each in sinks:
            each(event)

    return sink


class JsonLines:
    """One JSON object a line, flushed as it is written, so that a killed run loses no event but the last.

    With `append`, a half-written last line of a killed run is cut off first.
    """

    def __init__(self, path: Path, *, append: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if append and path.exists():
            whole = path.read_bytes()
            keep = whole.rfind(b"\n") + 1
            if keep < len(whole):
                with open(path, "rb+") as file:
                    file.truncate(keep)
        self._file = open(path, "a" if append else "w", encoding="utf-8")
        self._begin = time.monotonic()

    def __call__(self, event: Event) -> None:
        line = {"event": event.kind, "at": round(time.monotonic() - self._begin, 3), **event.values}
        self._file.write(json.dumps(line, default=str) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


# What a line of the plain log says, by event kind. The names are those that log readers of the challenge grep for.
_LINES = {
    "corpus": "corpus:{name} sha256:{sha256} tokenizer_sha256:{tokenizer_sha256}",
    "model": "model_params:{parameters} recipe:{recipe_digest} seed:{seed} track:{track} source_sha256:{code_sha256}",
    "versions": "versions:{versions} hardware:{hardware}",
    "step": "step:{step} train_loss:{loss:.4f} lr_scale:{lr:.4f} train_time:{seconds:.1f}s",
    "train_end": "stopping: {stopped} step:{step} train_time:{seconds:.1f}s",
    "reserve": "gptq:reserving {seconds:.1f}s of the training budget",
    "fit": "fit: scale_multiplier:{multiplier:.4f} bytes:{bytes}",
    "ledger": "Total submission size: {total} bytes (code {code} + model {blob} + tokenizer {tokenizer}; cap {cap})",
    "final": "final_{what}_exact val_loss:{loss:.8f} val_bpb:{bpb:.8f} eval_time:{seconds:.1f}s tokens:{tokens} "
    "bytes:{bytes}",
}


def lines(write: Any = print) -> Sink:
    """A sink that prints the events worth a line in a log."""

    def sink(event: Event) -> None:
        if event.kind in _LINES:
            write(_LINES[event.kind].format(**event.values))

    return sink
