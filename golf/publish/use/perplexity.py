"""Perplexity of a text file, by WikiText's conventions: per token, and per word of the text as it stands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from golf.contracts import Score
from golf.data import documents


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """token_perplexity: depends on the tokenizer.  word_perplexity: does not; words are what stands between spaces,
    and the end of each line is one more (WikiText's <eos>).  text_bpb: bits for each byte of the file, where
    `Score.bpb` counts the bytes that tokens spell; a tokenizer that folds spaces spells fewer."""

    token_perplexity: float
    word_perplexity: float
    text_bpb: float
    words: int
    text_bytes: int


def of_text(path: Path | None, score: Score) -> Perplexity | None:
    """None where the score is not that of one text file. No perplexity where a number is too large for a float."""
    if path is None or path.suffix not in documents.TEXTS:
        return None
    data = path.read_bytes()
    words = len(data.split()) + data.count(b"\n")
    return Perplexity(
        token_perplexity=_exp(score.nats / score.tokens),
        word_perplexity=_exp(score.nats / max(words, 1)),
        text_bpb=score.nats / math.log(2) / len(data),
        words=words,
        text_bytes=len(data),
    )


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
