"""What a model remembers of the tokens it has read, so that the next ones cost no more than themselves.

A model that can read on has two methods beside `forward`:

    cache = model.open_cache(rows, window=None)      nothing read yet, for `rows` streams of equal length
    logits = model.read_on(ids_BT, cache, tail=None)  reads T more tokens a row; logits as `forward` returns them

Whatever pieces a text is read in, the logits are those of one forward over all of it. With `window`, a token
sees itself and the `window` - 1 tokens before it and nothing older, in every block, so that memory stays flat
and the stream may be endless.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from golf.arch.attention import as_bias, attend, within
from golf.arch.layers import rope_at, rope_table, rotate
from golf.contracts import DataError, SpecError

Rope = tuple[Tensor, Tensor]


class Cache:
    """Keys and values per block, and by name what else a family carries over.

    rows: streams read side by side.  seen: tokens read so far in each.
    spans: for each block the keys that a query sees, its own included; None is all there are. Blocks forget
        keys that no later query can see, unless `forget` is False.
    raw: keys are kept before rotation, because the angle they need changes with what is read later.
    blocks: (keys, values) [B, S, G, D] of every block, newest last; S may differ between blocks.
    notes: tensors [B, ...] of the family's own.

    Whoever holds a tensor of these never sees it change: a copy is free and both go on separately.
    """

    def __init__(self, rows: int, spans: Sequence[int | None], *, raw: bool, forget: bool = True) -> None:
        if rows < 1:
            raise SpecError(f"rows={rows} must be at least 1")
        if any(span is not None and span < 1 for span in spans):
            raise SpecError(f"window={min(span for span in spans if span is not None)} must be at least 1")
        self.rows, self.spans, self.raw, self.forget = rows, tuple(spans), raw, forget
        self.seen = 0
        self.blocks: list[tuple[Tensor, Tensor]] = []
        self.notes: dict[str, Tensor] = {}
        self._rooms: dict[tuple[int, int], Room] = {}
        self._readings = 0

    @property
    def kept(self) -> int:
        """Keys in the block that holds most of them."""
        return max((keys.shape[1] for keys, _ in self.blocks), default=0)

    @property
    def bytes(self) -> int:
        """Memory behind all tensors in here."""
        held = [tensor for pair in self.blocks for tensor in pair] + list(self.notes.values())
        return sum(tensor.untyped_storage().nbytes() for tensor in held)

    def copy(self) -> Cache:
        """The same state, to be read on from independently. Nothing is duplicated."""
        return self.pick(None)

    def pick(self, rows: Tensor | None) -> Cache:
        """A cache of some rows, by number; a row may come several times (beams, samples from one prompt)."""
        other = Cache(self.rows if rows is None else len(rows), self.spans, raw=self.raw, forget=self.forget)
        other.seen = self.seen
        other._rooms, other._readings = dict(self._rooms), self._readings
        other.blocks = [(_rows(keys, rows), _rows(values, rows)) for keys, values in self.blocks]
        other.notes = {name: _rows(tensor, rows) for name, tensor in self.notes.items()}
        return other

    def join(self, layer: int, k_BTGD: Tensor, v_BTGD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a block followed by new ones."""
        if not self.blocks:
            return k_BTGD, v_BTGD
        joined = []
        # A room is made for those to come: not by a cache that was put together for one reading only.
        exact = torch.is_grad_enabled() or self.spans[layer] is not None or not self._readings
        for part, (old, new) in enumerate(zip(self.blocks[layer], (k_BTGD, v_BTGD))):
            if exact or old.dtype != new.dtype:
                joined.append(torch.cat([old, new], dim=1))
                continue
            room = self._rooms.get((layer, part))
            if room is None or not room.fits(old, new):
                room = self._rooms[layer, part] = Room(old, new.shape[1])
            joined.append(room.append(new))
        return tuple(joined)

    def check(self, ids_BT: Tensor, limit: int | None = None) -> None:
        """Raises DataError for ids of another number of rows, none at all, or more than `limit` with those before
        (through a window there is no limit)."""
        rows, time = ids_BT.shape
        if rows != self.rows:
            raise DataError(f"the cache holds {self.rows} rows, the input has {rows}; open one for {rows}")
        if not time:
            raise DataError("the input has 0 tokens a row; give at least 1")
        if limit is not None and not self.raw:
            check_length(self.seen, time, limit)


class Room:
    """A tensor [B, S, G, D] with room to grow along S, so that a token more does not cost a copy of all before it.

    Only what nobody has seen yet is written to: whoever comes second to the same place moves to a room of its own.
    """

    SPARE = 64

    def __init__(self, old: Tensor, more: int) -> None:
        rows, used, *rest = old.shape
        self._buffer = old.new_empty(rows, (used + more) * 5 // 4 + self.SPARE, *rest)
        self._buffer[:, :used] = old
        self._used = used

    def fits(self, old: Tensor, new: Tensor) -> bool:
        """Whether `old` is all that is in here, and `new` has a place behind it."""
        return (
            old.data_ptr() == self._buffer.data_ptr()
            and old.shape[1] == self._used
            and self._used + new.shape[1] <= self._buffer.shape[1]
            and torch.is_inference_mode_enabled() >= self._buffer.is_inference()
        )

    def append(self, new: Tensor) -> Tensor:
        """Everything in here with `new` behind it."""
        end = self._used + new.shape[1]
        self._buffer[:, self._used : end] = new
        self._used = end
        return self._buffer[:, :end]


def check_length(seen: int, time: int, limit: int) -> None:
    """Raises DataError when `time` tokens after `seen` are more than a family's `limit`."""
    if seen + time > limit:
        before = f"{seen} tokens read and {time} more are" if seen else f"{time} tokens are"
        raise DataError(f"{before} over the model's limit of {limit}; read fewer, or through a window")


def _rows(tensor: Tensor, rows: Tensor | None) -> Tensor:
    return tensor if rows is None else tensor.index_select(0, rows.to(tensor.device))


class Reading:
    """One extension of a cache by `time` tokens; takes the place of the bias in `attend`, block after block.

    turn: rotary table for at least cache.kept + time places where the cache is raw, else None.
    allowed_BS: false where a key may not be seen (padding), for the last S tokens read with these ones
        included; older ones may be seen. A query that may see none sees itself, so that it stays finite.
    starts_BT: true where a document begins; keys of an earlier one are not seen.
    Nothing of the cache changes before `finish`.
    """

    def __init__(
        self,
        cache: Cache,
        time: int,
        *,
        turn: Rope | None = None,
        allowed_BS: Tensor | None = None,
        starts_BT: Tensor | None = None,
    ) -> None:
        self.cache, self.time, self.turn, self.allowed_BS = cache, time, turn, allowed_BS
        self.blocks: list[tuple[Tensor, Tensor]] = []
        self.notes: dict[str, Tensor] = {}
        self.biases: dict[tuple[int, int, int | None], Tensor | None] = {}
        self.document_BS = None if starts_BT is None else self._documents(starts_BT)

    def _documents(self, starts_BT: Tensor) -> Tensor:
        """Number of the document of every key there is."""
        document_BT, before_BS = starts_BT.cumsum(1), self.cache.notes.get("documents")
        if before_BS is None:
            return document_BT
        return torch.cat([before_BS, before_BS[:, -1:] + document_BT], dim=1)

    def gather(self, q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """What the next block attends with: queries (the last ones, if fewer than new keys), all keys and values,
        and the bias on their scores, as `attend` takes them."""
        layer = len(self.blocks)
        k_BTGD, v_BTGD = self.cache.join(layer, k_BTGD, v_BTGD)
        self.blocks.append((k_BTGD, v_BTGD))
        keys, tail = k_BTGD.shape[1], q_BTHD.shape[1]
        if self.turn is not None:
            cos, sin = (table[:keys] for table in self.turn)
            q_BTHD = rotate(q_BTHD, cos[keys - tail :], sin[keys - tail :])
            k_BTGD = rotate(k_BTGD, cos, sin)
        key = keys, tail, self.cache.spans[layer]
        if key not in self.biases:
            self.biases[key] = self._bias(*key, q_BTHD)
        return q_BTHD, k_BTGD, v_BTGD, self.biases[key]

    def __call__(self, q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor) -> Tensor:
        return attend(*self.gather(q_BTHD, k_BTGD, v_BTGD))

    def _bias(self, keys: int, tail: int, span: int | None, like: Tensor) -> Tensor | None:
        if keys == tail and (span is None or span >= keys) and self.allowed_BS is None and self.document_BS is None:
            return None
        seen_BTS = within(keys, tail, span, like.device)
        if self.document_BS is not None:
            document_BS = self.document_BS[:, -keys:]
            seen_BTS = seen_BTS & (document_BS[:, None, :] == document_BS[:, keys - tail :, None])
        if self.allowed_BS is not None:
            allowed_BS = self.allowed_BS[:, -keys:]
            allowed_BS = F.pad(allowed_BS, (keys - allowed_BS.shape[1], 0), value=True)
            seen_BTS = seen_BTS & allowed_BS[:, None, :]
            seen_BTS = seen_BTS | within(keys, tail, 1, like.device) & ~seen_BTS.any(-1, keepdim=True)
        return as_bias(seen_BTS, like)

    def recall(self, name: str, x_BTC: Tensor, count: int) -> Tensor:
        """x behind the `count` positions read before it, zeros where nothing was: [B, count + T, C]. The last
        `count` are noted for the next reading. Raises DataError when the cache holds keys but not these."""
        before_BKC = self.cache.notes.get(name)
        if before_BKC is None:
            if self.cache.seen:
                raise DataError(f"the cache holds {self.cache.seen} tokens but no {name!r}; pass it on with the keys")
            before_BKC = x_BTC.new_zeros(len(x_BTC), count, x_BTC.shape[-1])
        joined_BSC = torch.cat([before_BKC.to(x_BTC.dtype), x_BTC], dim=1)
        self.notes[name] = joined_BSC[:, joined_BSC.shape[1] - count :].clone()
        return joined_BSC

    def finish(self, **notes: Tensor) -> None:
        """Hand everything to the cache: all blocks were called, and these are the family's notes."""
        cache = self.cache
        cache.blocks = [
            tuple(_newest(tensor, span if cache.forget else None) for tensor in pair)
            for pair, span in zip(self.blocks, cache.spans)
        ]
        cache.notes = self.notes | notes
        if self.document_BS is not None:
            cache.notes["documents"] = self.document_BS[:, -max(cache.kept, 1) :]
        cache.seen += self.time
        cache._readings += 1


def _newest(x_BSGD: Tensor, span: int | None) -> Tensor:
    """What the next query can still see: it is one of the `span` itself. A copy, or the rest would stay in memory."""
    if span is None or x_BSGD.shape[1] < span:
        return x_BSGD
    return x_BSGD[:, x_BSGD.shape[1] - span + 1 :].clone()


def open_with_limit(rows: int, spans: Sequence[int | None], window: int | None, limit: int) -> Cache:
    """A cache of rotated keys, or of raw ones if there is a window, which narrows every block's span.

    Raises SpecError for a window that is not in 1..limit.
    """
    if window is None:
        return Cache(rows, spans, raw=False)
    if not 0 < window <= limit:
        raise SpecError(f"window={window} must be in 1..{limit}, the model's limit")
    return Cache(rows, [min(window, span or window) for span in spans], raw=True)


def begin(
    cache: Cache,
    ids_BT: Tensor,
    *,
    width: int,
    base: float,
    limit: int,
    flip: bool = False,
    places_BT: Tensor | None = None,
    allowed_BS: Tensor | None = None,
) -> tuple[Reading, Rope]:
    """What the blocks of a family whose rotary base is fixed need to read `ids`: bias and rotary table.

    width, base: of `rope_table`.  limit: tokens, where nothing is forgotten.  flip: turn in the sense R-.
    places_BT: positions of the new tokens, by default those after the ones seen.  allowed_BS: see `Reading`, with
        columns for the new tokens, or for all there are.
    Raises DataError when something does not fit.
    """
    cache.check(ids_BT, limit)
    time = ids_BT.shape[1]
    if allowed_BS is not None:
        if list(allowed_BS.shape) not in ([cache.rows, time], [cache.rows, cache.seen + time]):
            raise DataError(
                f"the padding mask is {list(allowed_BS.shape)}; it must be [{cache.rows}, {time}] for the new tokens "
                f"or [{cache.rows}, {cache.seen + time}] for all"
            )
        allowed_BS = allowed_BS.bool()
    if places_BT is not None and (cache.raw or places_BT.shape[-1] != time or len(places_BT) not in (1, cache.rows)):
        raise DataError(
            f"positions are {list(places_BT.shape)}; they must be [{cache.rows}, {time}], and are counted by the "
            "model itself where there is a window"
        )
    if cache.raw:
        cos, sin = rope_table(cache.kept + time, width, base, ids_BT.device)
    elif places_BT is None:
        cos, sin = rope_at(torch.arange(cache.seen, cache.seen + time, device=ids_BT.device), width, base)
    else:
        cos, sin = rope_at(places_BT, width, base)
    turn = (cos, -sin) if flip else (cos, sin)
    if not cache.raw:
        return Reading(cache, time, allowed_BS=allowed_BS), turn
    still = tuple(table[:time, :, :0] for table in turn)
    return Reading(cache, time, turn=turn, allowed_BS=allowed_BS), still
