"""B1 to B5: the denominator. Bytes are counted from a table of tokens; here they meet the text itself."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from golf.contracts import ByteTable
from golf.eval import differs
from golf.eval.validity.verdict import Verdict, beside_the_point, failed, passed, unchecked

MARKER = "▁"  # how SentencePiece writes a space
# What a stock normalizer may change of a split's bytes: it rewrites line ends and compatibility characters.
RAW_TOLERANCE = 1e-5
IDENTITY = 1e-6
MARGINAL = 1e-4
LISTED = 300  # documents that differ from their raw text are explained one by one, up to so many
# Tokens per byte of the challenge's validation split, by size of the stock vocabulary (and with case markers).
KNOWN_RATIOS = {"sp1024": 0.41052, "sp4096": 0.30123, "sp8192": 0.26834, "caseops8192": 0.31674}
KNOWN_BYTES, KNOWN_TOLERANCE = 151.08e6, 1e-4
# What trips transforms: markers, mixed case, other scripts, combining marks, line ends, nothing at all.
PROBES = (
    "", " ", "  two  spaces ", "\n\r\n\t", "ALL CAPS and MiXeD cAsE", "ÀÉÎõü ß ẞ ſ", "İstanbul ıI",
    "ΣΑΣ σας",
    "e\u0301 é", "Ⅷ ﬁ ½ ²", "日本語 한국어 العربية", "▁▁ marker", "👩‍👩‍👧 🇩🇪", "\u00a0\u200b\ufeff",
    "<s></s><unk>[PAD]", "\x00\x01\x7f", "a" * 300, "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "don't DON'T O'Neill's", "0123456789 1,000.50 3/4",
)  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """One entry of a vocabulary, as its file says."""

    text: str  # of "bytes": a character below 256 for each
    kind: Literal["text", "byte", "bytes", "control", "unknown", "unused"]
    opens: bool = False  # of "bytes": the first is the space that is put before a text

    def spells(self) -> tuple[int, bool, bool]:
        """Bytes without the leading marker, whether it opens with one, whether it bounds the text."""
        if self.kind == "byte":
            return 1, False, False
        if self.kind == "bytes":
            return len(self.text) - self.opens, self.opens, False
        if self.kind != "text":
            return 0, False, True
        opens = self.text.startswith(MARKER)
        return len((self.text[1:] if opens else self.text).replace(MARKER, " ").encode()), opens, False


@dataclass(frozen=True)
class Document:
    """One validation document: its tokens after BOS, the text they decode to, and the raw text where it is known."""

    tokens: np.ndarray
    decoded: str
    raw: str | None = None


def table(claimed: ByteTable, pieces: Sequence[Piece], markers: Sequence[int], unknown: int) -> Verdict:
    """B2: bytes of every token from the vocabulary's own pieces, against the table that was used to score.

    markers: tokens of a reversible transform, which spell nothing.  unknown: how many unknown tokens the validation
    text holds.
    """
    if claimed.vocab != len(pieces):
        return failed("B2", f"the table has {claimed.vocab} tokens, the vocabulary {len(pieces)}",
                      numbers=[claimed.vocab, len(pieces)])  # fmt: skip
    opens = any(piece.text.startswith(MARKER) and piece.kind == "text" for piece in pieces)
    if opens and not any(piece.text == MARKER for piece in pieces):
        why = f"pieces open with {MARKER!r} but none is {MARKER!r} alone: a byte-spelled space would count as three"
        return failed("B2", why)
    for token, piece in enumerate(pieces):
        right = (0, False, True) if token in markers else piece.spells()
        found = (int(claimed.bytes_V[token]), bool(claimed.opens_V[token]), bool(claimed.boundary_V[token]))
        if token in markers:  # whether text goes on behind a marker is the transform's affair; it spells nothing
            right, found = right[:1], found[:1]
        if found != right:
            why = f"token {token} ({piece.text!r}, {piece.kind}) counts {found[0]} bytes, it spells {right[0]}"
            if found[0] == right[0]:
                why = f"token {token} ({piece.text!r}): opens, bounds are {found[1:]} in the table, truly {right[1:]}"
            return failed("B2", why, tokens=[token], numbers=[found[0], right[0]], piece=piece.text)
    if unknown:
        return failed("B2", f"the validation text holds {unknown:,} unknown tokens, whose text is lost",
                      numbers=[unknown, 0])  # fmt: skip
    return passed("B2", f"{len(pieces):,} tokens count what their pieces spell; none of the text is unknown")


def documents(
    claimed: ByteTable, bos: int, found: Iterable[Document], claimed_bytes: int | None
) -> tuple[Verdict, dict[str, Any]]:
    """B1: per document, bytes of its scored tokens against its decoded text (exactly) and its raw text (in total).

    Returns the verdict and what the report lists: totals, and the documents that differ with the reason.
    """
    totals = {"documents": 0, "tokens": 0, "table": 0, "decoded": 0, "raw": 0}
    differing: list[dict[str, Any]] = []
    wrong: dict[str, Any] | None = None
    another: dict[str, Any] | None = None
    leading = 0  # documents that open with a space, which the field's rule does not count
    has_raw = False
    for number, document in enumerate(found):
        tokens = np.asarray(document.tokens, np.int64)
        before = np.concatenate([[bos], tokens[:-1]]) if len(tokens) else tokens
        counted, decoded = int(claimed.count(before, tokens).sum()), len(document.decoded.encode())
        totals["documents"] += 1
        totals["tokens"] += len(tokens) + 1
        totals["table"] += counted
        totals["decoded"] += decoded
        if counted == decoded - 1 and document.decoded.startswith(" "):
            leading += 1
        elif counted != decoded and wrong is None:
            wrong = {"document": number, "numbers": [counted, decoded], "tokens": tokens[:8].tolist()}
        if document.raw is not None:
            has_raw = True
            raw = len(document.raw.encode())
            totals["raw"] += raw
            if document.raw != document.decoded:
                why = differs.why(document.raw, document.decoded) if len(differing) < LISTED else "not looked at"
                differing.append({"document": number, "bytes": counted, "raw_bytes": raw, "why": why})
                if another is None and _letters(document.raw) != _letters(document.decoded):
                    another = differing[-1]
    totals["tokens"] -= 1  # the first is given
    facts = {**totals, "differing": len(differing), "leading_spaces": leading, "listed": differing[:LISTED]}
    if wrong is not None:
        why = (
            f"document {wrong['document']} counts {wrong['numbers'][0]:,} bytes, its text has {wrong['numbers'][1]:,}"
        )
        return failed("B1", why, **wrong), facts
    if claimed_bytes is not None and claimed_bytes != totals["table"]:
        why = f"{claimed_bytes:,} bytes are claimed, the tokens spell {totals['table']:,}"
        return failed("B1", why, numbers=[claimed_bytes, totals["table"]]), facts
    if another is not None:
        why = f"document {another['document']} is another text than the raw one: {another['why']}"
        return failed("B1", why, numbers=[another["bytes"], another["raw_bytes"]], document=another["document"]), facts
    words = f"{totals['documents']:,} documents, {totals['table']:,} bytes of tokens = bytes of their text"
    words += f" ({leading:,} leading spaces not counted)" if leading else ""
    if has_raw:
        off = (totals["table"] + leading - totals["raw"]) / max(totals["raw"], 1)
        if abs(off) > RAW_TOLERANCE:
            why = (
                f"tokens spell {totals['table']:,} bytes, the raw documents have {totals['raw']:,} ({off:+.2%}); "
                f"{len(differing):,} documents differ"
            )
            return failed("B1", why, numbers=[totals["table"], totals["raw"]], first=differing[:1]), facts
        words += f"; raw documents have {totals['raw']:,}, {len(differing):,} of them differ"
    else:
        words += "; raw documents not given"
    return passed("B1", words, differing=differing[:20]), facts


def transform(encode: Callable[[str], str], decode: Callable[[str], str], texts: Iterable[str]) -> Verdict:
    """B3: decode(encode(x)) is x, for the validation documents and for what trips transforms."""
    count = 0
    for text in (*PROBES, *_mixed(), *texts):
        back = decode(encode(text))
        count += 1
        if back != text:
            at, pair = _first_difference(text, back)
            why = f"text {count} comes back changed at character {at}: {pair[0]!r} became {pair[1]!r}"
            return failed("B3", why, position=at, numbers=[len(text.encode()), len(back.encode())], text=text[:80])
    made = len(PROBES) + len(_mixed())
    return passed("B3", f"{count:,} texts come back as they were, {made} of them made to trip the transform")


def no_transform() -> Verdict:
    return beside_the_point("B3", "no transform: what the tokenizer itself normalizes is counted in B1")


def identity(loss: float, bpb: float, tokens: int, spelled: int) -> Verdict:
    """B4: val_bpb ln 2 bytes / tokens = val_loss."""
    again = bpb * math.log(2) * spelled / tokens
    what = "val_bpb x ln 2 x bytes / tokens"
    if not abs(again - loss) <= IDENTITY:
        return failed("B4", f"{what} is {again:.8f}, val_loss says {loss:.8f}", numbers=[again, loss])
    return passed("B4", f"{what} = {again:.8f} = val_loss")


def known_totals(split: str | None, tokens: int, spelled: int) -> Verdict:
    """B5: the stock splits of the challenge have known numbers. split: a key of KNOWN_RATIOS, or None."""
    ratio = tokens / max(spelled, 1)
    if split is None:
        return beside_the_point("B5", f"{ratio:.5f} tokens per byte; no split whose numbers are known")
    right = KNOWN_RATIOS[split]
    for what, found, known in (("tokens per byte", ratio, right), ("bytes", spelled, KNOWN_BYTES)):
        if abs(found / known - 1) > KNOWN_TOLERANCE:
            return failed("B5", f"{found:,.5f} {what}, the {split} split has {known:,.5f}", numbers=[found, known])
    return passed("B5", f"{ratio:.5f} tokens per byte, as {split} has on the whole split")


def claims_missing() -> Verdict:
    return unchecked("B4", "the submission states no loss, score, tokens and bytes that could be compared")


def first_bytes(pieces: Sequence[Piece], after_boundary: bool) -> np.ndarray:
    """[V] the first byte each token spells, 256 for those that spell nothing."""
    found = np.full(len(pieces), 256)
    for token, piece in enumerate(pieces):
        text = piece.text.replace(MARKER, " ")
        if piece.kind == "byte":
            found[token] = int(piece.text[3:5], 16)
        elif piece.kind == "bytes":
            found[token] = ord(piece.text[after_boundary and piece.opens :][:1] or "\u0100")
        elif piece.kind == "text":
            spelled = (text[1:] if after_boundary and text.startswith(" ") else text).encode()
            found[token] = spelled[0] if spelled else 256
    return found


def byte_marginals(rows: Iterable[tuple[int, np.ndarray, np.ndarray, np.ndarray]]) -> Verdict:
    """C2d: the distribution of the next byte is that of the first bytes of the next token.

    rows: (position, [V] log probabilities of tokens, [256] of bytes, [V] first bytes).  What tokens that spell
    nothing weigh is left out on both sides.
    """
    count, worst = 0, 0.0
    for position, tokens, spelled, first in rows:
        mass = np.bincount(first, weights=np.exp(tokens), minlength=257)[:256]
        claimed = np.exp(np.asarray(spelled, np.float64))
        for what, a, b in (("all bytes add up to", claimed.sum(), 1.0), *_each_byte(claimed, mass / mass.sum())):
            if not abs(a - b) <= MARGINAL:
                why = f"at target {position} {what} {a:.6f}, where {b:.6f} is right"
                return failed("C2d", why, position=position, numbers=[float(a), float(b)])
        count, worst = count + 1, max(worst, float(np.abs(claimed - mass / mass.sum()).max()))
    return passed("C2d", f"at {count} targets bytes weigh what the tokens that begin with them do, within {worst:.1g}")


def _each_byte(claimed: np.ndarray, right: np.ndarray) -> list[tuple[str, float, float]]:
    return [(f"byte {byte} weighs", claimed[byte], right[byte]) for byte in range(256)]


def _letters(text: str) -> str:
    """What no stock normalizer takes away: letters, digits and signs, without their compatibility form."""
    folded = unicodedata.normalize("NFKC", text)
    return "".join(char for char in folded if unicodedata.category(char)[0] in "LNPS")


def _first_difference(a: str, b: str) -> tuple[int, tuple[str, str]]:
    at = next((place for place, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return at, (a[at : at + 12], b[at : at + 12])


def _mixed() -> list[str]:
    """The probes in pieces put together anew: 60 texts, the same every time."""
    draw = np.random.default_rng(0)
    parts = [part for probe in PROBES for part in (probe[:7], probe[3:11]) if part]
    return ["".join(parts[i] for i in draw.integers(len(parts), size=6)) for _ in range(60)]
