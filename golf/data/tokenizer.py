"""SentencePiece: training without loss, encoding in batches, and the bytes each token spells."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import sentencepiece

from golf.contracts import ByteTable, DataError

PAD, BOS, EOS, UNK = 0, 1, 2, 3
# SentencePiece writes this character for a space, so the text's own must be spelled in bytes.
MARKER = "\u2581"
# Recorded in the model file: the same number everywhere, so that the same text gives the same bytes
# everywhere.
TRAIN_THREADS = 2
# More text hardly changes the pieces, and all of it is held in memory.
TRAIN_CHARS = 50_000_000
# The trainer skips texts that hold its own separators; the marker stands for a space there.
TRAIN_SPELLING = str.maketrans({MARKER: None, "\t": " ", "\u2585": None})
# Measured with six tokenizers of 1,024 to 8,192 pieces: of a tokenizer's own ids 99.6 % come back (95.9 % of
# source code in which every twelfth is unknown), of another's that fit its vocabulary 45 % to 91 %.
AGREEMENT, AGREEMENT_TOKENS = 0.95, 4096
BATCH_CHARS = 4_000_000


def train(texts: Iterable[str], vocab: int) -> bytes:
    """A BPE model file whose decode(encode(text)) is the text for any text: no normalization, no added or
    removed spaces, byte pieces for rare characters. Runs of spaces may become one piece. Deterministic;
    trained on the first TRAIN_CHARS characters.

    Raises DataError when there is no text or it cannot fill the vocabulary.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_training_texts(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            byte_fallback=True,
            character_coverage=0.999,
            max_sentence_length=1 << 30,
            pad_id=PAD,
            bos_id=BOS,
            eos_id=EOS,
            unk_id=UNK,
            num_threads=TRAIN_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"no tokenizer of vocab={vocab} can be trained: {reason}; give more text or a fitting vocab"
        ) from error
    return model.getvalue()


class Tokenizer:
    """A SentencePiece model file in use."""

    def __init__(self, source: Path | bytes) -> None:
        """From a file or a file's bytes. Raises DataError when it is no SentencePiece model."""
        self._processor, self.sha256 = _load(source)
        self.vocab, self.bos = self._processor.vocab_size(), self._processor.bos_id()
        self.eos, self.pad = self._processor.eos_id(), self._processor.pad_id()  # -1 where there is none
        if self.bos < 0:
            raise DataError("the tokenizer has no BOS piece, which opens every document; train one with a bos_id")
        # Exact models can spell the marker character by its three byte pieces; stock ones fold characters
        # anyway.
        probe = " a  b\n\t"
        self._spelled = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in MARKER.encode()]
        exact = self._processor.decode(self._processor.encode(probe)) == probe
        self.lossless = exact and self._processor.is_byte(self._spelled[0])

    def encode(self, text: str) -> np.ndarray:
        """Token ids of a text, without BOS, int64."""
        return next(self.encode_batch([text]))

    def encode_documents(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """Token ids of each document, BOS first, in what shards hold them in; several threads encode."""
        for batch in _batches(texts):
            for ids in self.encode_batch(batch):
                yield np.concatenate([[self.bos], ids]).astype(id_type(self.vocab))

    def decode(self, ids: Sequence[int]) -> str:
        """The text that tokens spell."""
        return self._processor.decode([int(token) for token in ids])

    def check_spelled(self, ids: np.ndarray, path: Path) -> None:
        """Raises DataError when the ids that `path` begins with are not those this tokenizer would give its
        text, so that no score is computed with another tokenizer's bytes.
        """
        begin = ids[:AGREEMENT_TOKENS]
        spelled = begin[~np.isin(begin, [self.bos, self._processor.unk_id()])].tolist()
        # Unknown characters are gone from the text, so it is cut there: what stood apart must not merge.
        cuts = np.flatnonzero(begin == self._processor.unk_id())
        texts = [self.decode(piece[piece != self._processor.unk_id()]) for piece in np.split(begin, cuts)]
        again = np.concatenate(list(self.encode_batch(texts)))
        same = (Counter(spelled) & Counter(again.tolist())).total()
        if same < AGREEMENT * len(spelled):
            raise DataError(
                f"of the first {len(spelled)} tokens of {path} the tokenizer would give only {same} again, "
                f"{AGREEMENT:.0%} are needed; use the tokenizer the shard was made with"
            )

    def encode_batch(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """Token ids of each text, without BOS, int64; the batch is encoded by several threads."""
        # Without a dummy prefix the pieces of a text split at a marker are those of the text: nothing merges
        # across.
        parts = [text.split(MARKER) if self.lossless else [text] for text in texts]
        coded = iter(self._processor.encode(list(chain.from_iterable(parts)), num_threads=-1))
        for part in parts:
            ids = list(next(coded))
            for _ in part[1:]:
                ids += self._spelled
                ids += next(coded)
            yield np.array(ids, int)

    def table(self) -> ByteTable:
        """Bytes that each token spells.

        Control, unknown and unused pieces spell 0 and bound the text; a byte piece spells 1; any other the UTF-8
        length of its text without one leading marker (markers further in are spaces: one byte each). Raises
        DataError when spaces are markers but the marker is no piece of its own: byte pieces would then spell a
        space as three bytes, and bits per byte would come out a fifth too low.
        """
        processor = self._processor
        tokens = range(processor.vocab_size())
        pieces = [processor.id_to_piece(token) for token in tokens]
        if MARKER not in pieces and any(piece.startswith(MARKER) for piece in pieces):
            raise DataError(
                f"the tokenizer has pieces that open with {MARKER!r} but none that is {MARKER!r} alone, so bytes "
                "cannot be counted; train it with the space among its characters"
            )
        boundary_V = np.array(
            [processor.is_control(t) or processor.is_unknown(t) or processor.is_unused(t) for t in tokens]
        )
        bytes_V, opens_V = np.zeros(len(pieces), np.int64), np.zeros(len(pieces), bool)
        for token in np.flatnonzero(~boundary_V).tolist():
            piece = pieces[token]
            opens_V[token] = piece.startswith(MARKER)
            text = piece.removeprefix(MARKER).replace(MARKER, " ")
            bytes_V[token] = 1 if processor.is_byte(token) else len(text.encode())
        return ByteTable(bytes_V, opens_V, boundary_V)


def id_type(vocab: int) -> type:
    """The narrower of the two types of shards that holds every token id."""
    return np.uint16 if vocab <= 1 << 16 else np.uint32


def byte_table(source: Path | bytes) -> ByteTable:
    """Bytes that each token of a model file spells. Raises DataError as `Tokenizer` and its `table` do."""
    return Tokenizer(source).table()


def _load(source: Path | bytes) -> tuple[sentencepiece.SentencePieceProcessor, str]:
    if isinstance(source, Path) and not source.is_file():
        raise DataError(f"tokenizer {source} does not exist; correct the path or fetch it with `golf data fetch`")
    data, name = (source.read_bytes(), str(source)) if isinstance(source, Path) else (source, f"of {len(source)} bytes")
    try:
        # An empty file is taken for "no model yet", which every later call would log.
        processor = sentencepiece.SentencePieceProcessor(model_proto=data or b"empty")
    except RuntimeError as error:
        raise DataError(f"tokenizer {name} is no SentencePiece model; give the .model file of the shards") from error
    return processor, hashlib.sha256(data).hexdigest()


def _training_texts(texts: Iterable[str]) -> Iterator[str]:
    chars = 0
    for text in texts:
        if chars >= TRAIN_CHARS:
            return
        chars += len(text)
        yield text.translate(TRAIN_SPELLING)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of texts of about BATCH_CHARS characters, so that threads have work and memory stays bounded."""
    batch, chars = [], 0
    for text in texts:
        batch.append(text)
        chars += len(text)
        if chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch
