"""`golf sweep`: which values to try, and the study that keeps what came of them.

Every point to try is a slot, planned before the first runs, and a slot's outcome is counted once: whoever sweeps may
be killed and started again, and several may join in on one storage.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape
from rich.table import Table

from golf import recipe as recipes
from golf.contracts import SpecError
from golf.publish.sweep.storage import connect, library

if TYPE_CHECKING:
    import optuna

STUDY, PLAN, QUEUED, SLOT, WHY = "golf", "plan", "queued", "slot", "why"
JOURNAL = "sweep.journal"
SEED = 1337  # of the first of a slot's seeds, and of what random points are drawn


@dataclass(frozen=True)
class Range:
    """All values between two; integers when both ends are. log: evenly by ratio."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @property
    def ends(self) -> tuple[float, float]:
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)


@dataclass(frozen=True)
class Plan:
    """What is swept. axes: path of a recipe's field to its values as texts, or to a range.  fixed: `path=value`
    texts for every point.  seeds: runs of each point.  trials: points to try (a grid has as many as it has)."""

    record: str
    method: Literal["grid", "random", "tpe"]
    axes: Mapping[str, tuple[str, ...] | Range]
    fixed: tuple[str, ...]
    seeds: int
    trials: int
    digest: str

    def text(self) -> str:
        """The same plan has the same text on every machine."""
        axes = {p: asdict(a) if isinstance(a, Range) else list(a) for p, a in self.axes.items()}
        values = {"method": self.method, "axes": axes, "fixed": sorted(self.fixed), "seeds": self.seeds}
        return json.dumps(values | {"trials": self.trials, "record": self.record, "digest": self.digest})

    def points(self) -> list[dict[str, Any]]:
        """The points known beforehand; TPE only knows how many."""
        if self.method == "tpe":
            return [{} for _ in range(self.trials)]
        if self.method == "grid":
            return [dict(zip(self.axes, values)) for values in itertools.product(*self.axes.values())]
        draw = random.Random(SEED)
        return [{path: _drawn(axis, draw) for path, axis in self.axes.items()} for _ in range(self.trials)]

    def assignments(self, point: Mapping[str, Any]) -> list[str]:
        return [*self.fixed, *(f"{path}={value}" for path, value in point.items())]


def plan(
    record: Path, texts: Iterable[str], *, method: Literal["grid", "random", "tpe"], seeds: int, trials: int
) -> Plan:
    """texts: `path=value` holds for all points, `path=v1,v2` (or `v1;v2` where a value has commas) and
    `path=low..high`, with `:log` behind it if wanted, are axes.

    Raises SpecError for a path or value the recipe does not take, no axis, or a range in a grid.
    """
    recipe = recipes.load(record)
    axes: dict[str, tuple[str, ...] | Range] = {}
    fixed: list[str] = []
    for text in texts:
        path, _, value = (part.strip() for part in text.partition("="))
        axis = _axis(path, value)
        if axis is None:
            fixed.append(text)
        else:
            axes[path] = axis
    if not axes:
        raise SpecError("nothing to sweep: give a field several values, as in --set train.matrix.lr=0.02,0.03")
    ranges = [path for path, axis in axes.items() if isinstance(axis, Range)]
    if ranges and method == "grid":
        raise SpecError(f"a grid needs single values, {ranges[0]} has a range; list them, or use random or tpe")
    recipe = recipes.assign(recipe, fixed)
    for path, axis in axes.items():
        for value in axis.ends if isinstance(axis, Range) else axis:
            recipes.assign(recipe, [f"{path}={value}"])
    made = Plan(record.name, method, axes, tuple(fixed), seeds, trials, recipe.digest)
    return made if method != "grid" else Plan(**{**vars(made), "trials": len(made.points())})


def _axis(path: str, text: str) -> tuple[str, ...] | Range | None:
    low, dots, high = text.partition("..")
    if dots and "/" not in text:  # a folder at ../shards is no range
        high, _, how = high.partition(":")
        try:
            ends = float(low), float(high)
        except ValueError:
            raise SpecError(f"--set {path}={text}: a range is low..high of numbers, or low..high:log") from None
        if how not in ("", "log") or ends[0] >= ends[1] or (how and ends[0] <= 0):
            raise SpecError(f"--set {path}={text}: a range rises, and one by ratio (:log) begins above 0")
        return Range(*ends, how == "log", low.strip().isdigit() and high.strip().isdigit())
    values = tuple(value.strip() for value in text.split(";" if ";" in text else ",") if value.strip())
    return values if len(values) > 1 else None


def _drawn(axis: tuple[str, ...] | Range, draw: random.Random) -> Any:
    if not isinstance(axis, Range):
        return draw.choice(axis)
    if axis.log:
        value = axis.low * (axis.high / axis.low) ** draw.random()
    else:
        value = draw.uniform(axis.low, axis.high)
    return round(value) if axis.whole else value


def suggest(plan: Plan, trial: optuna.Trial) -> dict[str, Any]:
    """The point a trial is for: planned, or proposed by TPE."""
    point: dict[str, Any] = {}
    for path, axis in plan.axes.items():
        if not isinstance(axis, Range):
            point[path] = trial.suggest_categorical(path, axis)
        elif axis.whole:
            point[path] = trial.suggest_int(path, *axis.ends, log=axis.log)
        else:
            point[path] = trial.suggest_float(path, *axis.ends, log=axis.log)
    return point


def open_study(storage: str, plan: Plan) -> optuna.Study:
    """The study of a plan: made and filled by the first who comes, joined by the others.

    storage: as for `connect`. Raises SpecError when it cannot be used or holds a sweep of something else.
    """
    optuna = library()
    how = {
        "storage": connect(storage),
        "study_name": STUDY,
        "sampler": optuna.samplers.TPESampler(constant_liar=True),
        "pruner": optuna.pruners.MedianPruner(n_startup_trials=3),
    }
    try:
        study = optuna.create_study(direction="minimize", **how)
        study.set_user_attr(PLAN, plan.text())
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(**how)
        _wait(study)
    known = study.user_attrs.get(PLAN, plan.text())
    if known != plan.text():
        raise SpecError(f"{storage} holds another sweep, {known[:160]}; join with its words, or name another storage")
    if QUEUED not in study.user_attrs:
        _fill(study, plan)
        study.set_user_attr(QUEUED, True)
    return study


def _wait(study: optuna.Study) -> None:
    """Whoever made the study is queueing its slots; one who died over it is not waited for forever."""
    for _ in range(100):
        if QUEUED in study.user_attrs:
            return
        time.sleep(0.1)


def _fill(study: optuna.Study, plan: Plan) -> None:
    """Queue every slot that nobody has queued."""
    queued = {trial.user_attrs.get(SLOT) for trial in study.get_trials(deepcopy=False)}
    for slot, point in enumerate(plan.points()):
        if slot not in queued:
            study.enqueue_trial(point, user_attrs={SLOT: slot})


@dataclass(frozen=True)
class Outcome:
    """What came of a slot. state: "complete", "pruned", "failed" or "open".  val_bpb: mean over the seeds."""

    slot: int
    point: Mapping[str, Any]
    state: str
    val_bpb: float | None = None
    val_bpb_unquantized: float | None = None
    bytes_total: int | None = None
    folder: str | None = None
    why: str | None = None


def outcomes(study: optuna.Study, plan: Plan) -> list[Outcome]:
    """One for every slot: the first of its trials that came to an end of its own."""
    names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    found: dict[int, Outcome] = {}
    for trial in sorted(study.get_trials(deepcopy=False), key=lambda trial: trial.number):
        slot, told = trial.user_attrs.get(SLOT), trial.user_attrs
        ended = trial.state.name in ("COMPLETE", "PRUNED") or (trial.state.name == "FAIL" and WHY in told)
        if slot is not None and ended and slot not in found:
            found[slot] = Outcome(
                slot, trial.params, names[trial.state.name], trial.value if trial.state.name == "COMPLETE" else None,
                told.get("val_bpb_unquantized"), told.get("bytes_total"), told.get("folder"), told.get(WHY),
            )  # fmt: skip
    points = plan.points()
    return [found.get(slot, Outcome(slot, points[slot], "open")) for slot in range(len(points))]


def table(found: Sequence[Outcome], plan: Plan) -> Table:
    """Outcomes, best first; those of the Pareto front of bytes against score are marked."""
    front = {each.slot for each in pareto(found)}
    drawn = Table(title=f"sweep of {plan.record}, {plan.seeds} seed{'s' * (plan.seeds > 1)} each", title_justify="left")
    for name in ("slot", *plan.axes, "bits per byte", "bytes", "outcome"):
        drawn.add_column(name, justify="left" if name == "outcome" else "right")
    for each in sorted(found, key=lambda each: (each.val_bpb is None, each.val_bpb or 0.0, each.slot)):
        score = "" if each.val_bpb is None else f"{each.val_bpb:.5f}"
        size = "" if each.bytes_total is None else f"{each.bytes_total:,}"
        point = [_short(each.point.get(path)) for path in plan.axes]
        note = each.why or ("◆ Pareto front" if each.slot in front else each.state)
        drawn.add_row(str(each.slot), *point, score, size, escape(note))
    return drawn


def _short(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def pareto(found: Sequence[Outcome]) -> list[Outcome]:
    """Outcomes that no other beats in both bytes and bits per byte, by rising bytes."""
    front: list[Outcome] = []
    scored = [each for each in found if each.val_bpb is not None and each.bytes_total is not None]
    for each in sorted(scored, key=lambda each: (each.bytes_total, each.val_bpb)):
        if not front or each.val_bpb < front[-1].val_bpb:
            front.append(each)
    return front
