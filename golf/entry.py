"""What a bundled `train_gpt.py` runs: the corridor with a few flags, a plain log and no packages to show progress."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from golf import host as hosts
from golf.contracts import GolfError
from golf.events import JsonLines, fan, lines, quiet
from golf.recipe import Recipe, assign
from golf.run import EVENTS, Job, run


def main(recipe: Recipe, argv: Sequence[str], source: Path) -> None:
    """Run the recipe once per seed; `source` is the file whose bytes the ledger counts."""
    parser = argparse.ArgumentParser(prog=source.name)
    parser.add_argument("--seed", type=int, action="append", help="may be repeated; default 1337")
    parser.add_argument("--out", type=Path, default=Path("run"), help="files land in OUT/<seed>/")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override a recipe field")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in OUT/<seed>/")
    flags = parser.parse_args(argv)
    try:
        recipe = assign(recipe, flags.set)
        with hosts.join() as host:
            for seed in flags.seed or [1337]:
                run_seed(recipe, seed, flags.out / str(seed), source.read_bytes(), host, flags.resume)
    except (GolfError, OSError) as error:
        sys.exit(f"{source.name}: {error}")


def run_seed(recipe: Recipe, seed: int, out: Path, code: bytes, host: hosts.Host, resume: bool) -> None:
    if not host.is_main:
        run(recipe, Job(seed=seed, out=out, code=code, host=host, sink=quiet, resume=resume))
        return
    log = JsonLines(out / EVENTS, append=resume)
    try:
        run(recipe, Job(seed=seed, out=out, code=code, host=host, sink=fan(log, lines()), resume=resume))
    finally:
        log.close()
