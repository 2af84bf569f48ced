"""The training loop: warm up, start the clock, step until the budget is spent, hand on the average."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from golf.contracts import BudgetError, Sink, SpecError, Trained, emit
from golf.host import Host, keep_memory
from golf.train import checkpoint as files
from golf.train import compiler, schedule
from golf.train.clock import Clock
from golf.train.job import Job, Stream, Switches
from golf.train.spec import TrainSpec
from golf.train.watch import Watch


def fit(
    model: nn.Module,
    stream: Stream,
    spec: TrainSpec,
    *,
    host: Host,
    sink: Sink,
    seed: int,
    switches: Switches,
    reserve_seconds: float = 0.0,
    checkpoint: Path | None = None,
    resume: bool = False,
    digest: str = "",
) -> Trained:
    """Train `model` (a `contracts.Model`) in place on `host.device` and return the averaged weights.

    switches: functions behind the names that stages use; names not here go to `model.switch`. They are off
        afterwards, whereas the family's own switches stay as training left them.
    reserve_seconds: kept free of the budget for whatever reads training data after the loop.
    checkpoint: file to write now and then, and to continue from with `resume` when it is there. `digest` ties
        it to a recipe. On a CPU with `steps` a resumed run ends in the bits of one that was never stopped.

    Raises SpecError, BudgetError when not one step fits, CheckpointError, DivergedError.
    """
    limit = None if spec.seconds is None else spec.seconds - reserve_seconds
    if limit is not None and limit <= 0:
        raise BudgetError(
            f"reserving {reserve_seconds:.1f} s leaves nothing of the {spec.seconds:.1f} s for training; "
            "raise TrainSpec.seconds or calibrate on less"
        )
    if host.device.type == "cpu":
        keep_memory()
    torch.manual_seed(seed + host.rank)
    loop = Loop(Job(model, stream, spec, host, switches), spec, Clock(limit, host.largest), sink)
    identity = {"digest": digest, "seed": seed, "world": host.world}
    if checkpoint is not None and host.is_main:
        files.sweep(checkpoint)
    if resume and checkpoint is not None and host.largest(float(checkpoint.exists())):
        loop.restore(*files.load(checkpoint, **identity))
        emit(sink, "resume", step=loop.job.step, seconds=loop.clock.elapsed, path=str(checkpoint))
    if not loop.stopped:
        loop.warm_up()
        loop.train(checkpoint, identity)
    loop.job.release()
    if loop.job.loss is not model.loss:
        torch.compiler.reset()  # the graphs belong to this model; a next run in this process starts from none
    emit(
        sink,
        "train_end",
        stopped=loop.stopped,
        step=loop.job.step,
        seconds=loop.clock.elapsed,
        loss=loop.watch.loss,
        supervised=loop.watch.supervised,
    )
    return Trained(
        average=loop.job.averaged(),
        steps=loop.job.step,
        tokens=loop.job.step * spec.batch_tokens,
        supervised=loop.watch.supervised,
        seconds=loop.clock.elapsed,
        loss=loop.watch.loss,
        stopped=loop.stopped,
    )


class Loop:
    """A job on the clock."""

    def __init__(self, job: Job, spec: TrainSpec, clock: Clock, sink: Sink) -> None:
        self.job, self.spec, self.clock, self._sink = job, spec, clock, sink
        self.watch = Watch(spec, job.optimizer.banks)
        self.stopped = ""
        self._progress, self._lr_scale = 0.0, 0.0
        self._logged = (0.0, 0)

    # ------------------------------------------------------------------------------------------- state

    def capture(self) -> tuple[dict, dict[str, Any]]:
        tensors, meta = self.job.capture()
        own = {"elapsed": self.clock.elapsed, "progress": self._progress, "stopped": self.stopped}
        return tensors, meta | own | {"watch": self.watch.state()}

    def restore(self, tensors: dict, meta: dict[str, Any]) -> None:
        self.job.restore(tensors, meta)
        self.watch.restore(meta["watch"])
        self.clock.elapsed, self._progress, self.stopped = meta["elapsed"], meta["progress"], meta["stopped"]

    # ----------------------------------------------------------------------------------------- warm-up

    def warm_up(self) -> None:
        """Visit every graph of the schedule, untimed, then put everything back to the bit.

        The challenge allows it because nothing learned survives. Raises SpecError for a switch that changes
        nothing, which is how a flag that was baked into a compiled graph shows.
        """
        begin = time.monotonic()
        kept = copy.deepcopy(self.capture())
        backend, why = compiler.choose(self.spec, self.job.host.device)
        if backend != "eager":
            backend, why = self._compile(backend, why)
        sets = schedule.switch_sets(self.spec.stages)
        for switches in sets:
            self.job.enter(switches)
            for _ in range(self.spec.warmup_steps):
                visit = time.monotonic()
                # At the peak learning rate: weights that start at zero must have moved before the check.
                self.job.advance(1.0)
                self.job.host.synchronize()
                self.clock.expect(time.monotonic() - visit)
        self._check_switches(sets)
        self.job.enter(frozenset())
        self.restore(*kept)
        emit(self._sink, "warmup", seconds=time.monotonic() - begin, backend=backend, why=why, graphs=len(sets))

    def _compile(self, backend: str, why: str) -> tuple[str, str]:
        """Compile the loss, or say why this machine cannot (all ranks alike)."""
        eager = self.job.loss
        self.job.loss = compiler.compiled(eager)
        failure = compiler.trial(self.job.backward, self.spec)
        if self.job.host.largest(float(failure is not None)):
            self.job.loss = eager
            return "eager", f"compiling failed: {failure or 'on another rank'}"
        return backend, why

    def _check_switches(self, sets: list[frozenset[str]]) -> None:
        if len(sets) < 2:
            return
        batch, losses = self.job.stream.next(), []
        random = torch.get_rng_state()
        for switches in sets:
            self.job.enter(switches)
            torch.set_rng_state(random)
            losses.append(self.job.evaluate(*batch).item())
        for before, after, old, new in zip(sets, sets[1:], losses, losses[1:]):
            if not self.job.host.largest(float(old != new)):
                raise SpecError(
                    f"switching {', '.join(sorted(before ^ after))} leaves the loss at {new:.9g}, so the "
                    "stage would do nothing; drop the stage, or make the model read the switch when it runs"
                )

    # -------------------------------------------------------------------------------------- timed loop

    def train(self, checkpoint: Path | None, identity: dict[str, Any]) -> None:
        """Step until the budget is spent. Every decision rests on figures all ranks agree on."""
        job, clock, spec = self.job, self.clock, self.spec
        save_seconds = 0.0
        if checkpoint is not None:  # also tells how long a save takes, before the clock could be overrun by one
            save_seconds = self._save(checkpoint, identity)
        job.host.barrier()
        clock.start(clock.elapsed)
        self._logged, saved = (clock.elapsed, job.step), clock.elapsed
        while not self._spent():
            self._progress = max(self._progress, self._share())
            if job.enter(schedule.switches_at(self._progress, spec.stages)):
                clock.read()  # what a switch takes to turn is no step's time
                emit(self._sink, "stage", step=job.step, progress=self._progress, on=sorted(job.on))
            self._lr_scale = schedule.lr_scale(job.step, self._progress, spec)
            stats = job.advance(self._lr_scale)
            clock.tick()
            self.watch.add(job.step, self._lr_scale, stats)
            if not self._due():
                continue
            self._read()
            self._log()
            if checkpoint is not None and clock.elapsed - saved >= spec.checkpoint_seconds and clock.fits(save_seconds):
                save_seconds = max(save_seconds, self._save(checkpoint, identity))
                saved = clock.read()
        self._read()
        self._log(last=True)
        if checkpoint is not None:
            self._save(checkpoint, identity)

    def _spent(self) -> bool:
        if self.spec.steps is not None and self.job.step >= self.spec.steps:
            self.stopped = "steps"
        elif not self.clock.fits(self.clock.step_seconds):
            self.stopped = "seconds"
            if self.job.step == 0:
                raise BudgetError(
                    f"a step takes about {self.clock.step_seconds:.2f} s, so not one fits into "
                    f"{self.clock.limit:.2f} s; raise TrainSpec.seconds or lower batch_tokens"
                )
        return bool(self.stopped)

    def _share(self) -> float:
        if self.spec.steps is not None:
            return self.job.step / self.spec.steps
        return min(1.0, self.clock.projected / self.clock.limit)

    def _due(self) -> bool:
        """Whether to wait for the device now: always where that is free, else now and then and at the end."""
        every = self.spec.log_every
        near = self.clock.seconds_left < 2 * every * self.clock.step_seconds
        return self.job.host.device.type == "cpu" or near or self.job.step % every == 0

    def _read(self) -> None:
        self.job.host.synchronize()
        self.clock.read()
        self.watch.read()

    def _log(self, last: bool = False) -> None:
        seconds, step = self.clock.elapsed, self.job.step
        since_seconds, since_steps = seconds - self._logged[0], step - self._logged[1]
        if not since_steps or not (last or step == 1 or step % self.spec.log_every == 0):
            return
        self._logged = (seconds, step)
        emit(
            self._sink,
            "step",
            step=step,
            loss=self.watch.loss,
            lr=self._lr_scale,
            grad_norm=self.watch.grad_norm,
            tokens_per_second=since_steps * self.spec.batch_tokens / max(since_seconds, 1e-9),
            seconds=seconds,
            progress=min(1.0, self._share()),
            seconds_left=self._seconds_left(),
        )

    def _seconds_left(self) -> float:
        left = self.clock.seconds_left
        if self.spec.steps is not None:
            left = min(left, (self.spec.steps - self.job.step) * self.clock.step_seconds)
        return left

    def _save(self, path: Path, identity: dict[str, Any]) -> float:
        """Write a checkpoint; how long that took on the slowest rank."""
        begin = time.monotonic()
        tensors, meta = self.capture()
        if self.job.host.is_main:
            files.save(path, tensors, meta | identity)
        seconds = self.job.host.largest(time.monotonic() - begin)
        emit(self._sink, "checkpoint", step=self.job.step, seconds=seconds, path=str(path))
        return seconds
