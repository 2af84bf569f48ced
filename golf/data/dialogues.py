"""Conversations for supervised fine-tuning: only what the assistant says, and what ends its turn, is a target.

A conversation is spelled `BOS User: ...\nAssistant: ... EOS\nUser: ...`, speaker by speaker, so that the assistant's
tokens are those a reader of the prompt up to `Assistant:` would have to produce. Shards hold the tokens, a file
beside them one byte for each: whether it is a target.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from golf.contracts import Corpus, DataError, Sink
from golf.data import documents
from golf.data.corpus import Source
from golf.data.local import Documents
from golf.data.shards import Tokens
from golf.data.stream import FEISTEL_ROUNDS, Position, Windows, permute
from golf.data.tokenizer import Tokenizer, id_type

IGNORED = -100
MASK = "{split}_supervised.mask"
LABELS = {"system": "System", "user": "User", "assistant": "Assistant"}
SPEAKER = re.compile(rf"^({'|'.join(LABELS.values())}):[ \t]*", re.MULTILINE)
# Conversations encoded at once, and those windows kept open while a conversation looks for the tightest room.
BATCH, OPEN_WINDOWS = 256, 16
SCAN_TOKENS = 1 << 24


class Conversation(str):
    """The text of a conversation, which also knows its turns: (role, what was said)."""

    turns: tuple[tuple[str, str], ...]

    def __new__(cls, turns: Iterable[tuple[str, str]]) -> Conversation:
        turns = tuple(turns)
        made = super().__new__(cls, "\n".join(f"{LABELS[role]}: {said}" for role, said in turns))
        made.turns = turns
        return made

    def segments(self) -> Iterator[tuple[str, bool]]:
        """(text, whether it is the assistant's) in a row; EOS follows each of the assistant's."""
        before = ""
        for role, said in self.turns:
            if role == "assistant":
                yield f"{before}{LABELS[role]}:", False
                yield f" {said}", True
                before = "\n"
            else:
                before += f"{LABELS[role]}: {said}\n"
        if before.strip():
            yield before.rstrip("\n"), False


def read(path: Path) -> Iterator[Conversation]:
    """The conversations of a `.jsonl` or `.jsonl.zst` file, a line each: `{"messages": [{"role": ..., "content":
    ...}, ...]}` or `{"text": "User: ...\\nAssistant: ..."}`.

    Raises DataError naming file and line for anything else.
    """
    if not path.name.endswith((".jsonl", ".jsonl.zst")):
        raise DataError(f"{path} ends in neither .jsonl nor .jsonl.zst; write one conversation a line")
    if not path.is_file():
        raise DataError(f"conversation file {path} does not exist; correct the path")
    for where, entry in documents.entries(path):
        yield conversation(entry, where)


def conversation(entry: Any, where: str) -> Conversation:
    """The conversation of one JSON value. Raises DataError, beginning with `where`, when it is none."""
    match entry:
        case {"messages": list(messages)} if messages:
            return Conversation(_turn(message, where) for message in messages)
        case {"text": str(text)}:
            head, *rest = SPEAKER.split(documents.spelled(text, where))
            if head.strip() or not rest:
                raise DataError(f"{where} does not open with a speaker; begin its text with User: or System:")
            labels = {label: role for role, label in LABELS.items()}
            return Conversation((labels[label], said.strip()) for label, said in zip(rest[::2], rest[1::2]))
    raise DataError(
        f'{where} is no conversation; write {{"messages": [{{"role": "user", "content": ...}}, ...]}} or '
        '{"text": "User: ...\\nAssistant: ..."}'
    )


def _turn(message: Any, where: str) -> tuple[str, str]:
    match message:
        case {"role": str(role), "content": str(said)} if role in LABELS:
            return role, documents.spelled(said, where).strip()
    raise DataError(f"{where} has a message {message!r:.80}; give each a role of {', '.join(LABELS)} and a content")


def encode(tokenizer: Tokenizer, conversations: Iterable[Conversation]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(token ids, whether each is a target) of each conversation, as shards hold them and bool.

    Raises DataError when the tokenizer has no piece to end a turn with.
    """
    eos, waiting = tokenizer.eos, iter(conversations)
    if eos < 0:
        raise DataError("the tokenizer has no EOS piece, which ends every assistant's turn; train one with an eos_id")
    if eos == tokenizer.bos:
        raise DataError("one token opens documents and ends turns; name another for turns, eos= of TokenizerJson")
    while batch := [list(each.segments()) for each in islice(waiting, BATCH)]:
        coded = tokenizer.encode_batch([text for segments in batch for text, _ in segments])
        for segments in batch:
            ids, targets = [np.array([tokenizer.bos])], [np.zeros(1, bool)]
            for (_, supervised), part in zip(segments, coded):
                part = np.append(part, eos) if supervised else part
                ids.append(part)
                targets.append(np.full(len(part), supervised))
            yield np.concatenate(ids).astype(id_type(tokenizer.vocab)), np.concatenate(targets)


@dataclass(frozen=True, kw_only=True)
class Dialogues(Documents):
    """Conversation files as a corpus for supervised fine-tuning; see `read` for what a line holds.

    Its validation text is whole conversations, of which every token is scored. For the tokenizer to be that of the
    weights one continues from, name the `tokenizer.model` of their run.
    """

    kind: ClassVar[str] = "dialogues"

    def open(self, cache: Path, sink: Sink) -> Corpus:
        return supervised(super().open(cache, sink))

    def source(self, sink: Sink) -> Source:
        return replace(super().source(sink), encode=_write_mask)

    def read(self, paths: list[Path]) -> Iterator[str]:
        for path in paths:
            yield from read(path)


def _write_mask(
    folder: Path, split: str, tokenizer: Tokenizer, conversations: Iterable[Conversation]
) -> Iterator[np.ndarray]:
    """Token ids of each conversation; which are targets goes to a file in a folder that nobody reads yet."""
    with open(folder / MASK.format(split=split), "wb") as file:
        for ids, targets in encode(tokenizer, conversations):
            file.write(targets.tobytes())
            yield ids


def supervised(corpus: Corpus) -> Corpus:
    """A corpus that draws windows of conversations, if it was made of conversations; else the corpus itself."""
    mask = corpus.train[0].parent / MASK.format(split="train")
    return replace(corpus, draw=partial(DialogueWindows, corpus, mask)) if mask.is_file() else corpus


class DialogueWindows(Windows):
    """Whole conversations packed into windows, anew in every epoch; targets outside the assistant's turns are
    IGNORED.

    A conversation longer than a window is cut into stretches that overlap by one token, so that each of its targets
    is trained on once; a later stretch opens a window, for it has no BOS to part it from another conversation.
    Stretches without a target are left out, and every window has one at least. What room remains is filled with BOS.
    """

    def __init__(self, corpus: Corpus, mask: Path, seq_len: int, seed: int) -> None:
        """Raises DataError when the mask does not belong to the shards, or nothing is supervised."""
        self._tokens, self._bos = Tokens(corpus.train, corpus.vocab), corpus.bos
        self._mask = np.memmap(mask, dtype=np.uint8, mode="r")
        if len(self._mask) != len(self._tokens):
            raise DataError(
                f"{mask} marks {len(self._mask):,} tokens, its shards hold {len(self._tokens):,}; delete the folder "
                "to have the corpus made again"
            )
        self.seq_len, self._seed = seq_len, seed
        self._stretches = np.array(list(self._cut()), np.int64).reshape(-1, 3)
        if not len(self._stretches):
            raise DataError(f"no assistant speaks in the conversations of corpus {corpus.name}; add some who does")
        self.epoch = lru_cache(maxsize=4)(self._epoch)

    def _cut(self) -> Iterator[tuple[int, int, bool]]:
        """(begin, end, whether it continues a conversation) of each stretch with a target, at most seq_len + 1
        tokens.
        """
        total = len(self._tokens)
        scans = (self._tokens[begin : begin + SCAN_TOKENS] for begin in range(0, total, SCAN_TOKENS))
        found = [np.flatnonzero(scan == self._bos) + index * SCAN_TOKENS for index, scan in enumerate(scans)]
        borders = [*np.concatenate(found).tolist(), total]
        for start, stop in pairwise(borders):
            for begin in range(start, stop - 1, self.seq_len):
                end = min(begin + self.seq_len + 1, stop)
                if self._mask[begin + 1 : end].any():
                    yield begin, end, begin > start

    def _epoch(self, epoch: int) -> list[list[int]]:
        """The stretches in each window: in shuffled order, each goes where it leaves the least room."""
        keys = np.random.SeedSequence([self._seed, epoch]).generate_state(FEISTEL_ROUNDS, np.uint64)
        order = permute(np.arange(len(self._stretches)), len(self._stretches), keys)
        begins, ends, continues = self._stretches.T
        full: list[list[int]] = []
        rooms: list[tuple[int, list[int]]] = []
        for stretch, length, continued in zip(order.tolist(), (ends - begins)[order].tolist(), continues[order]):
            fitting = [place for place, (room, _) in enumerate(rooms) if room >= length]
            if fitting and not continued:
                room, members = rooms.pop(min(fitting, key=lambda place: rooms[place][0]))
            else:
                room, members = self.seq_len + 1, []
                if len(rooms) == OPEN_WINDOWS:
                    full.append(rooms.pop(min(range(len(rooms)), key=lambda place: rooms[place][0]))[1])
            rooms.append((room - length, [*members, stretch]))
        return full + [members for _, members in rooms]

    def count(self, epoch: int) -> int:
        return len(self.epoch(epoch))

    def pairs(self, at: Position, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, targets) of the `rows` windows from a position on, int64 [rows, seq_len]."""
        ids = np.full((rows, self.seq_len + 1), self._bos, np.int64)
        targets = np.full((rows, self.seq_len + 1), IGNORED, np.int64)
        for row in range(rows):
            place = 0
            for stretch in self.epoch(at.epoch)[at.index]:
                begin, end, _ = self._stretches[stretch].tolist()
                tokens, marks = self._tokens[begin:end], self._mask[begin:end].astype(bool)
                marks[0] = False  # what stands before it in the window belongs to another conversation
                ids[row, place : place + len(tokens)] = tokens
                targets[row, place : place + len(tokens)][marks] = tokens[marks]
                place += len(tokens)
            at = self.advance(at, 1)
        return ids[:, :-1], targets[:, 1:]
