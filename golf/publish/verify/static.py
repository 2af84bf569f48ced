"""Checks that run nothing: sizes, formats, sources, and what the submission states against itself."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from golf.eval.validity import accounting, artifact, claims
from golf.eval.validity.verdict import Status, Verdict, passed, unchecked
from golf.publish.bundle.one_file import PACKAGES
from golf.publish.verify.subject import Subject

# Besides the standard library and the packages of a bundle; the challenge's scripts use these.
ALLOWED = PACKAGES | frozenset("flash_attn flash_attn_interface brotli constriction tqdm golf golf_record".split())


def checks(subject: Subject) -> Iterator[Verdict]:
    """A1, A3, A5, B4, T1, T2, S1, S2, S3."""
    if subject.cap is None:
        yield unchecked("A1", "neither a track nor a cap is stated")
    else:
        totals = {seed.seed: seed.bytes_total for seed in subject.seeds if seed.bytes_total is not None}
        yield artifact.size(subject.counted, subject.shown, (), subject.cap, subject.claimed_bytes, totals)
    sources = dict(subject.sources)
    for name, text in subject.sources.items():
        sources |= artifact.unpacked(name, text)
    allowed = allowed_modules(sources)
    found = [verdict for name, text in sources.items() for verdict in artifact.source(name, text, allowed)]
    yield from (verdict for verdict in found if verdict.status is not Status.PASS)
    if sources:
        words = f"{len(sources)} sources import"
        yield passed("A3", f"{words} only what a submission may need")
        yield passed("A5", f"{words} and call nothing that unpickles")
    blobs = {
        name: source if isinstance(source, bytes) else source.read_bytes()
        for name, source in subject.files.items()
        if name not in subject.ours and name not in subject.sources and not name.startswith("golf/")
    }
    yield from artifact.safe_files(blobs)
    yield _identity(subject)
    yield from _clocks(subject)
    records = subject.over_seeds
    scored = [seed.seed for seed in subject.seeds]
    if not scored and not subject.listed:
        yield unchecked("S1", "no results of any seed are stated")
    else:
        yield claims.seeds(subject.listed, scored, list(subject.logs), records)
    scores = [seed.val_bpb for seed in subject.seeds if seed.val_bpb is not None]
    first = next((seed for seed in subject.seeds if seed.tokens and seed.bytes), None)
    yield claims.significance(
        subject.old, scores, first.tokens if first else None, first.bytes if first else None, records
    )
    yield from claims.logs(subject.seeds, subject.logs, subject.source_sha256)
    if subject.mean is not None:
        yield claims.mean(subject.mean, subject.seeds)


def allowed_modules(sources: Iterable[str]) -> frozenset[str]:
    """Modules that sources of these names may import: each other, the standard library, and ALLOWED."""
    own = {Path(name).stem for name in sources} | {name.replace("/", ".").partition(".")[0] for name in sources}
    return frozenset(ALLOWED | sys.stdlib_module_names | own)


def _identity(subject: Subject) -> Verdict:
    for seed in subject.seeds:
        if None not in (seed.val_loss, seed.val_bpb, seed.tokens, seed.bytes):
            verdict = accounting.identity(seed.val_loss, seed.val_bpb, seed.tokens, seed.bytes)
            if verdict.evidence or seed is subject.seeds[-1]:
                return verdict
    return accounting.claims_missing()


def _clocks(subject: Subject) -> Iterator[Verdict]:
    """T1 and T2 from results and logs alike: the longest reading counts."""
    train = {seed.seed: seed.train_seconds for seed in subject.seeds if seed.train_seconds is not None}
    for seed, text in subject.logs.items():
        readings = claims.train_seconds(text)
        if readings:
            train[seed] = max(train.get(seed, 0.0), *readings)
    evaluated = {seed.seed: seed.eval_seconds for seed in subject.seeds if seed.eval_seconds is not None}
    yield claims.clock("T1", "training", train, subject.train_limit)
    yield claims.clock("T2", "evaluation", evaluated, subject.eval_limit)
