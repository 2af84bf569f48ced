"""What a bundled `train_gpt.py` runs: the corridor with a few flags, a plain log and no packages to show progress.

`--seed N` may be repeated (default 1337), files land in OUT/<seed>/ of `--out OUT` (default run), and `--resume`
continues from the checkpoints there. The flags say so here because their help would be bytes of every submission.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from golf import host as hosts
from golf.contracts import quiet
from golf.events import JsonLines, fan, lines
from golf.recipe import Recipe
from golf.run import EVENTS, Job, run


def main(recipe: Recipe, argv: Sequence[str], source: Path) -> None:
    """Run the recipe once per seed; `source` is the file whose bytes the ledger counts.

    Errors end with their traceback, because in a bundle their messages are lines of golf instead of sentences.
    """
    parser = argparse.ArgumentParser(prog=source.name)
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--out", type=Path, default=Path("run"))
    parser.add_argument("--resume", action="store_true")
    flags = parser.parse_args(argv)
    with hosts.join() as host:
        for seed in flags.seed or [1337]:
            run_seed(recipe, seed, flags.out / str(seed), source.read_bytes(), host, flags.resume)


def run_seed(recipe: Recipe, seed: int, out: Path, code: bytes, host: hosts.Host, resume: bool) -> None:
    if not host.is_main:
        run(recipe, Job(seed=seed, out=out, code=code, host=host, sink=quiet, resume=resume))
        return
    log = JsonLines(out / EVENTS, append=resume)
    try:
        run(recipe, Job(seed=seed, out=out, code=code, host=host, sink=fan(log, lines()), resume=resume))
    finally:
        log.close()
