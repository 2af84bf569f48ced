import json
import random

import numpy as np
import pytest
import zstandard

from golf.contracts import DataError
from golf.data import dialogues, shards
from golf.data.dialogues import IGNORED, Conversation, Dialogues, DialogueWindows, conversation, encode
from golf.data.local import Documents
from golf.data.mixture import Mixture
from golf.data.stream import Position, TokenStream
from golf.data.tokenizer import EOS, Tokenizer, train


def quiet(event):
    pass


def chat(draw, turns=4):
    words = "ship bread star harbor oven comet sail crust lens".split()
    roles = ["user", "assistant"] * turns
    said = [" ".join(draw.choices(words, k=draw.randrange(2, 9))) + f" {draw.randrange(999)}." for _ in roles]
    return [{"role": role, "content": text} for role, text in zip(roles, said)][: draw.randrange(2, 2 * turns + 1)]


CHATS = [chat(draw) for draw in [random.Random(0)] for _ in range(120)]


def lines(entries):
    return "".join(json.dumps(entry) + "\n" for entry in entries)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chats")
    (folder / "a.jsonl").write_text(lines({"messages": each} for each in CHATS[:60]))
    labels = {"user": "User", "assistant": "Assistant"}
    plain = [{"text": "\n".join(f"{labels[t['role']]}: {t['content']}" for t in each)} for each in CHATS[60:]]
    (folder / "b.jsonl.zst").write_bytes(zstandard.compress(lines(plain).encode()))
    return folder


@pytest.fixture(scope="module")
def corpus(files):
    spec = Dialogues(train=(str(files / "a.jsonl"), str(files / "b.jsonl.zst")), val_share=0.1, vocab=350)
    return spec.open(files / "cache", quiet)


def expected(each, speaker):
    """Tokens and targets of a conversation, spelled out turn by turn."""
    ids, targets, before = [speaker.bos], [False], ""
    for message in each:
        if message["role"] == "user":
            before += f"User: {message['content']}\n"
        else:
            asked = speaker.encode(before + "Assistant:").tolist()
            said = [*speaker.encode(" " + message["content"]).tolist(), EOS]
            ids, targets, before = [*ids, *asked, *said], [*targets, *[False] * len(asked), *[True] * len(said)], "\n"
    if before.strip():
        rest = speaker.encode(before.rstrip("\n")).tolist()
        ids, targets = [*ids, *rest], [*targets, *[False] * len(rest)]
    return ids, targets


def test_only_the_assistant_and_its_end_are_targets(corpus):
    speaker = Tokenizer(corpus.tokenizer)
    for each in CHATS:
        ((ids, targets),) = encode(speaker, [conversation({"messages": each}, "here")])
        assert (ids.tolist(), targets.tolist()) == expected(each, speaker)
        spoken = [speaker.decode(piece) for piece in np.split(ids[targets], np.flatnonzero(ids[targets] == EOS) + 1)]
        assert spoken[:-1] == [" " + m["content"] for m in each if m["role"] == "assistant"] and not spoken[-1]


def test_messages_and_text_spell_the_same(corpus):
    text = "System: Be brief.\nUser: How far?\nAssistant: Nine miles,\nor ten.\nUser: Thanks."
    roles = ["system", "user", "assistant", "user"]
    said = ["Be brief.", "How far?", "Nine miles,\nor ten.", "Thanks."]
    messages = [{"role": role, "content": content} for role, content in zip(roles, said)]
    one, two = conversation({"text": text}, ""), conversation({"messages": messages}, "")
    assert one == two == text and one.turns == two.turns == tuple(zip(roles, said))


def every_target(corpus):
    """Conversation by conversation, what the shards and the mask hold: (first tokens, targets) of each."""
    ids = shards.Tokens(corpus.train)[:]
    mask = np.fromfile(corpus.train[0].parent / "train_supervised.mask", np.uint8).astype(bool)
    begins = np.flatnonzero(ids == corpus.bos)[1:]
    return list(zip(np.split(ids, begins), np.split(mask, begins)))


@pytest.mark.parametrize("seq_len", [8, 40, 300])
def test_windows_hold_every_target_once_and_after_its_own_context(corpus, seq_len):
    """An epoch against the conversations themselves: what stands before a target is what was said before it."""
    windows = DialogueWindows(corpus, corpus.train[0].parent / "train_supervised.mask", seq_len, seed=4)
    ids, targets = windows.pairs(Position(0, 0), windows.count(0))
    assert ids.shape == targets.shape == (windows.count(0), seq_len)
    assert ((targets != IGNORED).sum(axis=1) > 0).all()
    whole = every_target(corpus)
    found = sorted(targets[targets != IGNORED].tolist())
    assert found == sorted(np.concatenate([tokens[marks] for tokens, marks in whole]).tolist())
    texts = {tuple(tokens[max(0, at - 3) : at + 1].tolist()) for tokens, marks in whole for at in np.flatnonzero(marks)}
    for row, column in np.argwhere(targets != IGNORED):
        context = ids[row, max(0, column - 2) : column + 1].tolist()
        if len(context) == 3:
            assert (*context, targets[row, column]) in texts
    if seq_len == 300:  # room is used: next to no BOS padding
        assert windows.count(0) <= 1.15 * sum(len(tokens) for tokens, _ in whole) / seq_len + 1


def test_epochs_differ_and_the_stream_resumes(corpus):
    feed = TokenStream(corpus.draw, seq_len=40, rows=9, seed=1)
    batches = [feed.next() for _ in range(30)]
    state, following = feed.state(), feed.next()
    feed.close()
    assert state["epoch"] >= 1
    again = TokenStream(corpus.draw, seq_len=40, rows=9, seed=1)
    again.restore(state)
    assert all((one == two).all() for one, two in zip(again.next(), following))
    again.close()
    first = batches[0][0]
    assert not any((first == ids).all() for ids, _ in batches[1:])


def test_validation_conversations_are_held_out(corpus):
    speaker, val = Tokenizer(corpus.tokenizer), shards.Tokens(corpus.val)[:]
    known = [expected(each, speaker)[0] for each in CHATS]
    held = [piece.tolist() for piece in np.split(val, np.flatnonzero(val == corpus.bos))[1:]]
    assert held and all(each in known for each in held)
    trained = [tokens.tolist() for tokens, _ in every_target(corpus)]
    assert sorted(trained + held) == sorted(known)


def test_dialogues_mix_by_weight_with_each_other_and_with_text(files, tmp_path):
    (tmp_path / "t.jsonl").write_text(
        lines({"text": f"Plain text {n} about the harbor {n * 7}. " * 4} for n in range(60))
    )
    sources = (
        (2.0, Dialogues(train=(str(files / "a.jsonl"),), val_share=0.1)),
        (1.0, Dialogues(train=(str(files / "b.jsonl.zst"),), val_share=0.1)),
        (1.0, Documents(train=(str(tmp_path / "t.jsonl"),), val_share=0.1)),
    )
    corpus = Mixture(sources=sources, vocab=350).open(tmp_path / "cache", quiet)
    ids, targets = corpus.draw(30, 2).pairs(Position(0, 0), 800)
    masked = (targets == IGNORED).any(axis=1)
    assert masked.mean() == pytest.approx(0.75, abs=0.05)
    assert (targets[~masked][:, :-1] == ids[~masked][:, 1:]).all(), "text is supervised throughout"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"messages": []}', "is no conversation"),
        ('{"text": "no speaker"}', "does not open with a speaker"),
        ('{"text": "Hm. User: hi"}', "does not open with a speaker"),
        ('{"messages": [{"role": "narrator", "content": "x"}]}', "narrator"),
        ('{"messages": [{"role": "user"}]}', "give each a role"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "surrogate"),
        ("[1]", "is no conversation"),
        ("{", "is not JSON"),
    ],
)
def test_lines_that_are_no_conversation_are_named(tmp_path, line, told):
    (tmp_path / "a.jsonl").write_text(lines([{"messages": CHATS[0]}]) + line + "\n")
    with pytest.raises(DataError, match=told) as caught:
        list(dialogues.read(tmp_path / "a.jsonl"))
    assert "a.jsonl line 2" in str(caught.value)


def test_files_that_hold_none_are_named(tmp_path):
    (tmp_path / "a.txt").write_text("User: hi")
    with pytest.raises(DataError, match=r"neither .jsonl nor"):
        list(dialogues.read(tmp_path / "a.txt"))
    with pytest.raises(DataError, match="does not exist"):
        list(dialogues.read(tmp_path / "b.jsonl"))
    silent = [[{"role": "user", "content": f"Hello {n}, who is there in the harbor?"}] for n in range(60)]
    (tmp_path / "c.jsonl").write_text(lines({"messages": each} for each in silent))
    corpus = Dialogues(train=(str(tmp_path / "c.jsonl"),), val_share=0.2, vocab=300).open(tmp_path / "cache", quiet)
    with pytest.raises(DataError, match="no assistant speaks"):
        corpus.draw(32, 0)


def test_a_tokenizer_without_an_end_is_refused():
    speaker = Tokenizer(train([f"Some words {n} to train on, and more." for n in range(200)], 300))
    speaker.eos = -1
    with pytest.raises(DataError, match="no EOS piece"):
        list(encode(speaker, [Conversation([("user", "hi")])]))
