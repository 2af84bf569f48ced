"""`golf score`: bits per byte of a model on disk, by its own kind of evaluation or another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from golf import host as hosts
from golf import recipe as recipes
from golf.contracts import Evaluation, Score, Sink, SpecError
from golf.data import local, speaking
from golf.eval import kinds
from golf.publish.use.convert import recall
from golf.publish.use.source import open_source


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """What `golf score` can be told with --set."""

    eval: Evaluation


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A score, the kind of evaluation it comes from, and the score without adaptation where that is another."""

    kind: str
    score: Score
    fixed: Score | None


def score_source(
    path: Path,
    data: Path | None,
    tokenizer_file: Path | None,
    kind: str | None,
    assignments: Sequence[str],
    sink: Sink,
) -> Scored | None:
    """Score a model on disk by its own kind of evaluation or another; None on ranks that do not report."""
    source = open_source(path, tokenizer_file)
    how, speaker = evaluation(source.about["eval"], kind, assignments), speaking.speaker(source.tokenizer)
    if kind or assignments:
        how = by_documents_of(speaker.bos, how, any(text.startswith("eval.bos=") for text in assignments))
    tokens, table = local.tokens_of(data if data is not None else recall(path), speaker), speaker.table()
    with hosts.join() as host:
        model = source.build().to(host.device)
        total, fixed = how.score(model, tokens, table, host=host, sink=sink), None
        if how.fixed is not how:
            fixed = how.fixed.score(model, tokens, table, host=host, sink=sink)
    return Scored(kind=how.kind, score=total, fixed=fixed) if host.is_main else None


def by_documents_of(bos: int, how: Evaluation, asked: bool) -> Evaluation:
    """The evaluation with the token that begins the tokenizer's documents, where it looks for one at all.

    asked: whether the one it has was asked for, and not taken over from another kind. Raises SpecError for another one
    that was: every document would be read on from the last, under the name of documents by themselves.
    """
    own = getattr(how, "bos", bos)
    if own == bos or getattr(how, "documents", "isolated") != "isolated":
        return how
    if asked:
        raise SpecError(f"eval.bos={own} begins no document, the tokenizer begins them with {bos}; leave it out")
    return replace(how, bos=bos)


def evaluation(values: dict[str, Any], kind: str | None = None, assignments: Sequence[str] = ()) -> Evaluation:
    """The evaluation that travels with a model; as another kind, with what the two have in common.

    assignments: `eval.field=value` texts that come after.
    Raises SpecError for a kind, field or value that cannot be.
    """
    own = values.get("kind", "sliding")
    chosen = kinds.spec_class(kind or own)
    known = {each.name for each in fields(chosen)} if kind not in (None, own) else values.keys() - {"kind"}
    texts = {name: ",".join(value) if isinstance(value, list) else value for name, value in values.items()}
    given = [f"eval.{name}={text}" for name, text in texts.items() if name in known]
    return recipes.assign(ScoreSettings(eval=chosen()), [*given, *assignments]).eval
