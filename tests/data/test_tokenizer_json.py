"""tokenizer.json files: their ids are those of the library `tokenizers`, their bytes those of the text."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from byte_level import END, lifted, save, trained
from hypothesis import example, given, settings
from hypothesis import strategies as st

from golf.contracts import DataError
from golf.data import dialogues, shards, speaking, tokenizer_json
from golf.data.dialogues import Dialogues
from golf.data.local import Documents, tokens_of
from golf.data.mixture import Mixture
from golf.data.pieces import alphabet
from golf.data.stream import Position
from golf.data.tokenizer_json import JsonTokenizer, TokenizerJson

tokenizers = pytest.importorskip("tokenizers", reason="needs the extra hf")
TEXTS = [path.read_text() for path in sorted((Path(__file__).parents[2] / "golf" / "data").glob("[a-z]*.py"))]
TEXTS.append("naïve – 日本語 😀 \u2581 <tool> " * 20)
ANY = st.text() | st.text(alphabet="ab <|endoftx>😀é\u2581\n\t")


@pytest.fixture(scope="module")
def made():
    made = trained(TEXTS, 600, [END, "<|im_end|>"])
    made.add_tokens(["<tool>"])
    return made


@pytest.fixture(scope="module")
def speaker(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    return JsonTokenizer(save(folder, made, bos_token=END, eos_token={"content": "<|im_end|>"}))


def spelled(speaker, text):
    ids = np.concatenate([[speaker.bos], speaker.encode(text)]).astype(int)
    return int(speaker.table().count(ids[:-1], ids[1:]).sum())


@settings(max_examples=300, deadline=None)
@given(ANY)
@example(f"a{END}b<|im_end|> <tool>  <tool>c")
@example("e\u0301 \u00e9 \ufb01 \u3000 \U0001f600\ufffd\x00")
def test_text_comes_back_and_its_bytes_are_counted(speaker, made, text):
    ids = speaker.encode(text)
    assert ids.dtype == np.int64 and speaker.lossless
    assert speaker.decode(ids) == text == made.decode(ids.tolist(), skip_special_tokens=True)
    assert spelled(speaker, text) == len(text.encode())
    assert not np.isin(ids, [speaker.bos, speaker.eos]).any()
    if END not in text and "<|im_end|>" not in text:
        assert ids.tolist() == made.encode(text, add_special_tokens=False).ids


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 600), max_size=20))
def test_any_ids_decode_as_the_library_decodes_them(speaker, made, ids):
    assert speaker.decode(ids) == made.decode(ids, skip_special_tokens=True)


def test_roles_special_tokens_and_the_alphabet(speaker, made):
    assert (speaker.vocab, speaker.bos, speaker.eos, speaker.pad) == (601, 0, 1, -1)
    assert speaker.table().boundary_V.nonzero()[0].tolist() == [0, 1]
    assert speaker.table().bytes_V[made.token_to_id("<tool>")] == 6
    assert set(alphabet()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert sorted(alphabet().values()) == list(range(256)) and alphabet()["Ġ"] == 32 and alphabet()["Ċ"] == 10


@settings(max_examples=100, deadline=None)
@given(ANY.filter(lambda text: text[:1] != " "))
def test_a_space_before_the_text_is_not_of_it(spaced, text):
    assert spelled(spaced, text) == len(text.encode()) and not spaced.lossless


@pytest.fixture(scope="module")
def spaced(tmp_path_factory):
    made = trained(TEXTS, 400, add_prefix_space=True)
    return JsonTokenizer(save(tmp_path_factory.mktemp("spaced"), made, bos_token=END))


@settings(max_examples=100, deadline=None)
@given(ANY)
@example("e\u0301")
def test_a_normalizer_folds_text_and_says_so(folding, text):
    speaker, made = folding
    assert not speaker.lossless
    folded = made.normalizer.normalize_str(text)
    assert speaker.decode(speaker.encode(text)) == folded
    assert spelled(speaker, text) == len(folded.encode())


@pytest.fixture(scope="module")
def folding(tmp_path_factory):
    made = trained(TEXTS, 400)
    made.normalizer = tokenizers.normalizers.NFC()
    return JsonTokenizer(save(tmp_path_factory.mktemp("folding"), made, bos_token=END)), made


@pytest.fixture(scope="module", params=["Metaspace", "Replace"])
def marked(request, tmp_path_factory):
    """Pieces with a marker for the space and byte pieces, as a Llama's; two ways to say so."""
    space, some = "\u2581", "abcdefghijklmnopqrstuvwxyzé日"
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), space, *some, "th", "the"]
    pieces.append(f"{space}the")
    merges = [("t", "h"), ("th", "e"), (space, "the")]
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {piece: token for token, piece in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True
        )
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    steps = [tokenizers.decoders.Replace(space, " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    made.decoder = tokenizers.decoders.Sequence([*steps, tokenizers.decoders.Strip(" ", 1, 0)])
    if request.param == "Metaspace":
        made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        normalize = [tokenizers.normalizers.Prepend(space), tokenizers.normalizers.Replace(" ", space)]
        made.normalizer = tokenizers.normalizers.Sequence(normalize)
    return JsonTokenizer(save(tmp_path_factory.mktemp("marked"), made, bos_token="<s>", eos_token="</s>"))


@settings(max_examples=100, deadline=None)
@given(ANY.filter(lambda text: text[:1] not in (" ", "\u2581")))
@example("the the  thé 日本 \U0001f600")
def test_pieces_with_a_marker_follow_the_rules_of_sentencepiece(marked, text):
    assert (marked.bos, marked.eos, marked.lossless) == (1, 2, False)
    assert spelled(marked, text) == len(text.replace("\u2581", " ").encode())
    assert marked.decode(marked.encode(text)) == text.replace("\u2581", " ")


def changed(made, **parts):
    found = json.loads(made.to_str())
    for name, value in parts.items():
        place = found if name in found else found["model"]
        place[name] = value
    return found


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre-tokenizer Whitespace drops characters"),
        ({"pre_tokenizer": None}, "neither bytes nor pieces"),
        ({"normalizer": {"type": "ByteLevel"}}, "neither bytes nor pieces"),
        (
            {"pre_tokenizer": None, "normalizer": {"type": "Replace", "pattern": {"String": "x"}, "content": "y"}},
            "neither bytes nor pieces",
        ),
        ({"dropout": 0.1}, "at random"),
        ({"end_of_word_suffix": "</w>"}, "parts of words"),
        ({"type": "WordPiece"}, "its model is WordPiece, not BPE"),
        ({"model": {"type": "Unigram", "vocab": []}}, "is no tokenizer.json of a BPE model"),
        ({"merges": [["a", "nothing"]]}, "cannot be read"),
    ],
)
def test_what_cannot_be_counted_is_refused(made, tmp_path, parts, why):
    with pytest.raises(DataError, match=why) as caught:
        JsonTokenizer(save(tmp_path, changed(made, **parts), bos_token=END))
    assert "\n" not in str(caught.value)


def test_tokens_that_eat_spaces_are_refused(made, tmp_path):
    file = changed(made)
    file["added_tokens"][-1]["lstrip"] = True
    with pytest.raises(DataError, match="'<tool>' with spaces of its own"):
        JsonTokenizer(save(tmp_path, file, bos_token=END))
    file["added_tokens"][-1]["special"] = True  # text never becomes one of these
    assert JsonTokenizer(save(tmp_path, file, bos_token=END)).lossless


def test_a_text_with_bytes_that_have_no_token(tmp_path):
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.train_from_iterator(["abc"], tokenizers.trainers.BpeTrainer(special_tokens=[END], show_progress=False))
    speaker = JsonTokenizer(save(tmp_path, made, bos_token=END))
    assert speaker.decode(speaker.encode("cab")) == "cab" and not speaker.lossless
    with pytest.raises(DataError, match="spells 2 bytes of a text of 3 that begins with 'axb'"):
        speaker.encode("axb")


def test_what_opens_documents_is_said_or_asked_for(made, tmp_path):
    file = save(tmp_path, made)
    with pytest.raises(DataError, match=r"name one with --bos .* such as '<\|endoftext\|>'"):
        speaking.speaker(file)
    with pytest.raises(DataError, match="'the', the bos of tokenizer .* is no special token; there are '<.endoftext"):
        tokenizer_json.read(file, bos="the")
    kept = tokenizer_json.read(file, bos=END, eos="<|im_end|>")
    found = speaking.speaker(kept)
    assert (found.bos, found.eos) == (0, 1)
    (tmp_path / "kept").write_bytes(kept)
    assert tokenizer_json.read(tmp_path / "kept") == kept
    assert speaking.speaker(tokenizer_json.read(tmp_path / "kept", eos=END)).eos == 0
    config = json.loads(tokenizer_json.files(kept)["tokenizer_config.json"])
    assert config == {"bos_token": END, "eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"}


def test_files_come_back_as_they_were(made, tmp_path):
    file = save(tmp_path, made, bos_token=END, eos_token=END, tokenizer_class="PreTrainedTokenizerFast", odd=[1])
    for written in tokenizer_json.write(tmp_path / "out", tokenizer_json.read(file)):
        assert written.read_bytes() == (tmp_path / written.name).read_bytes()


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}', '{"files": {}}', '{"model": {"type": "BPE"}}'])
def test_other_json_is_refused_in_a_sentence(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(DataError, match="tokenizer"):
        speaking.byte_table(tmp_path / "tokenizer.json")


def test_without_the_library(speaker, made, tmp_path, monkeypatch):
    file = save(tmp_path, made, bos_token=END)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.setattr(tokenizer_json, "_OPENED", {})
    with pytest.raises(DataError, match=r"pip install 'golf\[hf\]'"):
        JsonTokenizer(file)


def test_what_a_text_begins_with(speaker, made, tmp_path):
    assert speaker.opening() == END
    opens = tokenizers.Tokenizer.from_str(made.to_str())
    opens.post_processor = tokenizers.processors.TemplateProcessing(f"{END} $A", special_tokens=[(END, 0)])
    assert JsonTokenizer(save(tmp_path, opens, bos_token=END)).opening() == ""


def test_more_rows_than_tokens(made, tmp_path):
    kept = tokenizer_json.widened(tokenizer_json.read(save(tmp_path, made, bos_token=END)), 640)
    wide = speaking.speaker(kept)
    assert wide.vocab == 640 == speaking.byte_table(kept).vocab
    assert wide.table().boundary_V[601:].all() and not wide.table().bytes_V[601:].any()
    assert wide.decode([639, *wide.encode("text")]) == "text"


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Ids from 69,000 on."""
    return save(tmp_path_factory.mktemp("wide"), lifted(trained(TEXTS, 500), 69_000), bos_token=END)


def test_wide_ids_in_shards(wide, tmp_path):
    speaker = JsonTokenizer(wide)
    ids = list(speaker.encode_documents(TEXTS))
    assert ids[0].dtype == np.uint32 and min(map(np.min, ids)) >= 69_000
    paths = shards.write(tmp_path / "x_val_%06d.bin", ids, 5000)
    header = np.fromfile(paths[0], "<i4", 256)
    assert header[:3].tolist() == [20240801, 7, 5000] and not header[3:].any()
    assert paths[0].stat().st_size == 1024 + 4 * 5000
    tokens = shards.Tokens(paths, speaker.vocab)
    assert tokens[:].tolist() == np.concatenate(ids).tolist() and np.shares_memory(tokens[5:9], tokens.shards[0])
    speaker.check_spelled(shards.read(paths[0]), paths[0])
    (tmp_path / "text.txt").write_text(TEXTS[0])
    assert tokens_of(tmp_path / "text.txt", speaker)[:].tolist() == ids[0].tolist()
    with pytest.raises(DataError, match="would give only"):
        letters = [int(speaker.encode(char)[0]) for char in "def return self"]
        speaker.check_spelled(np.array(letters * 20, np.uint32), paths[0])


def test_narrow_arrays_do_not_take_wide_ids(tmp_path):
    with pytest.raises(DataError, match=r"token ids 70000..70000 do not fit 0..65535; write them as uint32"):
        shards.write(tmp_path / "x_val_%06d.bin", [np.array([70_000])])


def test_corpora_of_recipes(wide, tmp_path):
    text = tmp_path / "a.jsonl"
    text.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 3))
    name = TokenizerJson(file=str(wide))
    plain = Documents(train=(str(text),), tokenizer=name, vocab=JsonTokenizer(wide).vocab, val_share=0.3)
    made = plain.open(tmp_path / "cache", lambda event: None)
    assert made.vocab == 69_500 and not made.tokenizer_counted and made.bos == 69_000
    assert made.speaker(made.tokenizer).table().vocab == 69_500 and shards.read(made.val[0]).dtype == np.uint32
    assert plain.open(tmp_path / "cache", lambda event: None) == made
    mixed = Mixture(sources=((1.0, plain),), tokenizer=name, vocab=69_500).open(tmp_path / "cache", lambda event: None)
    ids, targets = mixed.draw(16, 0).pairs(Position(0, 0), 3)
    assert ids.min() >= 69_000 and (ids[:, 1:] == targets[:, :-1]).all()
    with pytest.raises(DataError, match=r"write tokenizer=TokenizerJson\(file="):
        Documents(train=(str(text),), tokenizer=str(wide), vocab=69_500).open(tmp_path / "cache", lambda event: None)



def test_conversations(made, tmp_path):
    chats = [("user", "Is it 日本?"), ("assistant", "It is <|im_end|>."), ("user", "Sure?"), ("assistant", "Yes.")]
    lines = [json.dumps({"messages": [{"role": role, "content": said} for role, said in chats]})] * 30
    (tmp_path / "chats.jsonl").write_text("\n".join(lines))
    name = TokenizerJson(file=str(save(tmp_path, lifted(made, 69_000))), bos=END, eos="<|im_end|>")
    data = Dialogues(train=(str(tmp_path / "chats.jsonl"),), val=(str(tmp_path / "chats.jsonl"),), vocab=69_601)
    with pytest.raises(DataError, match="one token opens documents and ends turns"):
        list(dialogues.encode(JsonTokenizer(replace(name, eos=END).read()), dialogues.read(tmp_path / "chats.jsonl")))
    lines = [json.dumps({"text": f"User: {n}\nAssistant: {n} <|im_end|> 日."}) for n in range(30)]
    (tmp_path / "more.jsonl").write_text("\n".join(lines))
    data = replace(data, train=(str(tmp_path / "more.jsonl"),), tokenizer=name)
    corpus = data.open(tmp_path / "cache", lambda event: None)
    speaker = corpus.speaker(corpus.tokenizer)
    ids, targets = corpus.draw(64, 0).pairs(Position(0, 0), 1)
    assert ids.min() >= 69_000
    answers = speaker.decode(targets[targets != dialogues.IGNORED])
    assert answers.startswith(" ") and answers.count("<|im_end|> 日.") == (targets == speaker.eos).sum() > 1
