import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from golf.contracts import DataError
from golf.data import tokenizer
from golf.data.documents import read
from golf.data.tokenizer import Tokenizer, byte_table

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
STOCK = sorted((SHARED / "tokenizers").glob("*.model"))
REVIEWS = SHARED / "reviews" / "docs_val.jsonl.zst"
TEXTS = [path.read_text() for path in sorted((ROOT / "golf" / "data").glob("*.py"))]
needs_shared = pytest.mark.skipif(not STOCK, reason="the challenge's tokenizers are not on this machine")


@pytest.fixture(scope="module")
def model():
    return tokenizer.train(TEXTS, 600)


@pytest.fixture(scope="module")
def speaker(model):
    return Tokenizer(model)


def slow_bytes(model: Path | bytes) -> list[tuple[int, bool, bool]]:
    """(bytes, opens with a space, bounds the text) of each token, in the words of the field rules."""
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model if isinstance(model, bytes) else model.read_bytes())
    rows = []
    for token in range(len(processor)):
        piece = processor.IdToPiece(token)
        if processor.IsControl(token) or processor.IsUnknown(token) or processor.IsUnused(token):
            rows.append((0, False, True))
        elif processor.IsByte(token):
            rows.append((1, False, False))
        else:
            opens = piece[0] == "\u2581"
            spelled = piece[1:] if opens else piece
            rows.append((sum(1 if c == "\u2581" else len(c.encode()) for c in spelled), opens, False))
    return rows


@settings(max_examples=300, deadline=None)
@given(st.text())
@example("\u2581a \u2581\u2581")
@example(" \n\t  \r\n\x00\u2028\ufeff")
@example("<0x41><s></s><unk><pad>")
@example("e\u0301 \u00e9 \ufb01 \u3000 \U0001f600\ufffd")
def test_decode_of_encode_is_the_text(speaker, text):
    ids = speaker.encode(text)
    assert ids.dtype == np.int64
    assert speaker.decode(ids) == text
    assert not np.isin(ids, [tokenizer.PAD, tokenizer.BOS, tokenizer.EOS, tokenizer.UNK]).any()


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1).filter(lambda text: text[0] != " "))
def test_bytes_of_tokens_are_the_bytes_of_the_text(speaker, model, text):
    table = byte_table(model)
    ids = np.concatenate([[speaker.bos], speaker.encode(text)])
    assert table.count(ids[:-1], ids[1:]).sum() == len(text.encode())


def test_reserved_ids_and_runs_of_spaces(model, speaker):
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert [processor.id_to_piece(i) for i in range(4)] == ["<pad>", "<s>", "</s>", "<unk>"]
    assert speaker.vocab == 600 and speaker.bos == 1
    assert len(speaker.encode("        ")) == 1


def test_training_is_deterministic(model):
    assert tokenizer.train(iter(TEXTS), 600) == model


def test_training_does_not_skip_texts_with_tabs():
    texts = [text.replace("    ", "\t") for text in TEXTS]
    speaker = Tokenizer(tokenizer.train(texts, 600))
    assert len(speaker.encode("frozen dataclass")) < 10


def test_training_stops_reading_at_its_limit(monkeypatch):
    monkeypatch.setattr(tokenizer, "TRAIN_CHARS", 100)
    texts = iter(["a" * 60, "b" * 60, "c" * 60])
    assert list(tokenizer._training_texts(texts)) == ["a" * 60, "b" * 60]
    assert next(texts, None) is None


@pytest.mark.parametrize(("texts", "vocab"), [([], 600), ([""], 600), (["short"], 600), (TEXTS, 100)])
def test_untrainable_text_is_refused(texts, vocab):
    with pytest.raises(DataError, match=f"vocab={vocab}"):
        tokenizer.train(texts, vocab)


def test_documents_begin_with_bos_and_do_not_depend_on_batches(speaker, monkeypatch):
    texts = ["alpha beta", "", "\u2581", *TEXTS[:5]]
    whole = [ids.tolist() for ids in speaker.encode_documents(iter(texts))]
    assert whole == [[speaker.bos, *speaker.encode(text).tolist()] for text in texts]
    monkeypatch.setattr(tokenizer, "BATCH_CHARS", 5)
    assert [ids.tolist() for ids in speaker.encode_documents(texts)] == whole


@needs_shared
@pytest.mark.parametrize("path", STOCK, ids=lambda path: path.stem)
def test_byte_table_of_the_challenge_tokenizers(path):
    table = byte_table(path)
    slow = slow_bytes(path)
    assert table.vocab == len(slow)
    assert table.bytes_V.tolist() == [row[0] for row in slow]
    assert table.opens_V.tolist() == [row[1] for row in slow]
    assert table.boundary_V.tolist() == [row[2] for row in slow]
    speaker = Tokenizer(path)
    documents = list(itertools.islice(read(REVIEWS), 200))
    counted = 0
    for ids in speaker.encode_documents(documents):
        if tokenizer.UNK in ids:  # decodes to a placeholder, but spells nothing
            continue
        ids = np.append(ids, speaker.bos)
        assert table.count(ids[:-1], ids[1:]).sum() == len(speaker.decode(ids).encode())
        counted += 1
    assert counted > 100


def test_byte_table_of_a_trained_tokenizer(model):
    table = byte_table(model)
    assert list(zip(table.bytes_V.tolist(), table.opens_V.tolist(), table.boundary_V.tolist())) == slow_bytes(model)


def varint(number: int) -> bytes:
    return bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])


def test_byte_table_needs_the_marker_as_a_piece(model):
    """The same model with the lone marker renamed: what a vocabulary without it looks like."""
    piece = "\u2581".encode()
    lone = b"\x0a" + varint(len(piece)) + piece + b"\x15"
    assert model.count(lone) == 1
    with pytest.raises(DataError, match="none that is"):
        byte_table(model.replace(lone, b"\x0a\x03\xe2\x82\xac\x15"))


def test_unused_pieces_spell_nothing():
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=made, model_type="bpe", vocab_size=400, minloglevel=2,
        byte_fallback=True, control_symbols=["<ctl>"], user_defined_symbols=["\u2581\u2581x"],
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
    table = byte_table(made.getvalue())
    control, defined = processor.piece_to_id("<ctl>"), processor.piece_to_id("\u2581\u2581x")
    assert (table.bytes_V[control], table.opens_V[control], table.boundary_V[control]) == (0, False, True)
    assert (table.bytes_V[defined], table.opens_V[defined]) == (2, True)


def test_ids_go_into_the_narrower_type_that_holds_them():
    assert [tokenizer.id_type(vocab) for vocab in (2, 1 << 16, (1 << 16) + 1, 151_665)] == [
        np.uint16, np.uint16, np.uint32, np.uint32,
    ]  # fmt: skip


def test_documents_may_begin_with_id_zero_but_not_with_none():
    def trained(bos):
        made = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS), model_writer=made, model_type="bpe", vocab_size=400, minloglevel=2,
            byte_fallback=True, bos_id=bos, unk_id=1, eos_id=-1,
        )  # fmt: skip
        return made.getvalue()

    assert Tokenizer(trained(0)).bos == 0
    with pytest.raises(DataError, match="no BOS piece"):
        Tokenizer(trained(-1))


def test_foreign_files_are_refused(tmp_path, model):
    (tmp_path / "x.model").write_bytes(b"nonsense")
    for source in (tmp_path / "x.model", b"", model[: len(model) // 2]):
        with pytest.raises(DataError, match="is no SentencePiece model"):
            Tokenizer(source)
    with pytest.raises(DataError, match="does not exist"):
        Tokenizer(tmp_path / "y.model")


def test_shards_of_another_tokenizer_are_noticed(speaker):
    ids = np.concatenate(list(speaker.encode_documents(TEXTS[:8])))
    speaker.check_spelled(ids, Path("a.bin"))
    speaker.check_spelled(ids[333:], Path("a.bin"))
    other = Tokenizer(tokenizer.train(TEXTS, 2000))
    with pytest.raises(DataError, match=r"of the first \d+ tokens of a\.bin the tokenizer would give only"):
        other.check_spelled(ids, Path("a.bin"))


@needs_shared
def test_shards_of_another_challenge_tokenizer_are_noticed():
    small, large = (Tokenizer(STOCK[0].parent / f"fineweb_{n}_bpe.model") for n in (1024, 2048))
    ids = np.concatenate(list(small.encode_documents(itertools.islice(read(REVIEWS), 20))))
    small.check_spelled(ids, Path("a.bin"))
    with pytest.raises(DataError, match="use the tokenizer the shard was made with"):
        large.check_spelled(ids, Path("a.bin"))
