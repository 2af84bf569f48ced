import json
from dataclasses import replace

import pytest

from golf.contracts import DataError
from golf.data import corpus, shards
from golf.data.corpus import Source
from golf.data.tokenizer import Tokenizer

TRAIN = [f"Document {n} speaks of apples, pears and plums. " * 5 for n in range(50)]
VAL = ["A document of pears.", "Another one, of plums."]
SOURCE = Source(name="fruit", train=lambda: iter(TRAIN), val=lambda: iter(VAL), vocab=300)


def quiet(event):
    pass


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_corpus_is_complete_and_found_again(tmp_path):
    made = corpus.prepare(tmp_path / "c", lambda: SOURCE, quiet)
    assert files(tmp_path) == {"c"} | {
        f"c/{name}" for name in ("manifest.json", "tokenizer.model", "fruit_train_000000.bin", "fruit_val_000000.bin")
    }
    assert Tokenizer(made.tokenizer).decode(shards.Tokens(made.val)[:]) == "".join(VAL)
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_bytes())
    assert manifest["splits"]["val"] == {
        "documents": 2, "bytes": len("".join(VAL)), "tokens": len(shards.Tokens(made.val))
    }  # fmt: skip
    assert corpus.prepare(tmp_path / "c", lambda: pytest.fail("prepared again"), quiet) == made


def test_the_digest_knows_texts_order_and_split(tmp_path):
    def digest(name, train, val):
        source = replace(SOURCE, train=lambda: train, val=lambda: val)
        return corpus.prepare(tmp_path / name, lambda: source, quiet).sha256

    base = digest("a", TRAIN, VAL)
    assert digest("b", TRAIN, VAL) == base
    others = [(TRAIN[::-1], VAL), (TRAIN, VAL[::-1]), (TRAIN, ["".join(VAL)]), (TRAIN + VAL[:1], VAL[1:])]
    assert len({base, *(digest(f"o{n}", *sides) for n, sides in enumerate(others))}) == 5


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "fruit_val_000000.bin").unlink(),
        lambda folder: (folder / "fruit_val_000000.bin").write_bytes(b"x"),
        lambda folder: (folder / "tokenizer.model").write_bytes(b"x"),
        lambda folder: (folder / "manifest.json").write_bytes(b"{"),
        lambda folder: (folder / "manifest.json").write_bytes(b"{}"),
        lambda folder: (folder / "manifest.json").unlink(),
    ],
)
def test_an_altered_corpus_is_prepared_anew(tmp_path, damage):
    made = corpus.prepare(tmp_path / "c", lambda: SOURCE, quiet)
    damage(tmp_path / "c")
    assert corpus.reopen(tmp_path / "c") is None
    events = []
    assert corpus.prepare(tmp_path / "c", lambda: SOURCE, events.append) == made
    assert "altered corpus replaced" in [event.values["what"] for event in events]
    assert len(files(tmp_path)) == 5


def test_a_failed_preparation_leaves_nothing(tmp_path):
    def failing():
        yield TRAIN[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        corpus.prepare(tmp_path / "c", lambda: replace(SOURCE, val=failing), quiet)
    with pytest.raises(DataError, match="val split of corpus fruit is empty"):
        corpus.prepare(tmp_path / "c", lambda: replace(SOURCE, val=lambda: iter([])), quiet)
    for readable in (0, 1):  # a malformed file is named as what it is, not as an empty split

        def malformed(readable=readable):
            yield from TRAIN[:readable]
            raise DataError(f"v.jsonl line {readable + 1} is not JSON")

        with pytest.raises(DataError, match=f"^v.jsonl line {readable + 1} is not JSON"):
            corpus.prepare(tmp_path / "c", lambda: replace(SOURCE, val=malformed), quiet)
    assert not files(tmp_path)


def test_two_preparations_at_once_agree(tmp_path):
    """The second finishes while the first is still building, as two runs started together would."""

    def slow():
        made.append(corpus.prepare(tmp_path / "c", lambda: SOURCE, quiet))
        return SOURCE

    made = []
    assert corpus.prepare(tmp_path / "c", slow, quiet) == made[0]
    assert len(files(tmp_path)) == 5


def test_a_tokenizer_of_another_size_is_refused(tmp_path):
    made = corpus.prepare(tmp_path / "c", lambda: SOURCE, quiet)
    given = replace(SOURCE, tokenizer=made.tokenizer.read_bytes())
    again = corpus.prepare(tmp_path / "d", lambda: given, quiet)
    assert not again.tokenizer_counted and again.tokenizer_sha256 == made.tokenizer_sha256
    with pytest.raises(DataError, match=r"has 300 pieces where data\.vocab=301; set data\.vocab=300"):
        corpus.prepare(tmp_path / "e", lambda: replace(given, vocab=301), quiet)
