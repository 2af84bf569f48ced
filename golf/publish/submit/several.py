"""One or several seeds of a record: in turn in this process, or side by side in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from golf import host as hosts
from golf import recipe as recipes
from golf import run as corridor
from golf import track as tracks
from golf.contracts import GolfError, RunResult, emit, quiet
from golf.events import JsonLines, fan
from golf.host import Host
from golf.publish import baselines, terminal
from golf.publish.bundle.script import script
from golf.publish.submit import clock, seeds
from golf.publish.trackers import Tracking
from golf.publish.use import convert
from golf.recipe import Recipe

LOG = "console.log"


@dataclass(frozen=True)
class Plan:
    """What `golf run` was asked for: OUT/<seed>/ gets the files of each seed. trackers: besides the log.
    clock: file whose seconds decide instead of this machine's, as the run that noted them had them."""

    record: Path
    seeds: Sequence[int]
    out: Path
    assignments: Sequence[str] = ()
    resume: bool = False
    trackers: Sequence[str] = ()
    clock: Path | None = None

    @property
    def recipe(self) -> Recipe:
        """What is run. Raises SpecError, before anything is written or bundled, for one that cannot be."""
        recipe = recipes.assign(recipes.load(self.record), self.assignments)
        tracks.find(recipe.track)
        return recipe


def in_turn(plan: Plan, silent: bool = False) -> dict[int, str]:
    """Run the seeds one after another; returns why by seed for those that failed. A single seed's error is raised,
    and so is any under torchrun, where the other ranks may wait for the one that failed.

    silent: without a table for each.
    """
    recipe, failed = plan.recipe, dict[int, str]()
    with hosts.join() as host:
        code = host.share(script(plan.record, plan.assignments) if host.is_main else None)
        for seed in plan.seeds:
            try:
                _one(recipe, plan, seed, code, host, silent)
            except (GolfError, OSError) as error:
                if host.world > 1 or len(plan.seeds) == 1:
                    raise
                failed[seed] = str(error)
                print(f"golf: seed {seed} failed: {error}", file=sys.stderr, flush=True)
    return failed


def _one(recipe: Recipe, plan: Plan, seed: int, code: bytes, host: Host, silent: bool) -> None:
    folder = plan.out / str(seed)
    host = clock.replaying(host, plan.clock) if plan.clock else clock.noting(host)
    job = corridor.Job(seed=seed, out=folder, code=code, host=host, sink=quiet, resume=plan.resume)
    if not host.is_main:
        corridor.run(recipe, job)
        return
    with terminal.ProgressBar() as bar:
        log = JsonLines(folder / corridor.EVENTS, append=plan.resume)
        tracking = [Tracking(name, folder) for name in plan.trackers]
        try:
            result = corridor.run(recipe, replace(job, sink=fan(log, bar, *tracking)))
            if recipe.train.seconds is not None and not plan.resume:  # what earlier sessions agreed on is gone
                emit(log, "clock", seconds=clock.spell(host.agreed), replayed=plan.clock is not None)
        finally:
            for each in (log, *tracking):
                each.close()
        compressors = _baselines(recipe, bar)
    if not silent:
        Console().print(terminal.run_table(result, compressors))
        print(f"files in {folder}")


def _baselines(recipe: Recipe, sink: Any) -> Sequence[Any]:
    """What general compressors reach on the recipe's validation text, or nothing where it is too large to ask."""
    corpus = recipe.data.open(hosts.cache_folder(), sink)
    convert.remember(corpus)
    if sum(path.stat().st_size for path in corpus.val) > baselines.PRIOR_BYTES:
        return ()
    return baselines.cached(hosts.cache_folder(), corpus.sha256, lambda: convert.corpus_texts(corpus))


def side_by_side(plan: Plan, jobs: int) -> dict[int, str]:
    """Run the seeds in processes of their own, `jobs` at a time, so that one that fails or is killed takes nobody
    along; returns why by seed for those that failed. What a seed would have shown goes to OUT/<seed>/console.log."""
    failed, children = dict[int, str](), set[subprocess.Popen]()

    def one(place: int, seed: int) -> str | None:
        child = start(plan, seed, hosts.neighbor_environment(place, jobs))
        children.add(child)
        status = child.wait()
        children.discard(child)
        return reason(plan, seed, status)

    with ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(one, place, seed): seed for place, seed in enumerate(plan.seeds)}
        try:
            for done in as_completed(waiting):
                seed, why = waiting[done], done.result()
                if why is not None:
                    failed[seed] = why
                words = f"seed {seed} failed: {why}" if why else f"seed {seed} done, files in {plan.out / str(seed)}"
                print(f"golf: {words}", file=sys.stderr, flush=True)
        except BaseException:  # Ctrl-C above all: nobody goes on training for a parent that is gone
            pool.shutdown(wait=False, cancel_futures=True)
            for child in tuple(children):
                child.terminate()
            raise
    return failed


def start(plan: Plan, seed: int, environment: dict[str, str], ranks: int = 1) -> subprocess.Popen:
    """One seed in a process of its own, or under torchrun in `ranks` of them."""
    flags = [word for text in plan.assignments for word in ("--set", text)] + ["--resume"] * plan.resume
    flags += [word for name in plan.trackers for word in ("--tracker", name)]
    flags += ["--clock", str(plan.clock)] if plan.clock else []
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    words = ["-m", "golf", "run", str(plan.record), "--seed", str(seed), "--out", str(plan.out), *flags]
    log = plan.out / str(seed) / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as file:
        return subprocess.Popen(
            [sys.executable, *several, *words], stdout=file, stderr=subprocess.STDOUT, env=environment
        )


def reason(plan: Plan, seed: int, status: int) -> str | None:
    """Why a process failed: its last line, or the signal that ended it; None when it did not."""
    if status <= 0:
        return f"killed by signal {-status}" if status else None
    rows = (plan.out / str(seed) / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    told = [row for row in rows if "golf: " in row]  # torchrun adds a summary of its own behind it
    last = told[-1].partition("golf: ")[2] if told else rows[-1] if rows else ""
    return last or f"exit status {status}"


def summarize(plan: Plan, name: str, failed: dict[int, str]) -> tuple[list[RunResult], Table | None]:
    """Write OUT/results.json; the results of this plan's seeds, and a table where there were several."""
    if hosts.rank() > 0:
        return [], None
    summary = seeds.write(plan.out, name, plan.recipe, failed)
    results = [result for result in summary.results if result.seed in plan.seeds] if summary else []
    return results, terminal.seeds_table(name, results, failed) if len(plan.seeds) > 1 else None
