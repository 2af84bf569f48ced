"""`golf submit`: the folder that hands a run in, written from what its seeds left."""

from __future__ import annotations

import getpass
import hashlib
import json
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from golf import track as tracks
from golf.contracts import DataError, RunResult
from golf.host import write_atomic
from golf.publish.board import lineage, published
from golf.publish.files import ARTIFACT, RECORD_SEEDS, SCRIPT, TOKENIZER, read_result
from golf.publish.render import render
from golf.publish.submit import runs
from golf.publish.submit.runs import Run
from golf.publish.submit.seeds import RECIPE, Comparison, Seeds, compare, read

PINNED = ("torch", "numpy", "scipy", "sentencepiece", "zstandard", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Author:
    """Who hands in, and what they call it."""

    author: str
    github_id: str
    name: str
    date: str
    blurb: str


def author(name: str, folder: Path, given: dict[str, str | None]) -> Author:
    """What was given on the command line, else what git knows about the user, else the login name.

    A date that begins the folder's name is the submission's. Raises DataError for one that is none.
    """
    stated = given.get("date")
    if stated and not published.is_date(stated):
        raise DataError(f"--date {stated} is no day of the calendar; write it as YYYY-MM-DD")
    login = _git("user.name") or getpass.getuser()
    begin = folder.resolve().name[:10]
    date = begin if published.is_date(begin) else datetime.now(UTC).date().isoformat()
    known = {"author": login, "github_id": _git("github.user") or login, "name": name, "date": date, "blurb": ""}
    return Author(**{field: given.get(field) or value for field, value in known.items()})


def _git(key: str) -> str | None:
    if not shutil.which("git"):
        return None
    done = subprocess.run(["git", "config", "--get", key], capture_output=True, text=True)
    return done.stdout.strip() or None


def write(
    folders: Sequence[Path],
    output: Path,
    *,
    given: dict[str, str | None],
    parent: Seeds | None = None,
    artifacts: bool = True,
) -> dict[str, Any]:
    """Write the submission of finished seeds into a new folder; returns the values of its submission.json.

    given: author, github_id, name, date, blurb as far as the user said them.  parent: what it is compared with.
    Raises DataError when the runs are not seeds of one recipe, a file of theirs is missing, or the folder is in use.
    """
    if output.exists() and any(output.iterdir()):
        raise DataError(f"{output} is not empty; name a new folder, so that nothing of another submission stays in it")
    found = [runs.read(folder) for folder in runs.find(folders)]
    found.sort(key=lambda run: run.result.seed)
    code = _one_code(found)
    seeds = Seeds(given.get("name") or _name(found[0]), [run.result for run in found], found[0].recipe)
    who = author(seeds.name, output, given)
    against = compare(parent, seeds) if parent else None
    changes = lineage.changes(parent.recipe, seeds.recipe) if parent and parent.recipe else []
    values = metadata(seeds, who, code, parent, against)
    values["seeds_left_out"] = left_out(found)

    files = {SCRIPT: code, published.METADATA: _json(values), RECIPE: _json(seeds.recipe)}
    files |= {f"train_seed{run.result.seed}.log": runs.log(run).encode() for run in found}
    files["requirements.txt"] = "".join(f"{p}=={seeds.results[0].versions[p]}\n" for p in PINNED).encode()
    if seeds.results[0].tokenizer_counted:
        files[TOKENIZER] = _bytes(found[0].path / TOKENIZER)
    if artifacts:
        files |= {f"artifacts/seed{run.result.seed}.golf": _bytes(run.path / ARTIFACT) for run in found}
    page = render(
        "submission.md.j2", values=values, seeds=seeds, parent=parent, against=against, changes=changes,
        method=method(seeds.recipe), artifacts=artifacts,
    )  # fmt: skip
    files["README.md"] = page.encode()
    for path, data in files.items():
        write_atomic(output / path, data)
    return values


def _name(run: Run) -> str:
    """What `golf run` called the record, else the folder's name."""
    folder = run.path.resolve().parent
    return read(folder).name if (folder / runs.SEEDS).is_file() else folder.name


def _one_code(found: Sequence[Run]) -> bytes:
    """The script all seeds ran. Raises DataError when seeds, recipes, corpora or scripts do not fit together."""
    numbers = [run.result.seed for run in found]
    if len(set(numbers)) < len(numbers):
        twice = next(seed for seed in numbers if numbers.count(seed) > 1)
        raise DataError(f"seed {twice} is among the runs twice; name each seed once")
    for what, field in (("recipe", "recipe_digest"), ("corpus", "corpus_sha256"), ("tokenizer", "tokenizer_sha256")):
        runs.same(found, what, (getattr(run.result, field) for run in found))
    codes = [_bytes(run.path / SCRIPT) for run in found]
    runs.same(found, "script", (hashlib.sha256(code).hexdigest() for code in codes))
    return codes[0]


def left_out(found: Sequence[Run]) -> dict[str, float | str]:
    """Seeds of the same recipe that lie beside these, with their scores, and those that failed, with the reason:
    whoever picks seeds says so."""
    folders = {run.path.resolve().parent for run in found}
    taken, digest = {run.path.resolve() for run in found}, found[0].result.recipe_digest
    others: dict[str, float | str] = {}
    for folder in sorted(folders):
        for file in sorted(folder.glob(f"*/{runs.RESULT}")):
            result = read_result(file.parent)
            if file.parent.resolve() not in taken and result.recipe_digest == digest:
                others[str(result.seed)] = result.val_bpb
        if (folder / runs.SEEDS).is_file():
            others |= {str(seed): why for seed, why in read(folder / runs.SEEDS).failed.items()}
    return others


def _bytes(file: Path) -> bytes:
    if not file.is_file():
        raise DataError(f"{file} is missing; a submission needs every file of its runs")
    return file.read_bytes()


def _json(values: Any) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def method(recipe: dict[str, Any]) -> list[tuple[str, str]]:
    """The recipe in one line a part, as a caption would say it."""
    return [(part, lineage.caption(spec)) for part, spec in recipe.items() if isinstance(spec, dict)]


def metadata(
    seeds: Seeds, who: Author, code: bytes, parent: Seeds | None, against: Comparison | None
) -> dict[str, Any]:
    """The values of submission.json: first what the challenge's readers know, then what golf adds."""
    results, first = seeds.results, seeds.results[0]
    losses = [result.val_loss for result in results]
    step_ms = {result.seed: 1000 * result.train_seconds / max(result.steps, 1) for result in results}
    values = {
        **{name: value for name, value in asdict(who).items() if value},
        "track": first.track,
        "val_bpb": seeds.mean,
        "val_bpb_std": seeds.std,
        "val_loss": statistics.fmean(losses),
        "val_loss_std": statistics.stdev(losses) if len(losses) > 1 else None,
        "std_kind": "sample",
        "pre_quant_val_bpb": statistics.fmean(result.val_bpb_unquantized for result in results),
        "bytes_total": max(result.bytes_total for result in results),
        "bytes_code": len(code),
        "bytes_tokenizer": first.bytes_tokenizer,
        "artifact_bytes_mean": statistics.fmean(result.bytes_total for result in results),
        "artifact_bytes_max": max(result.bytes_total for result in results),
        "seeds": [result.seed for result in results],
        "seed_results": {str(result.seed): seed_values(result, step_ms[result.seed]) for result in results},
        "hardware": first.hardware,
        "pytorch_version": first.versions["torch"],
        "train_steps_mean": statistics.fmean(result.steps for result in results),
        "step_avg_ms_mean": statistics.fmean(step_ms.values()),
        "train_time_s_mean": statistics.fmean(result.train_seconds for result in results),
        "eval_time_s_mean": statistics.fmean(result.eval_seconds for result in results),
        "model_params": first.parameters,
        "technique_summary": " + ".join(dict.fromkeys(_types(seeds.recipe))),
        "val_bpb_method": lineage.caption(seeds.recipe.get("eval", {})),
        "compliance": compliance(results),
        "run_command": " ".join(["python", SCRIPT, *(f"--seed {result.seed}" for result in results)]),
        "recipe_digest": first.recipe_digest,
        "corpus_sha256": first.corpus_sha256,
        "source_sha256": hashlib.sha256(code).hexdigest(),
        "results": [asdict(result) for result in results],
    }
    if parent is not None and against is not None:
        values |= {"parent": parent.name, "comparison_baseline_bpb": parent.mean}
        values |= {"delta_vs_parent_bpb": -against.delta, "comparison": against.text}
        if against.verdicts:
            values |= {"t_statistic": against.verdicts[0].t, "p_value": against.verdicts[0].p}
    return values


def seed_values(result: RunResult, step_ms: float) -> dict[str, Any]:
    """One entry of `seed_results`. artifact_bytes counts the code too, as the challenge's cap does."""
    return {
        "val_loss": result.val_loss,
        "val_bpb": result.val_bpb,
        "artifact_bytes": result.bytes_total,
        "bytes_total": result.bytes_total,
        "bytes_model": result.bytes_model,
        "steps": result.steps,
        "step_avg_ms": step_ms,
        "train_wallclock_ms": 1000 * result.train_seconds,
        "train_time_s": result.train_seconds,
        "eval_time_s": result.eval_seconds,
        "pre_quant_val_bpb": result.val_bpb_unquantized,
        "quantized_val_bpb": result.val_bpb_roundtrip,
        "val_tokens": result.tokens_scored,
        "val_bytes": result.bytes_scored,
        "artifact_sha256": result.artifact_sha256,
    }


def compliance(results: Sequence[RunResult]) -> dict[str, bool]:
    """What the results themselves show about the track's limits; `golf verify` tests the rest."""
    track = tracks.find(results[0].track)
    train, evaluate = track.train_seconds, track.eval_seconds
    return {
        "train_within_limit": train is None or all(result.train_seconds <= train for result in results),
        "eval_within_limit": evaluate is None or all(result.eval_seconds <= evaluate for result in results),
        "artifact_under_cap": all(result.bytes_total <= track.cap_bytes for result in results),
        "three_seeds": len(results) >= RECORD_SEEDS,
    }


def _types(value: Any) -> list[str]:
    """Names of the classes in a recipe's values, outermost first, without the recipe's own."""
    if isinstance(value, list):
        return [name for item in value for name in _types(item)]
    if not isinstance(value, dict):
        return []
    own = [value["type"]] if value.get("type", "Recipe") != "Recipe" else []
    return own + [name for item in value.values() for name in _types(item)]
