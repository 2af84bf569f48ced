"""Run a training script and tell, line by line to a file descriptor, which files it opens in which phase.

    python audit.py DESCRIPTOR MODE,MODE,... SCRIPT ARGUMENTS ...

A phase ends where the script prints a line that begins so: training begins at the first step (or at what is printed
right before it) and is over when the weights are being fitted, scored or written. With each step go a hash of all
weights and how often gradients were taken since training began.

The modes run side by side. "whole" runs the script as it is. "warm" and "bare" run a script made by golf on its own
recipe, for a few steps of few tokens: with the warm-up it has, and with none, or as little as its stages allow. "warm"
ends with the last of them.
"""

from __future__ import annotations

import builtins
import copy
import gc
import hashlib
import importlib.util
import json
import os
import runpy
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import torch
from script import is_recipe, the_one

STEPS = 2
# Sequences are halved together until the next time would leave some shorter than this.
SHORT = 128
BEGINS, ENDS = ("gptq:reserving", "step:"), ("fit:", "final_", "Total submission size")


def main() -> None:
    report, modes, script = int(sys.argv[1]), sys.argv[2].split(","), Path(sys.argv[3])
    sys.argv = sys.argv[3:]
    about = {"mode": ""}
    tell = watch(report, about)
    recipe, run = parts(script) if {"warm", "bare"} & {*modes} else (None, None)
    for mode in modes:
        # Unpacking a script takes as long as all that follows: done once, and each goes on from there.
        if os.fork():
            continue
        about["mode"] = mode
        if mode == "whole":
            runpy.run_path(str(script), run_name="__main__")
        else:
            small, steps = brief(recipe, mode == "bare")
            tell(event="warmup", path=str(steps), phase="")
            run(small, sys.argv[1:], script)
        return
    for _ in modes:
        os.wait()


def watch(report: int, about: dict[str, str]) -> Callable[..., None]:
    """See what is opened and printed from now on; returns the function that writes an event, with what `about` says."""
    phase, gradients, steps = "before", counted(torch.autograd), 0

    def tell(**values: Any) -> None:
        os.write(report, (json.dumps(values | about) + "\n").encode())

    def opened(name: str | bytes, write: bool) -> None:
        if phase == "training":
            tell(event="open", path=os.path.abspath(os.fsdecode(name)), write=write, phase=phase)

    def hook(name: str, arguments: tuple) -> None:
        if name == "open" and isinstance(arguments[0], (str, bytes)):
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            opened(arguments[0], bool(flags & (os.O_WRONLY | os.O_RDWR)))

    plain = builtins.print

    def spy(*values: Any, **options: Any) -> None:
        nonlocal phase, steps
        text = str(values[0]) if values else ""
        if phase == "before" and text.startswith(BEGINS):
            phase = "training"
            gradients.clear()
        elif phase == "training" and text.startswith(ENDS):
            phase = "after"
            tell(event="over", path=text, phase="")
        if text.startswith("step:"):
            for path in held():
                opened(path, False)
            tell(event="step", path=text, phase="", weights=weights(), gradients=len(gradients))
            steps += 1
            if about["mode"] == "warm" and steps == STEPS:
                os._exit(0)  # it was to be compared; how weights are fitted, the other one shows
        plain(*values, **options)

    builtins.print = spy
    sys.addaudithook(hook)
    return tell


def parts(script: Path) -> tuple[Any, Callable[..., Any]]:
    """The recipe of a script of golf's, and the function that runs it. Raises LookupError for any other script."""
    # Under another name than __main__ it makes all that it is made of, and trains nothing.
    found = importlib.util.spec_from_file_location("submission", script)
    module = sys.modules["submission"] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    recipes = [each for each in vars(module).values() if is_recipe(each)]
    if len(recipes) != 1:
        raise LookupError(f"{script.name} holds {len(recipes)} recipes: a script this golf cannot read")
    return recipes[0], the_one(vars(module), "--resume", 3)


def brief(recipe: Any, bare: bool) -> tuple[Any, int]:
    """The recipe for a few steps of as few tokens as it can take, and its steps of warm-up.

    What switches on later has to be visited in warm-up, so with stages there is less of it against more.
    """
    train, stages = recipe.train, getattr(recipe.train, "stages", ())
    lengths = [train.seq_len, *(stage.seq_len for stage in stages if getattr(stage, "seq_len", None))]
    longest, share = max(lengths), 1
    while all(length % (2 * share) == 0 and length >= 2 * share * SHORT for length in lengths):
        share *= 2
    shorter = tuple(
        replaced(stage, ["seq_len"], stage.seq_len // share) if getattr(stage, "seq_len", None) else stage
        for stage in stages
    )
    least = 1 if stages else 0
    warm = least if bare else max(getattr(train, "warmup_steps", 0), least + 1)
    fields = {
        "train.steps": STEPS, "train.warmup_steps": warm, "train.rows": longest // train.seq_len,
        "train.batch_tokens": longest // share, "train.seq_len": train.seq_len // share, "train.stages": shorter,
        "train.compile": "off", "train.log_every": 1, "train.checkpoint_seconds": 1e9,
        "quant.calibration.sequences": 1, "quant.calibration.rows": 1,
    }  # fmt: skip
    for path, value in fields.items():
        recipe = replaced(recipe, path.split("."), value)
    return recipe, warm


def replaced(value: Any, path: list[str], new: Any) -> Any:
    """A copy with a field set, whatever the class would say to it; as it is where there is no such field."""
    name, *rest = path
    if not hasattr(value, name):
        return value
    twin = copy.copy(value)
    object.__setattr__(twin, name, replaced(getattr(value, name), rest, new) if rest else new)
    return twin


def counted(module: Any) -> list[None]:
    """A list that grows by one with each call of the functions that take gradients."""
    calls: list[None] = []

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **options: Any) -> Any:
            calls.append(None)
            return function(*values, **options)

        return call

    module.backward, module.grad = counting(module.backward), counting(module.grad)
    return calls


def held() -> Iterable[str]:
    """Files that are mapped into memory or open now, though they may have been opened before training began."""
    found = {line.split(maxsplit=5)[-1].strip() for line in Path("/proc/self/maps").read_text().splitlines()}
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue  # the one that listed them
    return sorted(path for path in found if path.startswith("/"))


def weights() -> str:
    """SHA-256 of every parameter of every module there is, in an order of its own."""
    gc.collect()
    found = {id(each): each for module in gc.get_objects() if issubclass(type(module), torch.nn.Module)
             for each in module.parameters(recurse=False)}  # fmt: skip
    digests = [hashlib.sha256(each.detach().cpu().float().numpy().tobytes()).digest() for each in found.values()]
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


if __name__ == "__main__":
    main()
