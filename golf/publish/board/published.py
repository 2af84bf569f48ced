"""Reading the metadata of submissions as people wrote it: fields missing, renamed, of other types.

Nothing is invented. A field is taken from a synonym only where the synonym can mean nothing else, and every such step,
gap and contradiction is kept as a note beside the values.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from golf.contracts import DataError

METADATA = "submission.json"
REQUIRED = ("author", "github_id", "name", "date", "val_bpb")
# Spellings that mean the same, the usual one first. `artifact_bytes` is not among those of `bytes_total`: some count
# the code in it and some do not.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "author": ("author",),
    "github_id": ("github_id",),
    "name": ("name", "title", "run_name"),
    "track": ("track",),
    "date": ("date",),
    "blurb": ("blurb", "description", "summary", "technique_summary"),
    "val_bpb": ("val_bpb", "mean_val_bpb", "mean_bpb"),
    "val_bpb_std": ("val_bpb_std", "std_val_bpb", "std_bpb"),
    "val_loss": ("val_loss", "mean_val_loss", "val_loss_nats", "mean_val_loss_nats"),
    "bytes_total": ("bytes_total", "bytes_total_max", "total_bytes"),
    "bytes_artifact": ("artifact_bytes_max", "artifact_bytes", "artifact_size_bytes"),
    "bytes_code": ("bytes_code", "code_bytes"),
    "train_seconds": ("train_seconds", "train_time_seconds", "training_time_seconds", "train_time_s_mean"),
    "eval_seconds": ("eval_seconds", "eval_time_seconds", "eval_time_s_mean"),
    "parameters": ("parameters", "model_params"),
    "hardware": ("hardware", "gpu", "gpu_config"),
    "parent": ("parent", "based_on", "base_pr", "base_submission"),
}
TEXTS = ("author", "github_id", "name", "track", "date", "blurb", "hardware")
WHOLE = ("bytes_total", "bytes_artifact", "bytes_code", "parameters")
SEED_SCORES = ("val_bpb_exact", "val_bpb")
PER_SEED = ("val_bpb_per_seed", "val_bpb_by_seed")
LISTED = ("seed_scores", "seed_bpbs")
CLOSE = 5e-5  # half a unit in the fourth digit, to which many scores are rounded


@dataclass(frozen=True)
class Entry:
    """A submission's metadata. None: not stated, or not in a form that can be read; `notes` says which.

    seeds: score by seed as far as stated.  std_kind: how `val_bpb_std` came about: "stated", "sample" or "population"
    when it agrees with the seeds, "from seeds" when it was computed here.
    """

    path: Path
    author: str | None = None
    github_id: str | None = None
    name: str | None = None
    track: str | None = None
    date: str | None = None
    blurb: str | None = None
    val_bpb: float | None = None
    val_bpb_std: float | None = None
    std_kind: str | None = None
    val_loss: float | None = None
    bytes_total: int | None = None
    bytes_artifact: int | None = None
    bytes_code: int | None = None
    train_seconds: float | None = None
    eval_seconds: float | None = None
    parameters: int | None = None
    hardware: str | None = None
    parent: str | None = None
    seeds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def missing(self) -> tuple[str, ...]:
        """Required fields without a usable value."""
        return tuple(name for name in REQUIRED if getattr(self, name) is None)


def find(folder: Path) -> list[Path]:
    """Metadata files under a folder: every submission.json, or all .json files of a flat collection.

    Raises DataError when there is none.
    """
    found = sorted(folder.rglob(METADATA)) or sorted(folder.glob("*.json"))
    if not found:
        raise DataError(f"{folder} holds neither a {METADATA} nor other .json files; name a folder of submissions")
    return found


def read(file: Path) -> Entry:
    """The entry of one metadata file. Raises DataError when it is no JSON object."""
    try:
        raw = json.loads(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise DataError(f"{file} must hold one JSON object, found {type(raw).__name__}")
    notes: list[str] = []
    values = {name: _take(raw, name, notes) for name in SYNONYMS}
    values["track"] = _track(values["track"], file, notes)
    values["date"] = _date(values["date"], file, notes)
    seeds, bytes_by_seed = _seeds(raw, notes)
    if values["bytes_total"] is None and bytes_by_seed:
        values["bytes_total"] = max(bytes_by_seed)
        notes.append("bytes_total: the largest of the seeds")
    std, kind = _spread(values["val_bpb_std"], seeds, notes)
    values |= {"val_bpb_std": std, "std_kind": kind}
    if values["val_bpb"] is not None and seeds:
        mean = statistics.fmean(seeds.values())
        if abs(mean - values["val_bpb"]) > CLOSE:
            notes.append(f"val_bpb: {values['val_bpb']:g} is not the mean of its seeds, {mean:.6g}")
    return Entry(path=file, seeds=seeds, notes=tuple(notes), raw=raw, **values)


def _take(raw: Mapping[str, Any], name: str, notes: list[str]) -> Any:
    """The value of the first spelling that is there and readable."""
    usual = SYNONYMS[name][0]
    for spelling in SYNONYMS[name]:
        if spelling not in raw:
            continue
        value = _read(raw[spelling], name)
        if value is None:
            seen = "null" if raw[spelling] is None else f"{type(raw[spelling]).__name__} {str(raw[spelling])[:40]!r}"
            notes.append(f"{spelling}: {seen}, not usable as {name}")
            continue
        if spelling != usual:
            notes.append(f"{name}: spelled {spelling}")
        return value
    if name in REQUIRED or name == "bytes_total":
        notes.append(f"{name}: not stated")
    return None


def _read(value: Any, name: str) -> Any:
    """`value` in the field's own type, or None. Text that is empty and numbers that are not finite are nothing."""
    if name in TEXTS:
        return value.strip() or None if isinstance(value, str) else None
    if name == "parent":
        return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if name == "val_bpb" and value <= 0:  # a placeholder: no model predicts everything
        return None
    if name in WHOLE:
        return int(value) if value == int(value) else None
    return float(value)


def _track(stated: str | None, file: Path, notes: list[str]) -> str | None:
    """The track in the folders' spelling: `track_10min-16mb` is 10min_16mb; else what the path says."""
    if stated is not None:
        return re.sub(r"^track_", "", stated.strip().replace("-", "_"))
    for part in reversed((*file.parts[:-1], *file.stem.split("__"))):
        if part.startswith("track_"):
            notes.append("track: from the folder's name")
            return part.removeprefix("track_")
    return None


def is_date(text: str) -> bool:
    """Whether text is YYYY-MM-DD of a day that exists."""
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _date(stated: str | None, file: Path, notes: list[str]) -> str | None:
    """YYYY-MM-DD of a date or timestamp in ISO form; else what the folder's name begins with."""
    if stated is not None:
        try:
            return datetime.fromisoformat(stated).date().isoformat()
        except ValueError:
            notes.append(f"date: {stated!r} is not an ISO date")
    for part in (file.parent.name, *file.stem.split("__")):
        if is_date(part[:10]):
            notes.append("date: from the folder's name")
            return part[:10]
    return None


def _seeds(raw: Mapping[str, Any], notes: list[str]) -> tuple[dict[str, float], list[int]]:
    """Score by seed and all totals in bytes, from whichever shape carries them."""
    results: dict[str, Any] = {}
    for seed, value in _seed_values(raw):
        results.setdefault(str(seed), value)
    listed = raw.get("seeds")
    if not results and isinstance(listed, list):
        for name in LISTED:
            if isinstance(raw.get(name), list) and len(raw[name]) == len(listed):
                results = {str(seed): value for seed, value in zip(listed, raw[name])}
    scores, sizes = {}, []
    for seed, value in results.items():
        inner = value if isinstance(value, dict) else {"val_bpb": value}
        score = next((s for s in (_read(inner.get(n), "val_bpb") for n in SEED_SCORES) if s is not None), None)
        if score is None:
            notes.append(f"seed {seed}: no val_bpb")
        else:
            scores[seed] = score
        size = _read(inner.get("bytes_total"), "bytes_total")
        sizes += [] if size is None else [size]
    if isinstance(listed, list) and scores and {str(seed) for seed in listed} != set(scores):
        notes.append(f"seeds: {', '.join(map(str, listed))} stated, scores for {', '.join(scores)}")
    return scores, sizes


def _seed_values(raw: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    for name in ("seed_results", "seeds", *PER_SEED):
        match raw.get(name):
            case dict() as values:
                yield from values.items()
            case list() as values:
                yield from ((v["seed"], v) for v in values if isinstance(v, dict) and "seed" in v)
    yield from ((name[5:], value) for name, value in raw.items() if re.fullmatch(r"seed_\d+", name))


def _spread(stated: float | None, seeds: Mapping[str, float], notes: list[str]) -> tuple[float | None, str | None]:
    """The standard deviation and where it comes from."""
    if len(seeds) < 2:
        return stated, None if stated is None else "stated"
    sample, population = statistics.stdev(seeds.values()), statistics.pstdev(seeds.values())
    if stated is None:
        return sample, "from seeds"
    for kind, value in (("sample", sample), ("population", population)):
        if abs(stated - value) <= max(CLOSE, 0.02 * value):
            return stated, kind
    notes.append(f"val_bpb_std: {stated:g} stated, its seeds give {sample:.6g}")
    return stated, "stated"
