"""The leaderboard: every record, run and submission it is pointed at, by track and corpus, each against the best
before it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from golf import track as tracks
from golf.contracts import DataError, SpecError
from golf.eval.significance import sample, welch
from golf.publish.board import lineage, published
from golf.publish.board.lineage import Change
from golf.publish.board.published import Entry
from golf.publish.submit import runs, seeds
from golf.publish.submit.check_submission import CHALLENGE_CAP
from golf.publish.submit.seeds import Seeds

VALIDITY = "validity.json"  # what `golf verify --json` printed, kept beside a record or submission


@dataclass(frozen=True)
class Row:
    """One line of the board. None: not stated.

    verified: what the validity checks kept beside it say.  before: the best one of the group with an earlier date;
    delta: that one's score less this one's (positive: better); p: of being better at all, one-sided, by Welch.
    runs: what tells the runs behind it from all others.
    """

    number: int
    name: str
    path: str
    track: str | None
    corpus: str | None
    kind: str | None
    author: str | None
    date: str | None
    val_bpb: float | None
    val_bpb_std: float | None
    seeds: Mapping[str, float]
    bytes_total: int | None
    cap: int | None
    train_seconds: float | None
    parameters: int | None
    bits_per_weight: float | None
    verified: bool | None
    parent: str | None
    recipe: Mapping[str, Any] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    before: str | None = None
    before_number: int | None = None
    delta: float | None = None
    p: float | None = None
    changes: tuple[Change, ...] = ()
    runs: frozenset = field(default=frozenset(), repr=False)

    @property
    def headroom(self) -> int | None:
        return None if self.bytes_total is None or self.cap is None else self.cap - self.bytes_total


class Group(NamedTuple):
    """Rows whose scores can be compared, best first; those without a score come last. kind: of evaluation."""

    track: str | None
    corpus: str | None
    kind: str | None
    rows: tuple[Row, ...]

    @property
    def scored(self) -> list[Row]:
        return [row for row in self.rows if row.val_bpb is not None]

    @property
    def pareto(self) -> list[Row]:
        """Rows that no other beats in both bytes and score, by rising bytes."""
        sized = [row for row in self.scored if row.bytes_total is not None]
        front: list[Row] = []
        for row in sorted(sized, key=lambda row: (row.bytes_total, row.val_bpb)):
            if not front or row.val_bpb < front[-1].val_bpb:
                front.append(row)
        return front

    @property
    def records(self) -> list[Row]:
        """Rows that were the best of their day, by date."""
        best: list[Row] = []
        for row in sorted((row for row in self.scored if row.date), key=lambda row: (row.date, row.val_bpb)):
            if not best or row.val_bpb < best[-1].val_bpb:
                best.append(row)
        return best


def board(paths: Iterable[Path], match: str | None = None) -> list[Group]:
    """Read everything below `paths` and compare. match: only paths that this pattern fits.

    Raises DataError when nothing is found.
    """
    rows = once([row for path in paths for row in find(path) if match is None or fnmatch(row.path, f"*{match}*")])
    if not rows:
        raise DataError("no record with results, run or submission lies there; run one with `golf run`")
    groups: dict[tuple[str | None, ...], list[Row]] = {}
    for number, row in enumerate(rows, 1):
        groups.setdefault((row.track, row.corpus, row.kind), []).append(replace(row, number=number))
    found = [Group(*key, tuple(told_apart(ranked(rows)))) for key, rows in groups.items()]
    return sorted(found, key=lambda group: (group.track is None, *(str(part or "") for part in group[:3])))


def told_apart(rows: Sequence[Row]) -> list[Row]:
    """Rows of one name, such as runs of a record with other values, also say where they lie."""
    named = Counter(row.name for row in rows)
    names = {row.number: f"{row.name} ({Path(row.path).parent})" for row in rows if named[row.name] > 1}
    return [
        replace(row, name=names.get(row.number, row.name), before=names.get(row.before_number, row.before))
        for row in rows
    ]


def once(rows: Sequence[Row]) -> list[Row]:
    """Rows whose runs no other row shows as well: a submission goes before the runs it hands in, and these, put
    together, before each by itself. What stays says where else its runs lie."""
    kept: dict[int, Row] = {}
    for place, row in sorted(enumerate(rows), key=lambda each: (each[1].author is None, -len(each[1].runs))):
        shown = next((other for other, each in kept.items() if row.runs and row.runs <= each.runs), None)
        if shown is None:
            kept[place] = row
        elif row.path != kept[shown].path:
            notes = dict.fromkeys((*kept[shown].notes, f"the same runs lie in {row.path}"))
            kept[shown] = replace(kept[shown], notes=tuple(notes))
    return [kept[place] for place in sorted(kept)]


def find(path: Path) -> list[Row]:
    """The rows of a results.json, a folder of records, runs or submissions, or a collection of metadata files.

    Raises DataError when the path does not exist.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; name a folder of records, runs or submissions")
    if path.is_file():
        return [_handed_in(path) if path.name != runs.SEEDS else _ours(path, seeds.read(path))]
    rows, summed = [], set()
    for file in sorted(path.rglob(runs.SEEDS)):
        rows.append(_readable(file, lambda file: _ours(file, seeds.read(file))))
        summed.add(file.parent)
    for file in sorted(path.rglob(published.METADATA)):
        rows.append(_readable(file, _handed_in))
    for file in sorted(path.rglob(runs.RESULT)):
        if file.parent.parent not in summed and file.parent not in summed:
            rows.append(_readable(file, lambda file: _ours(file, seeds.read(file.parent))))
    if not rows:
        rows = [_readable(file, _handed_in) for file in sorted(path.glob("*.json"))]
    return rows


def _readable(file: Path, row: Callable[[Path], Row]) -> Row:
    """One of many: a file that cannot be read is a row that says so, and hides no other."""
    try:
        return row(file)
    except DataError as error:
        return _published(Entry(path=file, notes=(str(error),)), None)


def _handed_in(file: Path) -> Row:
    entry = published.read(file)
    if "results" in entry.raw:
        return _ours(file, seeds.read(file.parent), entry)
    return _published(entry, _verified(file.parent))


def _ours(file: Path, found: Seeds, entry: Entry | None = None) -> Row:
    """The row of what golf itself wrote."""
    first, worst = found.results[0], max(found.results, key=lambda result: result.bytes_total)
    name, date = found.name, entry.date if entry else None
    if date is None and published.is_date(name[:10]):
        date, name = name[:10], name[11:] or name
    return Row(
        number=0, name=name, path=str(file), track=first.track, corpus=first.corpus_sha256, kind=first.eval_kind,
        author=entry.author if entry else None, date=date, val_bpb=found.mean, val_bpb_std=found.std,
        seeds={str(seed): score for seed, score in found.scores.items()}, bytes_total=worst.bytes_total,
        cap=worst.bytes_cap, train_seconds=max(result.train_seconds for result in found.results),
        parameters=first.parameters, bits_per_weight=8 * worst.bytes_model / first.parameters,
        verified=_verified(file.parent), parent=entry.parent if entry else None, recipe=found.recipe,
        notes=tuple(f"seed {seed} failed: {why}" for seed, why in found.failed.items()),
        runs=frozenset(
            (r.recipe_digest, r.corpus_sha256, r.eval_kind, r.seed, r.artifact_sha256, r.train_seconds, r.val_bpb)
            for r in found.results
        ),
    )  # fmt: skip


def _published(entry: Entry, verified: bool | None) -> Row:
    """The row of what somebody else wrote: as stated, and not a digit more."""
    weights = None
    if entry.bytes_total is not None and entry.bytes_code is not None and entry.parameters:
        weights = 8 * (entry.bytes_total - entry.bytes_code) / entry.parameters
    track = tracks.TRACKS.get(entry.track or "")
    notes = entry.notes
    if entry.bytes_total is None and entry.bytes_artifact is not None:
        notes += (f"bytes: only artifact_bytes is stated, {entry.bytes_artifact:,}",)
    return Row(
        number=0, name=entry.name or f"({entry.path.parent.name or entry.path.stem})", path=str(entry.path),
        track=entry.track, corpus=None, kind=None, author=entry.author, date=entry.date, val_bpb=entry.val_bpb,
        val_bpb_std=entry.val_bpb_std, seeds=entry.seeds, bytes_total=entry.bytes_total,
        cap=track.cap_bytes if track else CHALLENGE_CAP, train_seconds=entry.train_seconds,
        parameters=entry.parameters, bits_per_weight=weights, verified=verified,
        parent=entry.parent, notes=notes, runs=frozenset({entry.path.resolve()}),
    )  # fmt: skip


def _verified(folder: Path) -> bool | None:
    """What the kept outcome of `golf verify` says; None where there is none, or one that found nothing wrong without
    having run anything. Raises DataError for a broken one."""
    file = folder / VALIDITY
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_bytes())
        verdict = values["ok"]
        ran = values.get("tier") != "static"
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is not what `golf verify --json` prints: {error!r}") from error
    return bool(verdict) if ran or not verdict else None


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Best first, each compared with the best that has an earlier date, and with what it changes."""
    found = [_against(row, rows) for row in rows]
    return sorted(found, key=lambda row: (row.val_bpb is None, row.val_bpb or 0.0, row.name))


def _against(row: Row, rows: Sequence[Row]) -> Row:
    if row.val_bpb is None:
        return row
    dated = [other for other in rows if other.date and row.date and other.date < row.date]
    earlier = [other for other in dated if other.val_bpb is not None]
    best = min(earlier, key=lambda other: other.val_bpb, default=None)
    named = next((other for other in rows if other is not row and row.parent in (other.name, _full(other))), None)
    parent = named or best
    changes = tuple(lineage.changes(dict(parent.recipe), dict(row.recipe))) if _both(parent, row) else ()
    if parent is not None and row.parent is None and changes:
        row = replace(row, parent=parent.name)
    if best is None:
        return replace(row, changes=changes)
    return replace(
        row, changes=changes, before=best.name, before_number=best.number, delta=best.val_bpb - row.val_bpb,
        p=_chance(best, row),
    )  # fmt: skip


def _full(row: Row) -> str:
    return f"{row.date}_{row.name}"


def _both(parent: Row | None, row: Row) -> bool:
    return parent is not None and bool(parent.recipe) and bool(row.recipe)


def _chance(old: Row, new: Row) -> float | None:
    try:
        return welch(sample(list(old.seeds.values())), sample(list(new.seeds.values()))).p
    except SpecError:  # one of them has a single seed, or none
        return None
