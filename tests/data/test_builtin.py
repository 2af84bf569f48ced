import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from golf.contracts import DataError, SpecError
from golf.data import builtin, shards
from golf.data.builtin import BuiltIn
from golf.data.tokenizer import Tokenizer

SOURCE = b'''
"""Module text."""
import x

def f():
    r"""Raw \\n text."""
    """Second statement."""
    if x:
        class C:
            \'\'\'Inner text.\'\'\'
    else:
        async def g():
            "One line."
            return "not documentation"

add_docstr(x.abs, "Of a call. " + """And {more}.""".format(more="format words"))
some_docs = ["assigned"]
other = "also not"
'''


def test_documentation_is_found_wherever_it_stands():
    found = sorted(builtin.strings(SOURCE, Path("x.py")))
    expected = "Module text.|Raw \\n text.|Second statement.|Inner text.|One line.|Of a call. |And {more}."
    assert found == sorted([*expected.split("|"), "format words", "assigned"])


def test_nothing_is_executed_and_broken_files_are_named():
    assert list(builtin.strings(b"raise SystemExit\n'kept'", Path("x.py"))) == ["kept"]
    with pytest.raises(DataError, match=r"x\.py is no Python"):
        list(builtin.strings(b"def :", Path("x.py")))


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("\n    First line.\n\n        Indented.\n    Back.\n    ", "First line.\n\n    Indented.\nBack."),
        ("First.\n    Second.\n      Third.", "First.\nSecond.\n  Third."),
        ("a\r\nb\rc\td", "a\nb\nc       d"),
        ("a  \n\n\n\n\nb\x00\x1b\x0c\u2581\ud800", "a\n\nb"),
        ("", ""),
    ],
)
def test_normalize(text, normal):
    assert builtin.normalize(text) == normal
    assert builtin.normalize(normal) == normal


def words(prefix, count):
    return " ".join(f"{prefix}{i}" for i in range(count))


def slow_passages(texts, length=builtin.SHINGLE_WORDS):
    """All runs of `length` words, joined: independent of the hashing in the split."""
    found = set()
    for text in texts:
        parts = text.split()
        found.update(" ".join(parts[i : i + length]) for i in range(len(parts) - length + 1))
    return found


def test_split_separates_texts_that_share_a_passage():
    def validates(text):
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[-4:], "big") < 0.3 * 2**32

    shared = words("s", builtin.SHINGLE_WORDS)
    texts = [
        f"{words(f'a{n}_', 20)} {shared if n % 3 == 0 else words('s', builtin.SHINGLE_WORDS - 1)}" for n in range(300)
    ]
    train, val = builtin.split(texts, 0.3)
    assert set(val) <= set(filter(validates, texts)) and not set(map(validates, train)) - {False}
    assert sum(shared in text for text in val) == 1 and not any(shared in text for text in train)
    # One word less is no passage: those texts all stay, in their order.
    rest = [text for text in texts if shared not in text]
    assert [text for text in texts if text in set(train) and shared not in text] == train
    assert len(train) + len(val) == len(rest) + 1
    assert not slow_passages(train) & slow_passages(val)


def test_order_and_text_do_not_depend_on_place_or_file_order(tmp_path, monkeypatch):
    first, second = tmp_path / "one", tmp_path / "elsewhere" / "two"
    for n in range(12):
        path = first / f"m{n % 3}" / f"f{n}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"""{words(f"w{n % 10}_", 40)}"""\n')
    (first / "tests").mkdir()
    (first / "tests" / "t.py").write_text(f'"""{words("skipped", 40)}"""\n')
    shutil.copytree(first, second)
    (second / "m0" / "f0.py").rename(second / "m0" / "z.py")

    class Found:
        def __init__(self, folder):
            self.submodule_search_locations = [str(folder)]

    texts = []
    for folder in (first, second):
        monkeypatch.setattr(builtin.importlib.util, "find_spec", lambda name, folder=folder: Found(folder))
        texts.append(builtin.read_packages(lambda event: None))
    assert texts[0] == texts[1] and len(texts[0]) == 10  # two of the twelve were duplicates
    assert texts[0] == sorted(texts[0], key=lambda text: hashlib.sha256(text.encode()).digest())


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(builtin.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="package numpy is not installed"):
        builtin.read_packages(lambda event: None)


@pytest.mark.parametrize(("field", "value"), [("vocab", 299), ("vocab", 65537), ("val_share", 0.0), ("val_share", 0.5)])
def test_spec_bounds(field, value):
    with pytest.raises(SpecError, match=f"data.{field}={value}"):
        replace(BuiltIn(), **{field: value})


@pytest.fixture(scope="module")
def texts():
    """All documents of the installed packages: reading them is what takes the time."""
    events = []
    found = builtin.read_packages(events.append)
    assert [event.values["done"] for event in events] == [0, 1, 2, 3]
    return found


@pytest.mark.slow
def test_the_built_in_text_is_large_and_its_splits_are_disjoint(texts):
    train, val = builtin.split(texts, BuiltIn().val_share)
    train_bytes, val_bytes = (sum(len(text.encode()) for text in side) for side in (train, val))
    assert train_bytes + val_bytes >= 6_000_000 and 400_000 <= val_bytes <= 800_000
    assert len(set(train) | set(val)) == len(train) + len(val)
    assert not slow_passages(train) & slow_passages(val)
    passages = [slow_passages([text]) for text in val]
    assert sum(map(len, passages)) == len(set().union(*passages))
    letters = sum(char.isalpha() or char == " " for text in val for char in text)
    assert letters / sum(map(len, val)) > 0.7  # prose, with some formulas and examples


@pytest.mark.slow
def test_the_corpus_is_prepared_once_and_spells_the_text(tmp_path, texts, monkeypatch):
    spec = BuiltIn(vocab=512)
    train, val = builtin.split(texts, spec.val_share)
    monkeypatch.setattr(builtin, "read_packages", lambda sink: texts)
    events = []
    corpus = spec.open(tmp_path, events.append)
    assert {event.values["what"] for event in events} == {"tokenizer", "shards"}
    assert (corpus.name, corpus.vocab, corpus.bos, corpus.tokenizer_counted) == ("builtin", 512, 1, True)
    assert hashlib.sha256(corpus.tokenizer.read_bytes()).hexdigest() == corpus.tokenizer_sha256
    speaker = Tokenizer(corpus.tokenizer)
    for side, paths in ((train, corpus.train), (val, corpus.val)):
        ids = shards.Tokens(paths, corpus.vocab)[:]
        assert ids[0] == corpus.bos and (ids == corpus.bos).sum() == len(side)
        assert speaker.decode(ids) == "".join(side)

    expected = hashlib.sha256()
    for name, side in (("train", train), ("val", val)):
        expected.update(name.encode())
        for text in side:
            expected.update(len(text.encode()).to_bytes(8, "little") + text.encode())
    assert corpus.sha256 == expected.hexdigest()

    monkeypatch.setattr(builtin, "read_packages", lambda sink: pytest.fail("the corpus was prepared a second time"))
    assert spec.open(tmp_path, events.append) == corpus
