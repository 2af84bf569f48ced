"""`golf check` of a submission, its bare metadata or a record: every field against files, logs and other fields."""

from __future__ import annotations

import ast
import hashlib
import json
import math
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from golf import track as tracks
from golf.contracts import ByteLedger, RunResult
from golf.publish.board import published
from golf.publish.board.published import Entry
from golf.publish.files import RECORD_SEEDS, SCRIPT, TOKENIZER, Verdict, read_artifact
from golf.publish.submit import runs
from golf.publish.submit.seeds import Seeds, read
from golf.track import Track

CHALLENGE_CAP = 16_000_000
EXACT = 1e-6  # logs spell eight digits
# What the final score is called in logs of the challenge, and in golf's.
FINAL = r"^(?:final_{kind}_exact|quantized_ttt_phased|final_{kind})\b.*?val_bpb:\s*([\d.]+)"
SIZE = re.compile(r"^Total submission size[^:]*: ([\d,_]+) bytes", re.M)
SOURCE = re.compile(r"source_sha256:([0-9a-f]{64})")


def check_submission(folder: Path) -> tuple[ByteLedger | None, list[Verdict]]:
    """The ledger of the worst seed (None when the bytes are not stated) and every verdict on a submission's folder."""
    entry = published.read(folder / published.METADATA)
    verdicts = [*metadata(entry), *_files(folder, entry), *_logs(folder, entry)]
    if "results" not in entry.raw:
        return _stated_ledger(entry), verdicts
    seeds = read(folder)
    return _ledger(seeds, folder), [*verdicts, *_summary(entry, seeds), *_artifacts(folder, seeds), *_clocks(seeds)]


def check_metadata(file: Path) -> tuple[ByteLedger | None, list[Verdict]]:
    """The same for a metadata file alone: what can be told without the files it speaks of."""
    entry = published.read(file)
    return _stated_ledger(entry), list(metadata(entry))


def check_record(folder: Path) -> tuple[ByteLedger | None, list[Verdict]]:
    """A record of this repository: the results of its seeds against its recipe and its track."""
    from golf import recipe as recipes

    recipe = recipes.load(folder)
    seeds = read(folder)
    first, track = seeds.results[0], tracks.find(recipe.track)
    stated = json.loads((folder / runs.SEEDS).read_bytes())
    digests = "; ".join({result.recipe_digest for result in seeds.results})
    verdicts = [
        Verdict("README.md", (folder / "README.md").is_file(), "says what the record is"),
        Verdict("results are the recipe's", digests == recipe.digest, f"{digests[:16]} / {recipe.digest[:16]}"),
        Verdict("track", {result.track for result in seeds.results} == {track.name}, first.track),
        _mean("val_bpb", stated.get("val_bpb"), seeds.mean),
        _seed_count(len(seeds.results), track),
        _worst(max(result.bytes_total for result in seeds.results), track.cap_bytes),
        *_clocks(seeds),
    ]
    return _ledger(seeds, None), verdicts


def metadata(entry: Entry) -> Iterator[Verdict]:
    """Fields by themselves and against each other."""
    missing = ", ".join(entry.missing)
    yield Verdict("required fields", not missing, f"missing or unusable: {missing}" if missing else "all there")
    track = tracks.TRACKS.get(entry.track or "")
    cap = track.cap_bytes if track else CHALLENGE_CAP
    if entry.bytes_total is not None:
        yield _worst(entry.bytes_total, cap)
    else:
        seen = "not stated" if entry.bytes_artifact is None else f"only artifact_bytes, {entry.bytes_artifact:,}"
        yield Verdict("under the cap", None, f"bytes_total: {seen}")
    if entry.val_bpb is not None and entry.seeds:
        yield _mean("val_bpb", entry.val_bpb, statistics.fmean(entry.seeds.values()))
    if entry.std_kind == "stated" and len(entry.seeds) > 1:
        yield Verdict("val_bpb_std", False, next(n for n in entry.notes if n.startswith("val_bpb_std: ")))
    elif entry.std_kind == "population":
        yield Verdict("val_bpb_std", None, f"{entry.val_bpb_std:g} divides by n, a sample's spread by n - 1")
    elif entry.std_kind is not None:
        yield Verdict("val_bpb_std", True, f"{entry.val_bpb_std:.6g}, {entry.std_kind}")
    else:
        yield Verdict("val_bpb_std", None, "not stated")
    yield _seed_count(len(entry.seeds), track)
    folder = entry.path.parent.name
    if published.is_date(folder[:10]) and entry.date is not None:
        yield Verdict("date as in the folder's name", entry.date == folder[:10], f"{entry.date} / {folder[:10]}")
    for note in () if "results" in entry.raw else entry.notes:
        if not note.startswith(("val_bpb: ", "val_bpb_std: ")) or "spelled" in note:
            yield Verdict("field", None, note)


def _mean(what: str, stated: Any, mean: float) -> Verdict:
    good = isinstance(stated, float) and abs(stated - mean) <= published.CLOSE
    return Verdict(f"{what} is the mean of its seeds", good, f"{stated} / {mean:.8f}")


def _worst(total: int, cap: int) -> Verdict:
    left = cap - total
    words = f"{left:,} left" if left >= 0 else f"{-left:,} over"
    return Verdict("under the cap", left >= 0, f"worst seed {total:,} of {cap:,}, {words}")


def _seed_count(count: int, track: Track | None) -> Verdict:
    need = "a record needs three" if track is None or track.train_seconds is not None else "three are better"
    seen = f"{count} with a score; {need}" if count < RECORD_SEEDS else f"{count}"
    return Verdict("seeds", True if count >= RECORD_SEEDS else None, seen)


def _files(folder: Path, entry: Entry) -> Iterator[Verdict]:
    """What has to lie beside the metadata, and what the metadata says of it."""
    missing = [name for name in ("README.md", SCRIPT) if not (folder / name).is_file()]
    yield Verdict("required files", not missing, f"missing {', '.join(missing)}" if missing else "all there")
    if SCRIPT in missing:
        return
    code = (folder / SCRIPT).read_bytes()
    try:
        ast.parse(code)
        yield Verdict("script is Python", True, f"{len(code):,} bytes")
    except (SyntaxError, ValueError) as error:
        yield Verdict("script is Python", False, str(error))
    if entry.bytes_code is None:
        yield Verdict("bytes_code", None, "not stated")
    else:
        yield Verdict("bytes_code", entry.bytes_code == len(code), f"{entry.bytes_code:,} / {len(code):,} on disk")
    if "source_sha256" in entry.raw:
        found, stated = hashlib.sha256(code).hexdigest(), entry.raw["source_sha256"]
        yield Verdict("source_sha256", stated == found, f"{str(stated)[:16]} / {found[:16]}")


def _logs(folder: Path, entry: Entry) -> Iterator[Verdict]:
    """Every seed's log ends in the score the metadata states; ours also in its size and its source."""
    ours = "results" in entry.raw
    for seed, score in entry.seeds.items():
        file = folder / f"train_seed{seed}.log"
        if not file.is_file():
            yield Verdict(f"log of seed {seed}", False, f"{file.name} is missing")
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        kind = entry.raw["results"][0].get("eval_kind", "sliding") if ours else r"\S*"
        scores = [float(found) for found in re.findall(FINAL.format(kind=kind), text, re.M)]
        good = any(abs(found - score) <= EXACT for found in scores)
        seen = f"{scores[-1]:.8f}" if scores else "no final score"
        yield Verdict(f"log of seed {seed}", good, f"{seen} / {score:.8f}")
        if ours:
            yield from _own_log(seed, text, entry)


def _own_log(seed: str, text: str, entry: Entry) -> Iterator[Verdict]:
    stated = entry.raw["seed_results"][seed].get("bytes_total")
    sizes = [int(size.replace(",", "")) for size in SIZE.findall(text)]
    yield Verdict(f"size in the log of seed {seed}", sizes[-1:] == [stated], f"{sizes[-1:] or 'none'} / {stated}")
    sources = set(SOURCE.findall(text))
    good = sources == {entry.raw.get("source_sha256")}
    yield Verdict(f"source in the log of seed {seed}", good, "; ".join(s[:16] for s in sources) or "none")


def _summary(entry: Entry, seeds: Seeds) -> Iterator[Verdict]:
    """What golf's own metadata says in several places at once."""
    raw, worst = entry.raw, max(result.bytes_total for result in seeds.results)
    yield Verdict("bytes_total is the worst seed's", entry.bytes_total == worst, f"{entry.bytes_total} / {worst}")
    same = {str(seed): score for seed, score in seeds.scores.items()} == dict(entry.seeds)
    yield Verdict("seed_results are the results", same, ", ".join(entry.seeds))
    yield Verdict("seeds are listed", raw.get("seeds") == list(seeds.scores), str(raw.get("seeds")))
    for field, values in (("val_bpb", seeds.scores.values()), ("val_loss", [r.val_loss for r in seeds.results])):
        found, stated = statistics.fmean(values), raw.get(field)
        good = isinstance(stated, float) and math.isclose(stated, found, rel_tol=1e-9)
        yield Verdict(f"{field} exactly", good, f"{stated} / {found}")
    for result in seeds.results:
        again = result.val_loss / math.log(2) * result.tokens_scored / result.bytes_scored
        good = abs(again - result.val_bpb) < EXACT
        yield Verdict(f"loss and score of seed {result.seed} agree", good, f"{again:.8f} / {result.val_bpb:.8f}")
    for what, field in (("recipe", "recipe_digest"), ("corpus", "corpus_sha256")):
        found = {getattr(result, field) for result in seeds.results}
        yield Verdict(f"one {what}", found == {raw.get(field)}, "; ".join(value[:16] for value in found))


def _artifacts(folder: Path, seeds: Seeds) -> Iterator[Verdict]:
    """Stored artifacts and tokenizer are those that were scored."""
    first = seeds.results[0]
    if first.tokenizer_counted:
        file = folder / TOKENIZER
        found = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "missing"
        good = found == first.tokenizer_sha256
        yield Verdict("tokenizer as trained", good, f"{found[:16]} / {first.tokenizer_sha256[:16]}")
    if not (folder / "artifacts").is_dir():
        yield Verdict("artifacts", None, "not in the folder, so their bytes are only stated")
        return
    for result in seeds.results:
        yield _artifact(folder / "artifacts" / f"seed{result.seed}.golf", result)


def _artifact(file: Path, result: RunResult) -> Verdict:
    what = f"artifact of seed {result.seed}"
    if not file.is_file():
        return Verdict(what, False, f"{file.name} is missing")
    data = file.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if (found, len(data)) != (result.artifact_sha256, result.bytes_model):
        seen = f"{len(data):,} bytes, {found[:16]} / {result.bytes_model:,} bytes, {result.artifact_sha256[:16]}"
        return Verdict(what, False, seen)
    read_artifact(file)
    return Verdict(what, True, f"{len(data):,} bytes, {found[:16]}")


def _clocks(seeds: Seeds) -> Iterator[Verdict]:
    for result in seeds.results:
        overruns = tracks.find(result.track).overruns(result.train_seconds, result.eval_seconds)
        clock = f"training {result.train_seconds:.1f} s, evaluation {result.eval_seconds:.1f} s"
        yield Verdict(f"seed {result.seed} within the clocks", not overruns, "; ".join(overruns) or clock)


def _ledger(seeds: Seeds, folder: Path | None) -> ByteLedger:
    """The worst seed's, with the code counted from the file where there is one."""
    worst = max(seeds.results, key=lambda result: result.bytes_total)
    script = folder / SCRIPT if folder else None
    code = script.stat().st_size if script and script.is_file() else worst.bytes_code
    counted = worst.bytes_tokenizer if worst.tokenizer_counted else 0
    return ByteLedger(code=code, blob=worst.bytes_model, cap=tracks.find(worst.track).cap_bytes, tokenizer=counted,
                      tokenizer_shown=worst.bytes_tokenizer - counted)  # fmt: skip


def _stated_ledger(entry: Entry) -> ByteLedger | None:
    if entry.bytes_total is None or entry.bytes_code is None:
        return None
    track = tracks.TRACKS.get(entry.track or "")
    cap = track.cap_bytes if track else CHALLENGE_CAP
    return ByteLedger(code=entry.bytes_code, blob=entry.bytes_total - entry.bytes_code, cap=cap)
