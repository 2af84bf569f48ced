import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.contracts import DataError, SpecError
from golf.data import shards
from golf.data.fineweb import FineWeb
from golf.data.local import Documents
from golf.data.mixture import PERIOD, MixedWindows, Mixture, apportion, interleave
from golf.data.stream import SAMPLE_EPOCH, Position, TokenStream, Windows, sample
from golf.data.tokenizer import Tokenizer


def quiet(event):
    pass


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


# Each source has words of its own, so that a window tells where it is from.
WORDS = {"ships": "harbor sail anchor mast", "bread": "flour oven yeast crust", "stars": "comet orbit lens dusk"}
TEXTS = {
    name: [f"{name} {n}: " + " ".join(f"{w} {n * k % 19}" for k, w in enumerate(words.split() * 6)) for n in range(80)]
    for name, words in WORDS.items()
}


@pytest.fixture
def mixture(tmp_path):
    parts = [(weight, Documents(train=(write(tmp_path / f"{name}.jsonl", TEXTS[name]),), val_share=0.1))
             for weight, name in ((5, "ships"), (3, "bread"), (2, "stars"))]  # fmt: skip
    return Mixture(sources=tuple(parts), vocab=330)


def origin(text):
    return max(WORDS, key=lambda name: sum(text.count(word) for word in WORDS[name].split()))


def test_windows_come_by_weight_and_validation_from_all(mixture, tmp_path):
    corpus = mixture.open(tmp_path / "cache", quiet)
    speaker = Tokenizer(corpus.tokenizer)
    assert corpus.name == "mixture" and corpus.vocab == 330 and corpus.tokenizer_counted
    (ids,) = sample(corpus.draw, count=600, rows=600, seq_len=32, seed=1)
    seen = Counter(origin(speaker.decode(row)) for row in ids)
    assert seen["ships"] == pytest.approx(300, abs=40) and seen["stars"] == pytest.approx(120, abs=40)
    val = shards.Tokens(corpus.val)[:]
    texts = [speaker.decode(piece) for piece in np.split(val, np.flatnonzero(val == corpus.bos))[1:]]
    assert set(map(origin, texts)) == set(WORDS)
    assert shards.find(corpus.val[0].parent, "val") == corpus.val, "one folder holds the validation text"


def test_the_same_files_are_not_prepared_again_and_a_changed_one_is(mixture, tmp_path):
    first = mixture.open(tmp_path / "cache", quiet)
    assert mixture.open(tmp_path / "cache", quiet).sha256 == first.sha256
    folders = sorted(path.name for path in (tmp_path / "cache" / "corpora").iterdir())
    assert len(folders) == 5  # three sources, their tokenizer, their validation text side by side
    heavier = replace(
        mixture, sources=((1, mixture.sources[0][1]), *mixture.sources[1:]), tokenizer=str(first.tokenizer)
    )
    assert heavier.open(tmp_path / "cache", quiet).sha256 == first.sha256, "weights do not change the text"
    write(tmp_path / "stars.jsonl", TEXTS["stars"][:-1])
    assert mixture.open(tmp_path / "cache", quiet).sha256 != first.sha256


def test_what_validates_anywhere_is_trained_on_nowhere(tmp_path):
    one = Documents(
        train=(write(tmp_path / "a.jsonl", TEXTS["ships"]),), val=(write(tmp_path / "v.jsonl", TEXTS["bread"][:9]),)
    )
    two = Documents(
        train=(write(tmp_path / "b.jsonl", TEXTS["bread"]),), val=(write(tmp_path / "w.jsonl", TEXTS["ships"][:7]),)
    )
    corpus = Mixture(sources=((1.0, one), (1.0, two)), vocab=330).open(tmp_path / "cache", quiet)
    counts = [int((shards.Tokens([path])[:] == corpus.bos).sum()) for path in corpus.train]
    assert counts == [80 - 7, 80 - 9]


def test_shards_fix_the_tokenizer(mixture, tmp_path):
    """A tokenized source beside one of text; another tokenizer's shards are refused."""
    plain = mixture.open(tmp_path / "cache", quiet)
    folder = tmp_path / "sp330"
    coded = list(Tokenizer(plain.tokenizer).encode_documents(TEXTS["stars"]))
    shards.write(folder / "fineweb_train_%06d.bin", coded[:60])
    shards.write(folder / "fineweb_val_%06d.bin", coded[60:])
    (folder / "fineweb_330_bpe.model").write_bytes(plain.tokenizer.read_bytes())
    web = FineWeb(tokenizer="sp330", folder=str(folder))
    corpus = Mixture(sources=((0.5, mixture.sources[0][1]), (0.5, web)), vocab=330).open(tmp_path / "cache", quiet)
    assert corpus.tokenizer_sha256 == plain.tokenizer_sha256 and not corpus.tokenizer_counted
    wrong = replace(mixture.sources[1][1], vocab=330).open(tmp_path / "cache", quiet).tokenizer
    with pytest.raises(DataError, match="330 pieces where data.vocab=512; set data.vocab=330"):
        Mixture(sources=((1, web),), vocab=512).open(tmp_path / "cache", quiet)
    with pytest.raises(DataError, match="shards of one mixture need the same"):
        Mixture(sources=((1, web), (1, mixture.sources[0][1])), tokenizer=str(wrong), vocab=330).open(
            tmp_path / "cache", quiet
        )


@pytest.mark.parametrize(
    ("sources", "told"),
    [((), "weights \\[\\]"), (((0.0, None),), "above 0"), (((1.0, None), (-1.0, None)), "above 0"),
     (((1.0, None), (1e-6, None)), "leave it out")],
)  # fmt: skip
def test_weights_that_cannot_work_are_named(sources, told):
    with pytest.raises(SpecError, match=told):
        Mixture(sources=sources)


# ---------------------------------------------------------------------------------------------- the order of windows


@pytest.fixture
def parts(tmp_path):
    """Three sources of counted tokens, the last so small that it comes round again and again."""
    made = []
    for index, count in enumerate((5000, 3000, 90)):
        ids = np.arange(count, dtype=np.uint16) + 10_000 * index
        (path,) = shards.write(tmp_path / f"p{index}_train_%06d.bin", [ids])
        made.append([path])
    return made


def mixed(parts, weights=(0.5, 0.3, 0.2), seq_len=10, seed=3):
    return MixedWindows(weights, [Windows(part, seq_len, seed + index) for index, part in enumerate(parts)], seed)


def test_each_source_is_read_in_its_own_order(parts):
    """What falls to a source, taken together, is that source's own stream."""
    ids, targets = mixed(parts).pairs(Position(0, 0), 2000)
    assert (targets == ids + 1).all()
    for index, part in enumerate(parts):
        mine = ids[ids[:, 0] // 10_000 == index]
        own, _ = Windows(part, 10, 3 + index).pairs(Position(0, 0), len(mine))
        assert (mine == own).all()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=6))
def test_a_period_keeps_the_shares(weights):
    quotas = apportion(weights, PERIOD)
    assert sum(quotas) == PERIOD
    assert all(abs(quota - weight / sum(weights) * PERIOD) < 1 for quota, weight in zip(quotas, weights))


def test_any_place_can_be_reached_at_once(parts):
    """Reading in pieces, across the border of a period, and far out in the small source's thousandth round."""
    whole = mixed(parts).pairs(Position(0, PERIOD - 50), 100)
    late = mixed(parts)
    pieces = [late.pairs(Position(0, PERIOD - 50), 33), late.pairs(late.advance(Position(0, PERIOD - 50), 33), 67)]
    for part, one in zip(zip(*pieces), whole):
        assert (np.concatenate(part) == one).all()
    again = mixed(parts).pairs(Position(1, 49), 1)[0]
    assert (again == whole[0][99]).all()


def test_ranks_share_the_stream_and_resume(parts):
    def feed(rows, rank=0, world=1):
        return TokenStream(lambda seq_len, seed: mixed(parts, seq_len=seq_len, seed=seed), seq_len=10, rows=rows,
                           seed=5, rank=rank, world=world)  # fmt: skip

    one, ranks = feed(6), [feed(3, rank, 2) for rank in range(2)]
    for _ in range(3):
        ids, _ = one.next()
        assert (ids.numpy() == np.concatenate([rank.next()[0] for rank in ranks])).all()
    state = one.state()
    expected = one.next()[0]
    later = feed(6)
    later.restore(state)
    assert (later.next()[0] == expected).all()
    for each in (one, later, *ranks):
        each.close()


def test_calibration_has_a_shuffle_of_its_own(parts):
    windows = mixed(parts)
    ids, _ = windows.pairs(Position(SAMPLE_EPOCH, 0), 100)
    assert set(ids[:, 0] // 10_000) == {0, 1, 2}
    assert not (ids[:50] == windows.pairs(Position(0, 0), 50)[0]).all()


def test_calibration_goes_round_in_a_source_that_is_small(parts):
    """A source gives all its windows before it gives one again, and batches of any size give the same ones."""
    windows = mixed(parts)
    ids, _ = windows.pairs(Position(SAMPLE_EPOCH, 0), 200)
    alone = [windows.pairs(Position(SAMPLE_EPOCH, place), 1)[0][0] for place in range(200)]
    assert (ids == np.stack(alone)).all()
    own = Windows(parts[2], 10, 5).count(SAMPLE_EPOCH)
    small = ids[ids[:, 0] // 10_000 == 2][:, 0].tolist()
    assert len(small) > 3 * own and len(set(small[:own])) == own
    assert small[own : 3 * own] == 2 * small[:own]


def test_texts_interleave_by_characters():
    texts = list(interleave([3, 1], [["a" * 10] * 30, ["b" * 5] * 100]))
    begin = texts[:40]
    share = sum(map(len, [t for t in begin if t[0] == "a"])) / sum(map(len, begin))
    assert share == pytest.approx(0.75, abs=0.05)
    assert sorted(texts) == sorted(["a" * 10] * 30 + ["b" * 5] * 100)
