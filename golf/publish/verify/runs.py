"""Golf's own runs and submission folders, laid out for the checks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from golf import host as hosts
from golf import track as tracks
from golf.contracts import DataError, RunResult
from golf.data import corpus, documents, local, shards
from golf.eval.sliding import SlidingWindow
from golf.eval.validity.claims import Seed
from golf.publish.files import ARTIFACT, EVENTS, SCRIPT, TOKENIZER, read_header, read_result, result_of
from golf.publish.submit.runs import events
from golf.publish.use.scoring import evaluation
from golf.publish.verify import ours as verify_ours
from golf.publish.verify import script as verify_script
from golf.publish.verify.foreign import split_facts
from golf.publish.verify.subject import Subject, read_json, seed_number, seed_of, sha256, with_tokenizer

METADATA = "submission.json"
PACKAGE = Path(__file__).resolve().parents[2]
# The split of the challenge: the first documents of its shuffled stream.
FINEWEB_DOCUMENTS = 50_000


def open_run(folder: Path, data: Path | None) -> Subject:
    """One seed's folder of `golf run`. Raises DataError for files that are missing or malformed."""
    result = read_result(folder)
    subject = Subject(name=str(folder), kind="run")
    _ours(subject, folder / ARTIFACT, folder / SCRIPT, folder / TOKENIZER, result)
    subject.claim = _seed(result)
    subject.seeds, subject.listed = [subject.claim], [result.seed]
    subject.claimed_bytes = result.bytes_total
    log = _log(folder / EVENTS)
    if log:
        subject.logs = {result.seed: log}
    _validation(subject, data or _recall(subject, folder, result), result)
    return subject


def open_submission(folder: Path, data: Path | None, seed: int | None) -> Subject:
    """A folder of `golf submit`; of its artifacts, that of `seed` or the first is run."""
    values = read_json(folder / METADATA)
    stated = values.get("results")
    results = [result_of(entry, folder / METADATA) for entry in stated] if isinstance(stated, list) else []
    if not results:
        raise DataError(f"{folder / METADATA} holds no results of golf; give the folder a verify.json instead")
    chosen = next((result for result in results if result.seed == seed), results[0])
    if seed is not None and chosen.seed != seed:
        raise DataError(f"{folder} has no seed {seed}; it has {', '.join(str(result.seed) for result in results)}")
    subject = Subject(name=str(folder), kind="submission", over_seeds=True)
    artifact = folder / "artifacts" / f"seed{chosen.seed}.golf"
    tokenizer = folder / TOKENIZER
    place = data or _recall(subject, folder, chosen)
    if not tokenizer.is_file() and place is not None:
        wanted = place if place.is_dir() else place.parent
        tokenizer = next(
            (file for file in wanted.glob("*.model") if sha256(file) == chosen.tokenizer_sha256), tokenizer
        )
    _ours(subject, artifact, folder / SCRIPT, tokenizer, chosen)
    subject.claim, subject.claimed_bytes = _seed(chosen), chosen.bytes_total
    entries = values.get("seed_results", {})
    subject.seeds = [seed_of(seed_number(name, folder / METADATA), entry) for name, entry in entries.items()]
    subject.listed, subject.mean = [int(number) for number in values.get("seeds", [])], values.get("val_bpb")
    for log in sorted(folder.glob("train_seed*.log")):
        subject.logs[int(re.sub(r"\D", "", log.stem) or 0)] = log.read_text(encoding="utf-8", errors="replace")
    left_out = values.get("seeds_left_out") or {}
    subject.listed += [int(number) for number in left_out]
    baseline = values.get("comparison_baseline_scores")
    subject.old = [float(score) for score in baseline] if isinstance(baseline, list) else []
    _validation(subject, place, chosen)
    return subject


def _ours(subject: Subject, artifact: Path, script: Path, tokenizer: Path, result: RunResult) -> None:
    """Files, bytes and limits of one artifact with golf's script."""
    track = tracks.find(result.track)
    subject.cap, subject.train_limit, subject.eval_limit = track.cap_bytes, track.train_seconds, track.eval_seconds
    missing = [path for path in (artifact, script, tokenizer) if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]} is missing; without it the submission cannot be run")
    subject.artifact = artifact.name
    sizes = {path.name: path.stat().st_size for path in (script, artifact, tokenizer)}
    subject.shown = {} if result.tokenizer_counted else {tokenizer.name: sizes.pop(tokenizer.name)}
    subject.counted = sizes
    subject.sources = {script.name: script.read_text(encoding="utf-8", errors="replace")}
    subject.source_sha256 = sha256(script)
    shared: dict[str, Path | bytes] = {artifact.name: artifact, TOKENIZER: tokenizer}
    subject.entry = subject.loop = "golf_entry.py:Ours"
    tree = {f"golf/{path.relative_to(PACKAGE).as_posix()}": path for path in PACKAGE.rglob("*.py")}
    subject.files = shared | tree | {"golf_entry.py": Path(verify_ours.__file__)}
    subject.script = shared | {SCRIPT: script, "golf_script.py": Path(verify_script.__file__)}
    subject.ours = frozenset({*tree, "golf_entry.py"})
    with_tokenizer(subject, tokenizer)
    subject.retrain = str(script.resolve())
    about = read_header(artifact)
    how = about.get("eval", {})
    subject.isolated = how.get("documents") == "isolated"
    subject.context = how.get("window")
    subject.windows = lambda: _windows(about, subject.tokens)


def _windows(about: Mapping[str, Any], tokens: Sequence[int]) -> Iterator[Any]:
    """Those that score a stream; none for a kind of evaluation that has none."""
    fixed, model = evaluation(about.get("eval", {})).fixed, SimpleNamespace(spec=SimpleNamespace(**about["model"]))
    return fixed.plan(model, tokens) if isinstance(fixed, SlidingWindow) else iter(())


def _recall(subject: Subject, folder: Path, result: RunResult) -> Path | None:
    """The folder of the validation shards on this machine; None, with the reason kept, when there is none.

    One text may lie there in the tokens of several tokenizers.
    """
    for manifest in sorted((hosts.cache_folder() / "corpora").glob(f"*/{corpus.MANIFEST}")):
        about = read_json(manifest).get("corpus", {})
        if (about.get("sha256"), about.get("tokenizer_sha256")) == (result.corpus_sha256, result.tokenizer_sha256):
            return manifest.parent
    note = hosts.cache_folder() / "corpora" / f"{result.corpus_sha256}-{result.tokenizer_sha256[:16]}.json"
    place = Path(read_json(note)["val"]) if note.is_file() else None
    if place is None or not place.is_dir():
        subject.no_tokens = f"corpus {result.corpus} is not on this machine; name the text with --data"
        return None
    return place


def _validation(subject: Subject, place: Path | None, result: RunResult) -> None:
    """Validation stream, its raw documents where they are kept, the training stream, and the split's identity."""
    if place is None:
        return
    subject.tokens = local.tokens_of(place, subject.speaker)
    if not place.is_dir():
        subject.val_files = (str(place.resolve()),)
        if place.suffix != ".bin":
            subject.raw = lambda: documents.read_all([place])
        return
    subject.val_files = tuple(str(path.resolve()) for path in shards.find(place, "val"))
    try:
        found = shards.find(place, "train")
    except DataError:
        found = ()
    if found:
        stream = shards.Tokens(found)
        subject.train_files, subject.train_tokens = tuple(str(path.resolve()) for path in found), len(stream)
        subject.train = lambda: (stream[begin : begin + (1 << 22)] for begin in range(0, len(stream), 1 << 22))
    facts = split_facts(subject.tokens, subject.bos, subject.vocab)
    subject.split_found = facts | {"tokens": len(subject.tokens) - 1}
    subject.split_wanted = {"tokens": result.tokens_scored}
    if (place / corpus.MANIFEST).is_file():
        again = corpus.reopen(place)
        subject.split_found["corpus_sha256"] = again.sha256 if again else "altered since it was made"
        about = read_json(place / corpus.MANIFEST)
        subject.split_wanted |= {"corpus_sha256": result.corpus_sha256, **_count(about)}
    elif result.corpus.startswith("fineweb"):
        subject.split_wanted["documents"] = FINEWEB_DOCUMENTS
        subject.known_split = result.corpus.removeprefix("fineweb_")


def _count(manifest: dict[str, Any]) -> dict[str, int]:
    return {"documents": manifest["splits"]["val"]["documents"]}


def _seed(result: RunResult) -> Seed:
    return Seed(
        seed=result.seed,
        val_loss=result.val_loss,
        val_bpb=result.val_bpb,
        tokens=result.tokens_scored,
        bytes=result.bytes_scored,
        bytes_total=result.bytes_total,
        train_seconds=result.train_seconds,
        eval_seconds=result.eval_seconds,
        unquantized=result.val_bpb_unquantized,
    )


def _log(file: Path) -> str:
    """A run's events as the lines that its script prints."""
    from golf.contracts import Event
    from golf.events import lines

    written: list[str] = []
    spell = lines(written.append)
    if file.is_file():
        for number, event in enumerate(events(file), 1):
            try:
                spell(Event(event.pop("event"), event))
            except (TypeError, ValueError, KeyError) as error:
                raise DataError(f"{file}:{number} is no event of golf: {error}") from error
    return "\n".join(written)
