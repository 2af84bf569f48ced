"""The validation text against its tokens, its table, its raw documents, and the training text: B1 to B3, B5, D1, D2."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from golf.contracts import PredictorError
from golf.eval.validity import accounting, carried, reworded, splits
from golf.eval.validity.accounting import Document
from golf.eval.validity.verdict import Status, Verdict, failed, passed, unchecked
from golf.publish.verify.remote import Remote
from golf.publish.verify.subject import Subject

CARRIED_TOKENS = 5_000_000  # of the validation text, looked for in the submission's files
# Tokens hashed a second on one core, rounded down: `python benchmarks/shingles.py`.
SCAN_TOKENS_PER_SECOND, READ_TOKENS_PER_SECOND = 8e6, 8e6


def accounting_checks(subject: Subject, facts: dict[str, Any]) -> Iterator[Verdict]:
    """B1, B2, B5."""
    if subject.tokens is None or subject.speaker is None:
        why = subject.no_tokens if subject.tokens is None else "no tokenizer says what the tokens spell"
        yield from (unchecked(check, why) for check in ("B1", "B2", "B5"))
        return
    unknown = [token for token, piece in enumerate(subject.pieces) if piece.kind == "unknown"]
    lost = int(np.isin(np.asarray(subject.tokens[:]), unknown).sum())
    yield accounting.table(subject.table, subject.pieces, subject.markers, lost)
    claimed = subject.claim.bytes if subject.claim else None
    try:
        verdict, found = accounting.documents(subject.table, subject.bos, _documents(subject), claimed)
    except PredictorError as error:
        yield failed("B3", str(error))
        return
    facts["bytes"] = found
    if verdict.status is Status.PASS and subject.kind == "foreign" and not (subject.raw or subject.known_split):
        why = f"{verdict.why}: whether the text is the one that was to be predicted, no document here tells"
        verdict = unchecked("B1", why)
    yield verdict
    if subject.claim is not None and None not in (subject.claim.val_loss, subject.claim.val_bpb):
        # Whatever numbers are stated beside it, the score is over these tokens and bytes.
        total = len(subject.tokens) - 1
        yield accounting.identity(subject.claim.val_loss, subject.claim.val_bpb, total, found["table"])
    yield accounting.known_totals(subject.known_split, found["tokens"], found["table"])


def _documents(subject: Subject) -> Iterator[Document]:
    """Validation documents with their decoded and, where there is one, their raw text."""
    raw: Iterable[str | None] = subject.raw() if subject.raw else itertools.repeat(None)
    stream = ((tokens, _spelled(subject, tokens)) for _, tokens in splits.split_documents(subject.tokens, subject.bos))
    if subject.transform:
        with Remote(subject.entry, subject.files, environment=subject.environment) as remote:
            for (tokens, text), original in _side_by_side(stream, raw):
                yield Document(tokens, remote.transform("decode", [text])[0], original)
        return
    for (tokens, text), original in _side_by_side(stream, raw):
        yield Document(tokens, text, original)


def _side_by_side(stream: Iterable[tuple[np.ndarray, str]], raw: Iterable[str | None]) -> Iterator[Any]:
    """Documents of the tokens and of the raw text; where there are more of one, the other's are empty."""
    if isinstance(raw, itertools.repeat):
        yield from zip(stream, raw)
        return
    for tokens, text in itertools.zip_longest(stream, raw):
        yield tokens or (np.empty(0, np.int64), ""), text if text is not None else ""


def _carried(subject: Subject) -> Verdict:
    """D1 of the submission's own files: nothing of the validation text is shipped with them."""
    files = {
        name: source if isinstance(source, bytes) else source.read_bytes()
        for name, source in subject.files.items()
        if name not in subject.ours and not name.startswith("golf/")
    }
    return carry(subject, files | {name: text.encode() for name, text in subject.sources.items()})


def carry(subject: Subject, files: Mapping[str, bytes]) -> Verdict:
    """D1 of some files."""
    tokens = np.asarray(subject.tokens[:CARRIED_TOKENS])
    text = "".join(_spelled(subject, part) for _, part in splits.split_documents(tokens, subject.bos)).encode()
    return carried.carried(files, text, tokens)


def _spelled(subject: Subject, tokens: np.ndarray) -> str:
    return subject.speaker.decode(tokens)


def _reworded(subject: Subject, seconds: float) -> Verdict:
    """D1 of the training text once more, for what is not quite a copy."""
    expected = subject.train_tokens / READ_TOKENS_PER_SECOND
    if expected > seconds:
        return passed("D1", f"a reworded copy, which takes {expected:,.0f} s to look for, was not looked for")
    stream = splits.split_documents(subject.tokens, subject.bos)
    return reworded.reworded(stream, subject.train(), subject.pieces)


def transform(subject: Subject) -> Iterator[Verdict]:
    """B3."""
    if not subject.transform:
        yield accounting.no_transform()
        return
    try:
        # Two processes: what one remembers of a text does not help the other to spell it again.
        with (
            Remote(subject.entry, subject.files, environment=subject.environment) as remote,
            Remote(subject.entry, subject.files, environment=subject.environment) as other,
        ):
            if not (remote.about["encode"] and remote.about["decode"]):
                yield failed("B3", "the submission states a transform, its entry has no encode and decode")
                return

            yield accounting.transform(
                lambda text: remote.transform("encode", [text])[0], lambda text: other.transform("decode", [text])[0],
                subject.raw() if subject.raw else (),
            )  # fmt: skip
    except PredictorError as error:
        yield failed("B3", str(error))


def split_checks(subject: Subject, seconds: float) -> Iterator[Verdict]:
    """D1 and D2. seconds: how long reading the training text may take."""
    yield splits.identity(subject.split_found, subject.split_wanted)
    if subject.kind == "foreign" and subject.tokens is not None:
        yield from splits.repeated(splits.split_documents(subject.tokens, subject.bos), subject.vocab)
    if subject.tokens is not None and subject.speaker is not None:
        yield _carried(subject)
    if subject.tokens is None:
        yield unchecked("D1", subject.no_tokens)
    elif subject.train is None:
        yield unchecked("D1", "the submission does not name its training text")
    elif subject.train_tokens / SCAN_TOKENS_PER_SECOND > seconds:
        expected = subject.train_tokens / SCAN_TOKENS_PER_SECOND
        yield unchecked("D1", f"{subject.train_tokens:,} training tokens take about {expected:,.0f} s to read; "
                        f"this tier gives {seconds:.0f} s")  # fmt: skip
    else:
        begin = time.monotonic()
        verdict = splits.disjoint(splits.split_documents(subject.tokens, subject.bos), subject.train())
        spent = time.monotonic() - begin
        yield Verdict(verdict.check, verdict.status, f"{verdict.why} ({spent:.1f} s)", verdict.evidence)
        if subject.pieces and verdict.status is not Status.FAIL:
            yield _reworded(subject, seconds)
