"""A worker of a sweep: takes slots one after another, gives signs of life, and takes over those of the dead."""

from __future__ import annotations

import json
import os
import socket
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from golf import host as hosts
from golf.contracts import RunResult
from golf.host import write_atomic
from golf.publish.files import read_result
from golf.publish.submit import several
from golf.publish.sweep import study as sweep
from golf.publish.sweep.study import SEED, SLOT, WHY, Outcome, Plan

if TYPE_CHECKING:
    import optuna

WORKER, BEAT, RESULTS, TRIALS = "worker", "beat:", "sweep.json", "trials"
BEATS = 6  # signs of life in the time after which a worker counts as dead
NOBODY = ":0:"  # a worker that died between taking a slot and signing for it
LOOK = 0.5  # seconds between looks at the storage while others work


class Life:
    """This worker's signs of life, and its judgment of the others'.

    Clocks of machines are never compared: a worker counts as dead when its sign has not changed for `patience`
    seconds of this machine's clock, or at once when it was a process of this machine that is gone.
    """

    def __init__(self, study: optuna.Study, patience: float) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._study, self._patience, self._stop = study, patience, threading.Event()
        self._seen: dict[str, tuple[int, float]] = {}
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        count = 0
        while not self._stop.is_set():
            self._study.set_user_attr(BEAT + self.name, count)
            count += 1
            self._stop.wait(self._patience / BEATS)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def is_dead(self, worker: str) -> bool:
        if worker == self.name:
            return False
        machine, process, _ = worker.rsplit(":", 2)
        if machine == socket.gethostname() and not _runs(int(process)):
            return True
        now, sign = time.monotonic(), self._study.user_attrs.get(BEAT + worker, -1)
        last, since = self._seen.get(worker, (None, now))
        if sign != last:
            since = now
        self._seen[worker] = (sign, since)
        return now - since > self._patience


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, but alive
        return True
    return True


def work(
    record: Path, plan: Plan, storage: str, out: Path, *, patience: float, ranks: int, say: Callable[[str], None]
) -> list[Outcome]:
    """Run slots until every one has an outcome; all outcomes, which also go to OUT/sweep.json.

    patience: seconds without a sign of life after which a worker on another machine counts as dead.
    ranks: processes of each run; several run under torchrun.
    """
    study = sweep.open_study(storage, plan)
    life = Life(study, patience)
    try:
        while (trial := take(study, plan, life, say)) is not None:
            _run(study, trial, record, plan, out / TRIALS / str(trial.number), ranks, say)
    finally:
        life.close()
    found = sweep.outcomes(study, plan)
    values = {"plan": json.loads(plan.text()), "outcomes": [asdict(each) for each in found]}
    values["pareto"] = [each.slot for each in sweep.pareto(found)]
    write_atomic(out / RESULTS, (json.dumps(values, indent=1) + "\n").encode())
    return found


def take(study: optuna.Study, plan: Plan, life: Life, say: Callable[[str], None]) -> optuna.Trial | None:
    """The next slot to run, waiting for what others run; None when every slot has its outcome."""
    optuna = sweep.library()
    while any(each.state == "open" for each in sweep.outcomes(study, plan)):
        if study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,)):
            trial = study.ask()
            if SLOT in trial.user_attrs:
                trial.set_user_attr(WORKER, life.name)
                return trial
            # Somebody else took the last one, and this is a new one that nobody has planned.
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        elif not _rescue(study, plan, life, say):
            time.sleep(LOOK)
    return None


def _rescue(study: optuna.Study, plan: Plan, life: Life, say: Callable[[str], None]) -> bool:
    """Queue again what dead workers ran, and what was lost between two steps of one; whether there was any."""
    optuna = sweep.library()
    State = optuna.trial.TrialState
    running = study.get_trials(deepcopy=False, states=(State.RUNNING,))
    dead = [t for t in running if SLOT in t.user_attrs and life.is_dead(t.user_attrs.get(WORKER, NOBODY))]
    for trial in dead:
        try:
            study.tell(trial.number, state=State.FAIL)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):  # another has been faster
            continue
        say(f"slot {trial.user_attrs[SLOT]}: its worker is gone, it runs again")
    if dead or not running:
        held = {t.user_attrs.get(SLOT) for t in study.get_trials(deepcopy=False) if not t.state.is_finished()}
        for each in sweep.outcomes(study, plan):
            if each.state == "open" and each.slot not in held:
                study.enqueue_trial(dict(plan.points()[each.slot]), user_attrs={SLOT: each.slot})
        return True
    return False


def _run(
    study: optuna.Study,
    trial: optuna.Trial,
    record: Path,
    plan: Plan,
    folder: Path,
    ranks: int,
    say: Callable[[str], None],
) -> None:
    """Run a slot's seeds and tell the study what came of it. A seed that fails is the slot's outcome: it would fail
    again. A worker that was taken for dead finds its slot given away, and its result is dropped."""
    optuna = sweep.library()
    State = optuna.trial.TrialState
    results, why, state = list[RunResult](), None, State.COMPLETE
    try:
        assignments = plan.assignments(sweep.suggest(plan, trial))
        say(f"slot {trial.user_attrs[SLOT]}: {' '.join(assignments)}")
        seeds = several.Plan(record, range(SEED, SEED + plan.seeds), folder, assignments)
        for place, seed in enumerate(seeds.seeds):
            child = several.start(seeds, seed, hosts.neighbor_environment(0, 1), ranks)
            why = several.reason(seeds, seed, child.wait())
            if why is not None:
                state = State.FAIL
                break
            results.append(read_result(folder / str(seed)))
            trial.report(statistics.fmean(result.val_bpb_unquantized for result in results), place)
            if seed != seeds.seeds[-1] and trial.should_prune():
                state = State.PRUNED
                break
        told = {"folder": str(folder), **_facts(results), **({WHY: why} if why else {})}
        for name, value in told.items():
            trial.set_user_attr(name, value)
        score = statistics.fmean(result.val_bpb for result in results) if state == State.COMPLETE else None
        study.tell(trial, score, state=state)
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError) as error:
        if study.get_trials(deepcopy=False)[trial.number].state != State.FAIL:
            raise
        say(f"slot {trial.user_attrs[SLOT]}: given to another worker meanwhile ({error}); this result is dropped")
        return
    say(f"slot {trial.user_attrs[SLOT]}: {why or (f'{score:.5f}' if score is not None else 'pruned')}")


def _facts(results: Sequence[RunResult]) -> dict[str, float]:
    if not results:
        return {}
    return {
        "val_bpb_unquantized": statistics.fmean(result.val_bpb_unquantized for result in results),
        "bytes_total": max(result.bytes_total for result in results),
    }
