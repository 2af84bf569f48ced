"""Reasons for documents that come back changed, on texts made to differ and on what a stock tokenizer does."""

import re

import pytest

from golf.data import documents
from golf.data.tokenizer import Tokenizer
from golf.eval.differs import why


@pytest.mark.parametrize(
    ("raw", "decoded", "reason"),
    [
        ("same", "same", ""),
        ("a\nb\tc", "a b c", "line ends, tabs and other spaces became spaces"),
        ("a  b", "a b", "runs of spaces became one"),
        (" a ", "a", "spaces at the ends cut"),
        ("a \n b", "a b", "line ends, tabs and other spaces became spaces, runs of spaces became one"),
        ("a *b* c", "a  \u2047 b \u2047  c", "characters unknown to the vocabulary lost"),
        ("a * c", "a  \u2047 d", "character 2 on: '* c' became ' \u2047 d'"),
        ("½ ﬁ Ⅷ", "1⁄2 fi VIII", "compatibility characters folded"),
        ("e\u0301", "é", "letters composed"),
        ("a\x07b\u200d", "ab", "control and zero-width characters dropped"),
        ("Big", "big", "capitals lowered"),
        ("lost word", "lost wort", "character 8 on: 'd' became 't'"),
        ("cut off", "cut", "character 3 on: ' off' became ''"),
    ],
)  # fmt: skip
def test_the_fewest_causes(raw, decoded, reason):
    assert why(raw, decoded) == reason


def test_a_stock_tokenizer_is_explained(shared):
    """Every review that the challenge's tokenizer changes is changed for a reason that is known."""
    speaker = Tokenizer(shared / "data" / "tokenizers" / "fineweb_1024_bpe.model")
    reasons = []
    for text, _ in zip(documents.read(shared / "data" / "reviews" / "docs_val.jsonl.zst"), range(400)):
        reasons.append(why(text, speaker.decode(speaker.encode(text))))
    changed = [reason for reason in reasons if reason]
    assert len(changed) > 10 and not [reason for reason in changed if re.match(r"character \d", reason)]
