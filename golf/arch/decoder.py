"""What the plain decoders share: the frame around a stack of blocks, read whole or piece by piece with a cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from golf.arch.attention import bias
from golf.arch.cache import Cache, Reading, Rope, begin, check_length, open_with_limit
from golf.arch.layers import Embedding, Linear, Norm, check_ids, roles_of, rope_table, tail_of
from golf.contracts import DataError, ModelSpec, Role, SpecError

# What a block attends under: a bias on the scores, none (plain causal attention), or the reading of a cache.
Bias = Tensor | Reading | None


class Block(nn.Module):
    """Attention and an MLP, each on the normed state and added to it."""

    def __init__(self, dim: int, eps: float, attn: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.attn_norm = Norm(dim, eps)
        self.attn = attn
        self.mlp_norm = Norm(dim, eps)
        self.mlp = mlp

    def forward(self, x_BTC: Tensor, rope: Rope, bias: Bias, tail: int) -> Tensor:
        """The last `tail` positions after the block."""
        y_BTC = self.attn(self.attn_norm(x_BTC), rope, bias, tail)
        x_BTC = x_BTC[:, x_BTC.shape[1] - tail :] + y_BTC
        return x_BTC + self.mlp(self.mlp_norm(x_BTC))


class Decoder(nn.Module, ABC):
    """A model that meets `contracts.Model` and reads on with a cache.

    A family gives it `spec` (with `vocab`, `context`, `rope_base`), its token table and its head (the layer whose
    weight makes the logits); blocks `stack` and `norm`, or a `through` of its own; the width it rotates where
    that is not the head's, `spans` where its attention is windowed.
    """

    spec: ModelSpec
    flip = False  # turn in the sense R-
    padded = False  # tokens meet in attention alone, so that a mask on its keys hides padding

    @property
    @abstractmethod
    def table(self) -> Embedding:
        """Token vectors."""

    @property
    @abstractmethod
    def head(self) -> Embedding | Linear:
        """What makes the logits; the table where they are tied."""

    @property
    def stack(self) -> nn.ModuleList:
        return self.blocks

    @property
    def width(self) -> int:
        """Rotated entries of a head."""
        return self.spec.head_dim

    @property
    def spans(self) -> list[int | None]:
        """For each block the keys a query sees, its own included; None is all."""
        return [None] * self.spec.layers

    def through(self, x_BTC: Tensor, ids_BT: Tensor, rope: Rope, biases: Sequence[Bias], tail: int) -> Tensor:
        """Logits [B, tail, V], float32, from token vectors; biases[l] is for block l, the last for `tail` queries."""
        *blocks, last = self.stack
        for block, seen in zip(blocks, biases):
            x_BTC = block(x_BTC, rope, seen, x_BTC.shape[1])
        return self.project(self.norm(last(x_BTC, rope, biases[-1], tail))).float()

    def forward(self, ids_BT: Tensor, tail: int | None = None) -> Tensor:
        """Logits [B, tail or T, V], float32, of the last `tail` positions.

        The last block and the head skip the others. Raises DataError for more tokens than the context, or one
        outside the vocabulary (CPU inputs, not compiled); ValueError for a tail that is not in 1..T.
        """
        time = ids_BT.shape[1]
        tail = tail_of(tail, time)
        check_length(0, time, self.spec.context)
        check_ids(ids_BT, self.spec.vocab)
        x_BTC = self.table(ids_BT)
        cos, sin = rope_table(time, self.width, self.spec.rope_base, ids_BT.device)
        rope = (cos, -sin) if self.flip else (cos, sin)
        return self.through(x_BTC, ids_BT, rope, self.biases(time, tail, x_BTC), tail)

    def biases(self, time: int, tail: int, like: Tensor) -> list[Bias]:
        inner = bias(None, time, time, like)
        outer = inner if tail == time else bias(None, time, tail, like)
        return [inner] * (self.spec.layers - 1) + [outer]

    def loss(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross entropy in nats, float32, over the targets that are not -100."""
        return F.cross_entropy(self(ids_BT).flatten(0, 1), targets_BT.flatten(), ignore_index=-100)

    def roles(self) -> dict[str, Role]:
        return roles_of(self, self.head)

    def switch(self, name: str, on: bool) -> None:
        raise SpecError(
            f"{self.spec.family} has nothing named {name!r} to switch {'on' if on else 'off'}; drop it from the stage"
        )

    def project(self, x_BTC: Tensor) -> Tensor:
        """Scores of every row of the head's weight."""
        return self.head.project(x_BTC) if isinstance(self.head, Embedding) else self.head(x_BTC)

    def open_cache(self, rows: int, window: int | None = None) -> Cache:
        """See `golf.arch.cache`."""
        return open_with_limit(rows, self.spans, window, self.spec.context)

    def read_on(self, ids_BT: Tensor, cache: Cache, tail: int | None = None, **padding: Tensor | None) -> Tensor:
        """See `golf.arch.cache`. padding: `places_BT` and `allowed_BS` as in `cache.begin`.

        Raises DataError for a mask that hides something from a family whose tokens meet outside attention too.
        """
        mask = padding.get("allowed_BS")
        if not self.padded and mask is not None and not mask.all():
            hidden = int((mask == 0).sum())
            raise DataError(
                f"the mask hides {hidden} tokens, but {self.spec.family} mixes neighbors outside attention as well; "
                "read rows of equal length instead of padding"
            )
        tail = tail_of(tail, ids_BT.shape[1])
        check_ids(ids_BT, self.spec.vocab)
        reading, rope = begin(
            cache, ids_BT, width=self.width, base=self.spec.rope_base, limit=self.spec.context, flip=self.flip,
            **padding,
        )  # fmt: skip
        logits_BTV = self.through(self.table(ids_BT), ids_BT, rope, [reading] * self.spec.layers, tail)
        reading.finish()
        return logits_BTV
