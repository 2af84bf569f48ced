"""`pr1361`: a U-Net of transformer blocks with hashed bigrams, a smear gate, value embeddings and XSA.

Source: openai/parameter-golf, pull request 1361. Parameters carry the names of its checkpoints. Its flaws are
mended by default; the fields of `UNetSpec` that undo a repair say so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.arch.attention import attend, bias, exclude_self
from golf.arch.checks import at_least, splits
from golf.arch.layers import Embedding, Linear, check_ids, one_back, rms, roles_of, rope_table, rotate, tail_of
from golf.contracts import Role, SpecError

if TYPE_CHECKING:
    from golf.arch.cache import Cache

EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True, kw_only=True)
class BigramHash:
    """A vector for the pair (token before, token), from a table whose rows are shared by hashing.

    rows: the last one belongs to positions that begin a document.  dim: width of a row.
    init: gain of the projection's orthogonal start. The table starts at zero, so the branch could never learn
        if this were zero too (the original is saved by a rule that spares only widths of 64 and more).
    """

    rows: int = 3072
    dim: int = 112
    init: float = 1.0

    def __post_init__(self) -> None:
        at_least(2, "bigram.rows", self.rows)
        at_least(1, "bigram.dim", self.dim)
        if not self.init > 0:
            raise SpecError(f"bigram.init={self.init} would leave the branch dead; it must be above 0, usually 1")


@dataclass(frozen=True, kw_only=True)
class ValueEmbedding:
    """A second token table, added to the values of some layers.

    layers: block numbers; negative ones count from the end, so that a shallower model keeps its last ones.
    """

    dim: int = 128
    layers: tuple[int, ...] = (-2, -1)

    def __post_init__(self) -> None:
        at_least(1, "values.dim", self.dim)
        at_least(1, "the number of values.layers", len(self.layers))


@dataclass(frozen=True, kw_only=True)
class UNetSpec:
    """Shape of the U-Net. Defaults are the published model, 27,067,484 parameters, with its flaws repaired.

    mlp_mult: hidden width over dim.  tied: the head is the token table.  softcap: bound of the logits.
    xsa_last: XSA in this many blocks, counted from the end; more than there are means all.
    ln_scale: block l (from 0) shrinks what its norms return by 1/sqrt(l+1).
    dtg: a gate per token and block between the block's output and its input.
    qk_gain, embed_std: starting values of the query gains and the deviation of the token table.
    rope_dims: turned entries of a head, 0 for all.
    rope_length: the length trained at; longer inputs stretch the base (NTK-aware). The original has 1024 here
        whatever it trains at, so its base is off at 2048 already.
    bos: begins a document; smear gate and bigram do not reach back over it. None undoes the repair.
    documents: attention stays inside a document too, since what comes before it is another text altogether.
        It costs about a tenth of the attention's time on a CPU. False undoes the repair.
    """

    family: ClassVar[str] = "pr1361"

    vocab: int = 1024
    layers: int = 11
    dim: int = 512
    heads: int = 8
    kv_heads: int = 4
    mlp_mult: float = 3.0
    tied: bool = True
    softcap: float = 30.0
    bigram: BigramHash | None = BigramHash()
    smear: bool = True
    values: ValueEmbedding | None = ValueEmbedding()
    xsa_last: int = 11
    ln_scale: bool = True
    dtg: bool = False
    qk_gain: float = 1.5
    embed_std: float = 0.005
    rope_base: float = 10000.0
    rope_dims: int = 16
    rope_length: int = 2048
    bos: int | None = 1
    documents: bool = True

    def __post_init__(self) -> None:
        for name in ("vocab", "layers", "dim", "heads", "kv_heads", "rope_length"):
            at_least(1, name, getattr(self, name))
        for name in ("xsa_last", "rope_dims", "qk_gain", "embed_std"):
            at_least(0, name, getattr(self, name))
        for name in ("softcap", "rope_base"):
            if not getattr(self, name) > 0:
                raise SpecError(f"{name}={getattr(self, name)} must be above 0")
        width = self.mlp_mult * self.dim
        if not 1 <= width < math.inf:
            raise SpecError(f"mlp_mult={self.mlp_mult} times dim={self.dim} is {width}; it must be finite, at least 1")
        splits("dim", self.dim, "heads", self.heads)
        splits("heads", self.heads, "kv_heads", self.kv_heads)
        if self.rotated % 2 or self.rotated > self.head_dim:
            raise SpecError(
                f"rope_dims={self.rotated} must be even and within the head width dim/heads={self.head_dim}; "
                f"take {min(self.rotated, self.head_dim) // 2 * 2}"
            )
        if self.bos is not None and not 0 <= self.bos < self.vocab:
            raise SpecError(f"bos={self.bos} is outside 0..{self.vocab - 1}; None switches its masks off")
        if self.documents and self.bos is None:
            raise SpecError("documents=True needs a bos to see where they begin; set bos or documents=False")
        if self.values is not None and len(set(self.value_layers)) < len(self.values.layers):
            raise SpecError(f"values.layers={self.values.layers} names a block twice; list each once")
        if any(not 0 <= layer < self.layers for layer in self.value_layers):
            raise SpecError(
                f"values.layers={self.values.layers} names a block that layers={self.layers} does not have; "
                "negative numbers count from the end"
            )

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def kv_dim(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def hidden(self) -> int:
        return int(self.mlp_mult * self.dim)

    @property
    def rotated(self) -> int:
        return self.rope_dims or self.head_dim

    @property
    def value_layers(self) -> tuple[int, ...]:
        """Blocks that add the value embedding, counted from 0."""
        layers = () if self.values is None else self.values.layers
        return tuple(layer + self.layers if layer < 0 else layer for layer in layers)

    def build(self) -> UNet:
        """A freshly initialized model, from torch's default random generator."""
        return UNet(self)

    def tiny(self) -> UNetSpec:
        return replace(
            self,
            layers=min(self.layers, 3),
            dim=64,
            heads=4,
            kv_heads=4 if self.kv_heads == self.heads else min(self.kv_heads, 2),
            bigram=self.bigram and replace(self.bigram, rows=min(self.bigram.rows, 256), dim=min(self.bigram.dim, 16)),
            values=self.values and replace(self.values, dim=min(self.values.dim, 16), layers=(-1,)),
            rope_dims=min(self.rope_dims, 8),
        )


def _parameter(*shape: int, value: float) -> nn.Parameter:
    return nn.Parameter(torch.full(shape, value, dtype=torch.float32))


class Attention(nn.Module):
    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        self.c_q = Linear(spec.dim, spec.dim)
        self.c_k = Linear(spec.dim, spec.kv_dim)
        self.c_v = Linear(spec.dim, spec.kv_dim)
        self.proj = Linear(spec.dim, spec.dim)
        self.q_gain = _parameter(spec.heads, value=spec.qk_gain)
        self.head_dim = spec.head_dim

    def forward(
        self,
        x_BTC: Tensor,
        value_BTK: Tensor | None,
        rope: tuple[Tensor, Tensor],
        bias: Tensor | None,
        tail: int,
        xsa: bool,
    ) -> Tensor:
        first = x_BTC.shape[1] - tail
        cos, sin = rope
        heads = (-1, self.head_dim)
        q_BTHD = self.c_q(x_BTC[:, first:]).unflatten(-1, heads)
        k_BTGD = self.c_k(x_BTC).unflatten(-1, heads)
        v_BTK = self.c_v(x_BTC)
        if value_BTK is not None:
            v_BTK = v_BTK + value_BTK
        v_BTGD = v_BTK.unflatten(-1, heads)
        q_BTHD = rotate(rms(q_BTHD, EPS, self.q_gain[:, None]), cos[first:], sin[first:])
        k_BTGD = rotate(rms(k_BTGD, EPS), cos, sin)
        y_BTHD = attend(q_BTHD, k_BTGD, v_BTGD, bias)
        if xsa:
            y_BTHD = exclude_self(y_BTHD, v_BTGD[:, first:])
        return self.proj(y_BTHD.flatten(2))


class MLP(nn.Module):
    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        self.fc = Linear(spec.dim, spec.hidden)
        self.proj = Linear(spec.hidden, spec.dim)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.proj(F.leaky_relu(self.fc(x_BTC), 0.5).square())


class Block(nn.Module):
    def __init__(self, spec: UNetSpec, layer: int) -> None:
        super().__init__()
        self.attn = Attention(spec)
        self.mlp = MLP(spec)
        self.attn_scale = _parameter(spec.dim, value=1.0)
        self.mlp_scale = _parameter(spec.dim, value=1.0)
        self.resid_mix = nn.Parameter(torch.stack([torch.ones(spec.dim), torch.zeros(spec.dim)]).float())
        if spec.dtg:
            self.dtg_gate = nn.Linear(spec.dim, 1, dtype=torch.float32)
        self.dtg = spec.dtg
        self.shrink = 1 / math.sqrt(layer + 1) if spec.ln_scale else 1.0
        self.xsa = layer >= spec.layers - spec.xsa_last

    def forward(
        self,
        x_BTC: Tensor,
        start_BTC: Tensor,
        value_BTK: Tensor | None,
        rope: tuple[Tensor, Tensor],
        bias: Tensor | None,
        tail: int,
    ) -> Tensor:
        """The last `tail` positions after the block."""
        keep, restart = self.resid_mix.to(x_BTC.dtype)
        mixed_BTC = keep * x_BTC + restart * start_BTC
        y_BTC = self.attn(rms(mixed_BTC, EPS, self.shrink), value_BTK, rope, bias, tail, self.xsa)
        mixed_BTC = mixed_BTC[:, mixed_BTC.shape[1] - tail :]
        out_BTC = mixed_BTC + self.attn_scale.to(x_BTC.dtype) * y_BTC
        out_BTC = out_BTC + self.mlp_scale.to(x_BTC.dtype) * self.mlp(rms(out_BTC, EPS, self.shrink))
        if self.dtg:
            gate_BT1 = torch.sigmoid(self.dtg_gate(mixed_BTC.detach()))
            out_BTC = mixed_BTC + gate_BT1 * (out_BTC - mixed_BTC)
        return out_BTC


class Bigram(nn.Module):
    def __init__(self, spec: BigramHash, dim: int) -> None:
        super().__init__()
        self.embed = Embedding(spec.rows, spec.dim)
        self.proj = Linear(spec.dim, dim) if spec.dim != dim else nn.Identity()
        self.scale = _parameter(value=0.05)
        self.rows = spec.rows

    def forward(self, ids_BT: Tensor, starts_BT: Tensor | None) -> Tensor:
        return self.scale * self.proj(self.embed(self.buckets(ids_BT, starts_BT)))

    def buckets(self, ids_BT: Tensor, starts_BT: Tensor | None) -> Tensor:
        """A row per position; the last row where there is nothing before, or only another document."""
        ids = ids_BT.int()  # products wrap around in 32 bits
        hashed = torch.bitwise_xor(36313 * ids[:, 1:], 27191 * ids[:, :-1]) % (self.rows - 1)
        if starts_BT is not None:
            hashed = hashed.masked_fill(starts_BT[:, 1:], self.rows - 1)
        return F.pad(hashed, (1, 0), value=self.rows - 1)


class Smear(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = _parameter(dim, value=0.0)

    def forward(self, x_BTC: Tensor, starts_BT: Tensor | None) -> Tensor:
        gate = torch.sigmoid(self.gate).to(x_BTC.dtype)
        before_BTC = one_back(x_BTC)
        if starts_BT is not None:
            before_BTC = before_BTC.masked_fill(starts_BT[..., None], 0)
        return (1 - gate) * x_BTC + gate * before_BTC


class Values(nn.Module):
    def __init__(self, vocab: int, dim: int, width: int) -> None:
        super().__init__()
        self.embed = Embedding(vocab, dim)
        self.proj = Linear(dim, width) if dim != width else nn.Identity()
        self.scale = _parameter(value=0.1)

    def forward(self, ids_BT: Tensor) -> Tensor:
        return self.scale * self.proj(self.embed(ids_BT))


class UNet(nn.Module):
    """The model. Meets `contracts.Model`; training and scoring run through the same `trunk`."""

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.tok_emb = Embedding(spec.vocab, spec.dim)
        self.bigram = Bigram(spec.bigram, spec.dim) if spec.bigram else None
        self.smear = Smear(spec.dim) if spec.smear else None
        self.skip_weights = _parameter(spec.layers // 2, spec.dim, value=1.0)
        self.blocks = nn.ModuleList(Block(spec, layer) for layer in range(spec.layers))
        self.ve_shared = Values(spec.vocab, spec.values.dim, spec.kv_dim) if spec.values else None
        self.ve_layer_scales = nn.ParameterList(_parameter(1, value=1.0) for _ in spec.value_layers)
        self.lm_head = None if spec.tied else Linear(spec.dim, spec.vocab)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw the starting weights: hidden matrices orthogonal, those that write to the residual zero."""
        spec = self.spec
        nn.init.normal_(self.tok_emb.weight, std=spec.embed_std)
        for block in self.blocks:
            for layer in (block.attn.c_q, block.attn.c_k, block.attn.c_v, block.mlp.fc):
                nn.init.orthogonal_(layer.weight)
            for layer in (block.attn.proj, block.mlp.proj):
                nn.init.zeros_(layer.weight)
            if spec.dtg:
                nn.init.zeros_(block.dtg_gate.weight)
                nn.init.constant_(block.dtg_gate.bias, 2.0)
        side = 1 / math.sqrt(2 * spec.layers)  # side branches into the residual start small
        if self.bigram is not None:
            nn.init.zeros_(self.bigram.embed.weight)
            if isinstance(self.bigram.proj, Linear):
                nn.init.orthogonal_(self.bigram.proj.weight, gain=spec.bigram.init * side)
        if self.ve_shared is not None:
            nn.init.normal_(self.ve_shared.embed.weight, std=0.01)
            if isinstance(self.ve_shared.proj, Linear):
                nn.init.orthogonal_(self.ve_shared.proj.weight, gain=side)
        if self.lm_head is not None:
            nn.init.zeros_(self.lm_head.weight)

    def forward(self, ids_BT: Tensor, tail: int | None = None, whole: bool = False) -> Tensor:
        """Logits [B, tail or T, V], float32, of the last `tail` positions.

        whole: the caller has seen that no document begins after position 0, and the fast causal kernel will do.
        The last block and the head skip the others. Raises DataError for a token id outside the vocabulary
        (CPU inputs, not compiled), ValueError for a tail that is not in 1..T.
        """
        return self._cap(self.trunk(ids_BT, tail, whole))

    def loss(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross entropy in nats, float32, over the targets that are not -100."""
        return F.cross_entropy(self._cap(self.trunk(ids_BT)).flatten(0, 1), targets_BT.flatten(), ignore_index=-100)

    def roles(self) -> dict[str, Role]:
        return roles_of(self, self.head)

    def switch(self, name: str, on: bool) -> None:
        raise SpecError(
            f"the U-Net has nothing named {name!r} to switch {'on' if on else 'off'}; drop it from the stage"
        )

    @property
    def head(self) -> Embedding | Linear:
        """The layer whose weight makes the logits."""
        return self.tok_emb if self.lm_head is None else self.lm_head

    def _cap(self, x_BTC: Tensor) -> Tensor:
        scores = self.tok_emb.project(x_BTC) if self.lm_head is None else self.lm_head(x_BTC)
        return self.spec.softcap * torch.tanh(scores.float() / self.spec.softcap)

    def trunk(self, ids_BT: Tensor, tail: int | None = None, whole: bool = False) -> Tensor:
        """What meets the head: the normed state [B, tail or T, C] of the last `tail` positions."""
        time = ids_BT.shape[1]
        tail = tail_of(tail, time)
        starts_BT = self.starts(ids_BT)
        x_BTC = self.entry(ids_BT, starts_BT)
        if self.smear is not None:
            x_BTC = self.smear(x_BTC, starts_BT)
        apart = starts_BT if self.spec.documents and not whole else None
        inner = bias(apart, time, time, x_BTC)
        outer = inner if tail == time else bias(apart, time, tail, x_BTC)
        return self.through(ids_BT, x_BTC, self.rope(time, time, ids_BT.device), inner, outer, tail)

    def starts(self, ids_BT: Tensor) -> Tensor | None:
        """True where a document begins; None where the spec does not care. Raises DataError as `forward`."""
        check_ids(ids_BT, self.spec.vocab)
        return None if self.spec.bos is None else ids_BT == self.spec.bos

    def entry(self, ids_BT: Tensor, starts_BT: Tensor | None) -> Tensor:
        """The normed embeddings that meet the smear gate."""
        x_BTC = self.tok_emb(ids_BT)
        if self.bigram is not None:
            x_BTC = x_BTC + self.bigram(ids_BT, starts_BT).to(x_BTC.dtype)
        return rms(x_BTC, EPS)

    def through(
        self,
        ids_BT: Tensor,
        x_BTC: Tensor,
        rope: tuple[Tensor, Tensor],
        inner: Tensor | None,
        outer: Tensor | None,
        tail: int,
    ) -> Tensor:
        """All blocks and the last norm. outer: the bias of the last block, which keeps `tail` positions."""
        start_BTC, time = x_BTC, x_BTC.shape[1]
        values = self._values(ids_BT, x_BTC.dtype)
        depth, skips = self.spec.layers // 2, []
        for layer, block in enumerate(self.blocks):
            last = layer == self.spec.layers - 1
            if layer >= depth and skips:
                x_BTC = x_BTC + self.skip_weights[layer - depth].to(x_BTC.dtype) * skips.pop()
            seen, kept = (outer, tail) if last else (inner, time)
            x_BTC = block(x_BTC, start_BTC, values.get(layer), rope, seen, kept)
            if layer < depth:
                skips.append(x_BTC)
        return rms(x_BTC, EPS)

    def _values(self, ids_BT: Tensor, dtype: torch.dtype) -> dict[int, Tensor]:
        """What each block adds to its values, by block number."""
        if self.ve_shared is None:
            return {}
        value_BTK = self.ve_shared(ids_BT)
        scales = zip(self.spec.value_layers, self.ve_layer_scales)
        return {layer: (scale * value_BTK).to(dtype) for layer, scale in scales}

    def rope(self, places: int, time: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines of R- for the first `places`, as an input of `time` tokens turns them."""
        spec, width = self.spec, self.spec.rotated
        base = spec.rope_base
        if time > spec.rope_length and width > 2:  # a single pair turns at rate 1 whatever the base
            base *= (time / spec.rope_length) ** (width / (width - 2))
        cos, sin = rope_table(places, width, base, device)
        return cos, -sin

    def open_cache(self, rows: int, window: int | None = None) -> Cache:
        """See `golf.arch.cache`. With `window`, the rotary base is that of inputs of so many tokens throughout."""
        from golf.arch import unet_cache

        return unet_cache.open_cache(self, rows, window)

    def read_on(self, ids_BT: Tensor, cache: Cache, tail: int | None = None) -> Tensor:
        """See `golf.arch.cache`. Past `rope_length`, without a window, each read starts over: all angles change."""
        from golf.arch import unet_cache

        return self._cap(unet_cache.read_on(self, ids_BT, cache, tail))
