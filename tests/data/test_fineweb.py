from pathlib import Path

import pytest

from golf.contracts import DataError, SpecError
from golf.data import shards, tokenizer
from golf.data.fineweb import FineWeb
from golf.data.tokenizer import Tokenizer

TEXTS = [f"Page {n} sells {n % 31} kinds of tea from town {n % 7}. " * 4 for n in range(300)]


def quiet(event):
    pass


@pytest.fixture(scope="module")
def model():
    return tokenizer.train(TEXTS, 320)


@pytest.fixture
def folder(tmp_path, model):
    """What fetching leaves: three training shards, one of validation with its sidecar, the tokenizer."""
    home = tmp_path / "fineweb" / "sp320"
    arrays = list(Tokenizer(model).encode_documents(TEXTS))
    shards.write(home / "fineweb_train_%06d.bin", arrays[50:], 6000)
    (val,) = shards.write(home / "fineweb_val_%06d.bin", arrays[:50])
    (home / "fineweb_val_bytes_000000.bin").write_bytes(val.read_bytes())
    (home / "fineweb_320_bpe.model").write_bytes(model)
    return home


def test_published_shards_are_found_in_the_cache(folder, tmp_path):
    made = FineWeb(tokenizer="sp320").open(tmp_path, quiet)
    assert [path.name for path in made.val] == ["fineweb_val_000000.bin"]
    assert [path.name for path in made.train] == [f"fineweb_train_{n:06d}.bin" for n in range(len(made.train))]
    assert len(made.train) >= 3
    assert (made.vocab, made.bos, made.tokenizer_counted, made.name) == (320, 1, False, "fineweb_sp320")
    two = FineWeb(tokenizer="sp320", folder=str(folder), train_shards=2).open(tmp_path / "nowhere", quiet)
    assert two.train == made.train[:2] and two.sha256 != made.sha256


def test_the_published_layout_is_understood(folder, tmp_path):
    home = tmp_path / "export" / "datasets" / "fineweb10B_sp320"
    home.parent.mkdir(parents=True)
    folder.rename(home)
    (tmp_path / "export" / "tokenizers").mkdir()
    (home / "fineweb_320_bpe.model").rename(tmp_path / "export" / "tokenizers" / "fineweb_320_bpe.model")
    made = FineWeb(tokenizer="sp320", folder=str(home)).open(tmp_path, quiet)
    assert made.tokenizer.parent.name == "tokenizers"


def test_the_digest_notices_changes_it_samples(folder, tmp_path):
    spec = FineWeb(tokenizer="sp320")
    before = spec.open(tmp_path, quiet).sha256
    assert spec.open(tmp_path, quiet).sha256 == before
    for name in ("fineweb_val_000000.bin", "fineweb_train_000001.bin"):
        path = folder / name
        kept = path.read_bytes()
        path.write_bytes(kept[:-2] + bytes([kept[-2] ^ 1]) + kept[-1:])
        assert spec.open(tmp_path, quiet).sha256 != before
        path.write_bytes(kept)
    assert spec.open(tmp_path, quiet).sha256 == before


def test_ids_beyond_the_tokenizer_are_refused(folder, tmp_path):
    path = folder / "fineweb_train_000001.bin"
    path.write_bytes(path.read_bytes()[:-2] + (320).to_bytes(2, "little"))
    with pytest.raises(DataError, match=r"000001\.bin holds token id 320 at position .* vocabulary of 320"):
        FineWeb(tokenizer="sp320").open(tmp_path, quiet)


def test_ids_of_another_tokenizer_are_refused(tmp_path):
    texts = [path.read_text() for path in sorted(Path(tokenizer.__file__).parents[1].rglob("*.py"))]
    small, large = tokenizer.train(texts, 600), tokenizer.train(texts, 2000)
    for split in ("train", "val"):
        shards.write(tmp_path / f"fineweb_{split}_%06d.bin", Tokenizer(small).encode_documents(texts))
    (tmp_path / "fineweb_600_bpe.model").write_bytes(small)
    (tmp_path / "fineweb_2000_bpe.model").write_bytes(large)
    FineWeb(tokenizer="sp600", folder=str(tmp_path)).open(tmp_path, quiet)
    with pytest.raises(DataError, match="use the tokenizer the shard was made with"):
        FineWeb(tokenizer="sp2000", folder=str(tmp_path)).open(tmp_path, quiet)


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(DataError, match=r"no folder .*; run `golf data fetch --tokenizer sp1024`"):
        FineWeb().open(tmp_path / "none", quiet)
    with pytest.raises(DataError, match=r"no fineweb_1024_bpe\.model beside"):
        FineWeb(folder=str(folder)).open(tmp_path, quiet)
    (folder / "fineweb_val_000000.bin").unlink()
    with pytest.raises(DataError, match=r"no \*_val_\*\.bin shards"):
        FineWeb(tokenizer="sp320").open(tmp_path, quiet)


def test_spec_bounds():
    with pytest.raises(SpecError, match=r"data\.tokenizer='gpt2'"):
        FineWeb(tokenizer="gpt2")
    with pytest.raises(SpecError, match=r"data\.train_shards=0"):
        FineWeb(train_shards=0)
