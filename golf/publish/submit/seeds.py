"""Several seeds of one recipe: the summary that `golf run` leaves beside them and that a record keeps."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from golf.contracts import DataError, RunResult
from golf.eval.significance import Verdict, margin_bpb, paired, sample, welch, words
from golf.host import write_atomic
from golf.publish.board import published
from golf.publish.files import read_result, result_of
from golf.publish.submit import runs
from golf.recipe import Recipe, to_json

RECIPE = "recipe.json"


@dataclass(frozen=True)
class Seeds:
    """name: of the record.  results: one a seed, rising.  recipe: its plain values, empty when unknown.
    failed: why, by seed.  logged: of each seed, what its log alone holds and another run of it needs: `code_sha256`,
    and `clock` where the run ended by it."""

    name: str
    results: Sequence[RunResult]
    recipe: dict[str, Any] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    logged: dict[int, dict[str, str]] = field(default_factory=dict)

    @property
    def scores(self) -> dict[int, float]:
        return {result.seed: result.val_bpb for result in self.results}

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores.values())

    @property
    def std(self) -> float | None:
        """Sample standard deviation; none for one seed."""
        return statistics.stdev(self.scores.values()) if len(self.results) > 1 else None

    def values(self) -> dict[str, Any]:
        """Plain values, as written to results.json."""
        first = self.results[0]
        return {
            "name": self.name,
            "track": first.track,
            "val_bpb": self.mean,
            "val_bpb_std": self.std,
            "seeds": list(self.scores),
            "bytes_total": max(result.bytes_total for result in self.results),
            "recipe_digest": first.recipe_digest,
            "corpus_sha256": first.corpus_sha256,
            "results": [asdict(result) for result in self.results],
            "failed": {str(seed): why for seed, why in self.failed.items()},
            "logged": {str(seed): facts for seed, facts in self.logged.items()},
            "recipe": self.recipe,
        }


def write(folder: Path, name: str, recipe: Recipe, failed: dict[int, str]) -> Seeds | None:
    """Put together what seeds of a recipe left below `folder` as its results.json; None when none has finished.

    A reader finds that file whole at any moment, because it is renamed into place. Whoever finishes last has seen
    everybody's result: after writing, the folder is looked through once more.
    """
    found: list[RunResult] = []
    while True:
        before, found = found, finished(folder, recipe.digest)
        if not found or [result.seed for result in found] == [result.seed for result in before]:
            return Seeds(name, found, to_json(recipe), failed) if found else None
        logged = {result.seed: runs.logged(folder / str(result.seed)) for result in found}
        summary = Seeds(name, found, to_json(recipe), dict(sorted(failed.items())), logged)
        write_atomic(folder / runs.SEEDS, (json.dumps(summary.values(), indent=1) + "\n").encode())


def finished(folder: Path, digest: str) -> list[RunResult]:
    """Results of a recipe's seeds below a folder, rising."""
    found = [read_result(file.parent) for file in folder.glob(f"*/{runs.RESULT}")]
    return sorted((result for result in found if result.recipe_digest == digest), key=lambda result: result.seed)


def read(path: Path) -> Seeds:
    """The seeds of a results.json, a folder that holds one, a submission of golf's, or run folders.

    Raises DataError when there is nothing of the kind.
    """
    file = path / runs.SEEDS if path.is_dir() else path
    if file.name == runs.SEEDS and file.is_file():
        return _from_values(file, _object(file))
    if (path / published.METADATA).is_file():
        values = _object(path / published.METADATA)
        if "results" not in values:
            raise DataError(f"{path} is a submission made without golf, which does not hold the results of its seeds")
        recipe = _object(path / RECIPE) if (path / RECIPE).is_file() else {}
        return _from_values(path / published.METADATA, values | {"recipe": recipe})
    found = [runs.read(folder) for folder in runs.find([path])]
    runs.same(found, "recipe", (run.result.recipe_digest for run in found))
    name = path.name if found[0].path != path else path.resolve().parent.name
    logged = {run.result.seed: runs.logged(run.path) for run in found}
    return Seeds(name, [run.result for run in found], found[0].recipe, logged=logged)


def _object(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{file} must hold one JSON object, found {type(values).__name__}")
    return values


def _from_values(file: Path, values: dict[str, Any]) -> Seeds:
    results = values.get("results")
    failed, logged, recipe = (values.get(name, {}) for name in ("failed", "logged", "recipe"))
    objects = all(isinstance(each, dict) for each in (failed, logged, *logged.values(), recipe))
    if not isinstance(results, list) or not results or not objects:
        raise DataError(f"{file} holds no results of seeds; `golf run` writes such a file")
    name = values.get("name")
    if not isinstance(name, str):
        raise DataError(f"{file} does not say the name of its record")
    found = sorted((result_of(result, file) for result in results), key=lambda result: result.seed)
    failed = {int(seed): str(why) for seed, why in failed.items()}
    return Seeds(name, found, recipe, failed, {int(seed): facts for seed, facts in logged.items()})


@dataclass(frozen=True)
class Comparison:
    """New seeds against old ones on one corpus. margin: what a record has to win by, in bits per byte.
    verdicts: better at all, and by the margin; none when a side has a single seed."""

    delta: float
    margin: float
    verdicts: tuple[Verdict, ...]
    text: str


def alike(old: Seeds, new: Seeds) -> bool:
    """Whether the same seeds ran on the same machine with the same versions and as many steps: then they pair up."""
    sides = [
        {r.seed: (r.versions, r.hardware, r.steps, r.train_tokens) for r in side.results} for side in (old, new)
    ]
    return sides[0] == sides[1]


def compare(old: Seeds, new: Seeds) -> Comparison:
    """Raises DataError when the two were scored on different text, or by different kinds of evaluation."""
    before, after = old.results[0], new.results[0]
    if before.corpus_sha256 != after.corpus_sha256:
        raise DataError(
            f"{old.name} was scored on corpus {before.corpus} ({before.corpus_sha256[:16]}), {new.name} on "
            f"{after.corpus} ({after.corpus_sha256[:16]}): scores of different text cannot be compared"
        )
    if before.eval_kind != after.eval_kind:
        raise DataError(
            f"{old.name} was scored by a {before.eval_kind} evaluation, {new.name} by a {after.eval_kind} one: two "
            "kinds of score cannot be compared; score both by one with `golf score --eval`"
        )
    margin = margin_bpb(after.tokens_scored, after.bytes_scored)
    delta = old.mean - new.mean
    if min(len(old.results), len(new.results)) < 2:
        text = (
            f"{new.name} has {new.mean:.5f} bits per byte, {old.name} {old.mean:.5f}. One seed says nothing about the "
            "spread between seeds, so whether the difference means anything is open; run three of each."
        )
        return Comparison(delta, margin, (), text)
    first, second = sample(list(old.scores.values())), sample(list(new.scores.values()))
    if alike(old, new):
        verdicts = tuple(paired(old.scores, new.scores, bound) for bound in (0.0, margin))
    else:
        verdicts = tuple(welch(first, second, bound) for bound in (0.0, margin))
    return Comparison(delta, margin, verdicts, words(verdicts, first, second))
