import itertools
import json
import tempfile
from dataclasses import replace

import numpy as np
import pytest

from golf.contracts import DataError, SpecError
from golf.data import local, shards, tokenizer
from golf.data.local import Documents
from golf.data.tokenizer import Tokenizer

TEXTS = [f"Text {n} tells how {n % 17} ships sailed to harbor {n % 5}. " * 3 for n in range(400)]


def quiet(event):
    pass


def spelled(paths, model):
    """The documents that shards hold."""
    ids, speaker = shards.Tokens(paths)[:], Tokenizer(model)
    return [speaker.decode(piece[1:]) for piece in np.split(ids, np.flatnonzero(ids == 1))[1:]]


@pytest.fixture
def files(tmp_path):
    for name, texts in (("a", TEXTS[:300]), ("b", TEXTS[300:]), ("v", ["Held out.", TEXTS[7]])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return tmp_path


def test_a_share_validates_by_hash(files):
    spec = Documents(train=(str(files / "a.jsonl"), str(files / "b.jsonl")), vocab=320, val_share=0.1)
    made = spec.open(files / "cache", quiet)
    train, val = spelled(made.train, made.tokenizer), spelled(made.val, made.tokenizer)
    assert sorted(train + val) == sorted(TEXTS) and not set(train) & set(val)
    assert 20 <= len(val) <= 65
    assert made.tokenizer_counted and made.vocab == 320
    # The side of a document does not depend on the documents around it.
    part = replace(spec, train=(str(files / "a.jsonl"),)).open(files / "cache", quiet)
    assert set(spelled(part.val, part.tokenizer)) == set(val) & set(TEXTS[:300])


def test_given_validation_documents_leave_the_training_split(files):
    spec = Documents(train=(str(files / "a.jsonl"),), val=(str(files / "v.jsonl"),), vocab=320)
    made = spec.open(files / "cache", quiet)
    assert spelled(made.val, made.tokenizer) == ["Held out.", TEXTS[7]]
    assert spelled(made.train, made.tokenizer) == TEXTS[:7] + TEXTS[8:300]


def test_a_changed_file_is_another_corpus(files):
    spec = Documents(train=(str(files / "a.jsonl"),), vocab=320, val_share=0.2)
    first = spec.open(files / "cache", quiet)
    assert spec.open(files / "cache", quiet) == first
    (files / "a.jsonl").write_text((files / "b.jsonl").read_text())
    assert spec.open(files / "cache", quiet).sha256 != first.sha256


def test_a_given_tokenizer_is_not_counted(files):
    (files / "own.model").write_bytes(tokenizer.train(TEXTS, 310))
    spec = Documents(train=(str(files / "a.jsonl"),), tokenizer=str(files / "own.model"), vocab=310)
    assert not spec.open(files / "cache", quiet).tokenizer_counted
    with pytest.raises(DataError, match=r"has 310 pieces where data\.vocab=311"):
        replace(spec, vocab=311).open(files / "cache", quiet)


def test_spec_bounds_and_missing_files(tmp_path):
    with pytest.raises(SpecError, match="names 0 document files"):
        Documents(train=())
    with pytest.raises(SpecError, match=r"data\.vocab=10 "):
        Documents(train=("x",), vocab=10)
    with pytest.raises(SpecError, match=r"data\.val_share=1"):
        Documents(train=("x",), val_share=1.0)
    with pytest.raises(DataError, match=r"x\.jsonl does not exist"):
        Documents(train=(str(tmp_path / "x.jsonl"),)).open(tmp_path, quiet)


def test_tokens_of_every_kind_of_file(files, tmp_path_factory, monkeypatch):
    spool = tmp_path_factory.mktemp("spool")
    monkeypatch.setattr(tempfile, "tempdir", str(spool))
    model = tokenizer.train(TEXTS, 320)
    speaker = Tokenizer(model)
    expected = np.concatenate(list(speaker.encode_documents(TEXTS[:300])))
    tokens = local.tokens_of(files / "a.jsonl", speaker)
    assert not list(spool.iterdir())
    assert np.array_equal(tokens[:], expected) and len(tokens) == len(expected)
    assert np.array_equal(tokens[5:900], expected[5:900])

    (files / "t.txt").write_text(TEXTS[0])
    assert speaker.decode(local.tokens_of(files / "t.txt", speaker)[:]) == TEXTS[0]

    (path,) = shards.write(files / "x_val_%06d.bin", [expected])
    (files / "x_val_bytes_000000.bin").write_bytes(path.read_bytes())
    assert np.array_equal(local.tokens_of(path, speaker)[:], expected)
    assert np.array_equal(local.tokens_of(files, speaker)[:], expected)

    (path,) = shards.write(files / "y_val_%06d.bin", [np.append(expected, 320)])
    with pytest.raises(DataError, match="beyond the vocabulary of 320"):
        local.tokens_of(path, speaker)
    (files / "own.csv").write_text("a")
    with pytest.raises(DataError, match="ends in none of"):
        local.tokens_of(files / "own.csv", speaker)
    (files / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="no text in there"):
        local.tokens_of(files / "empty.jsonl", speaker)


@pytest.mark.parametrize("characters", [0, 1, 30, 500, 10**6])
def test_thinned_text_is_enough_and_from_all_over(characters):
    texts = [f"{n:03}" * (1 + n % 3) for n in range(300)]
    kept = local.thinned(iter(texts), characters)
    places = [texts.index(text) for text in kept]
    assert len({right - left for left, right in itertools.pairwise(places)}) <= 1 and places[0] == 0
    assert min(characters, sum(map(len, texts))) <= sum(map(len, kept)) <= 3 * characters + 9


def test_thinning_keeps_a_document_that_holds_nearly_all_there_is():
    assert local.thinned(["a", "b" * 1000, "c", "d"], 100) == ["a", "b" * 1000, "c", "d"]


def test_tokens_that_are_wanted_of_a_large_file(files):
    speaker = Tokenizer(tokenizer.train(TEXTS, 320))
    every, few = local.tokens_of(files / "a.jsonl", speaker), local.tokens_of(files / "a.jsonl", speaker, wanted=100)
    assert 100 < len(few) < len(every) / 2
