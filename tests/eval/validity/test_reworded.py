"""Runs of words are found however they are cut into tokens and whatever capitals they have, against plain strings."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pytest

from golf.eval.validity.accounting import Piece
from golf.eval.validity.reworded import WORDS, letters, reworded, runs
from golf.eval.validity.verdict import Status

BOS = 1
WORD = "quick brown foxes jump over eleven lazy dogs while nobody looks at the moon tonight my dear".split()
PIECES = [Piece("<pad>", "control"), Piece("<s>", "control"), *(Piece(f"▁{word}", "text") for word in WORD)]
PIECES += [Piece("▁", "text"), Piece(".", "text"), Piece(",", "text"), Piece(",▁", "text"), Piece("\u0301", "text")]
PIECES += [Piece(chr(letter), "text") for letter in (*range(65, 91), *range(97, 123))]
TOKEN = {piece.text: token for token, piece in enumerate(PIECES)}


def spelled(text):
    """Tokens of a text, the longest that fits first."""
    found, text = [BOS], text.replace(" ", "▁")
    names = sorted(TOKEN, key=len, reverse=True)
    while text:
        name = next(name for name in names if text.startswith(name))
        found.append(TOKEN[name])
        text = text[len(name) :]
    return np.array(found)


def document(draw, count=60):
    return " ".join(draw.choice(WORD, count)) + "."


def plain(text):
    folded = "".join(char for char in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(char))
    return re.findall("[a-z]+", folded)


def found(val, train):
    documents = [(0, spelled(text)[1:]) for text in val]
    return reworded(documents, [np.concatenate([spelled(text) for text in train])], PIECES)


def test_runs_are_those_of_the_words():
    from golf.eval.validity.reworded import BASE, _powers

    draw, known = np.random.default_rng(0), letters(PIECES)
    seen = {}
    for text in (document(draw), document(draw).upper(), document(draw).replace(" ", ", ", 7)):
        for version in (text, text.upper(), text.lower(), text.replace(" ", ",  "), text.replace("e", "e\u0301")):
            hashes, _ = runs(spelled(version), known, _powers(BASE, 1000), _powers(pow(BASE, -1, 1 << 64), 1000))
            words = plain(version)
            assert len(hashes) == len(words) - WORDS + 1
            for place, value in enumerate(hashes.tolist()):
                assert seen.setdefault(tuple(words[place : place + WORDS]), value) == value
    assert len(set(seen.values())) == len(seen)


@pytest.mark.parametrize("change", [str.upper, lambda text: text.replace(" ", ",  "), lambda text: "my " + text[::1]])
def test_a_reworded_copy_is_found(change):
    draw = np.random.default_rng(0)
    val, other = [document(draw) for _ in range(5)], [document(draw) for _ in range(20)]
    assert found(val, other).status is Status.PASS
    verdict = found(val, other[:9] + [change(text) for text in val] + other[9:])
    assert verdict.status is Status.FAIL and verdict.evidence["documents"] == [0, 1, 2, 3, 4]


def test_one_page_that_was_published_again_is_reported():
    draw = np.random.default_rng(0)
    val = [document(draw) for _ in range(5)]
    verdict = found(val, [val[2].upper()])
    assert verdict.status is Status.PASS and "1 of 5 documents" in verdict.why
