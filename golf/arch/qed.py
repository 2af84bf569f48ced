"""`qed`: QED-75M, a Llama-like decoder whose tied head has a bias of its own.

Source: model card levossadtchi/QED-75M and the code of Levos06/QED-75M. Parameters carry the names of its
checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.arch.attention import attend
from golf.arch.cache import Rope
from golf.arch.checks import at_least, bounds, even, splits
from golf.arch.decoder import Bias, Decoder
from golf.arch.layers import Affine, Embedding, Linear, Norm, rotate
from golf.arch.original import Original
from golf.contracts import CheckpointError, DataError, SpecError


@dataclass(frozen=True, kw_only=True)
class QEDSpec:
    """Shape of QED. Defaults are the published model, 75,571,584 parameters.

    context: tokens it can read at most.  eps: of every norm.  init_std: deviation of all starting weights.
    dropout: share of attention weights dropped in training.  tied: the head is the token table; its bias is its own
    either way.  bias: attention and MLP layers have one too.
    pad, bos, eos: the original's special tokens, which only what is exported says.
    """

    family: ClassVar[str] = "qed"

    vocab: int = 49152
    layers: int = 32
    dim: int = 384
    heads: int = 6
    hidden: int = 1024
    context: int = 8192
    rope_base: float = 10000.0
    eps: float = 1e-5
    init_std: float = 0.02
    dropout: float = 0.0
    tied: bool = True
    bias: bool = False
    pad: int = 0
    bos: int = 1
    eos: int = 2

    def __post_init__(self) -> None:
        bounds(self, ("vocab", "layers", "dim", "heads", "hidden", "context"), ("rope_base", "eps"))
        at_least(0, "init_std", self.init_std)
        if not 0 <= self.dropout < 1:
            raise SpecError(f"dropout={self.dropout} must be at least 0 and below 1")
        splits("dim", self.dim, "heads", self.heads)
        even("head width dim/heads", self.head_dim)

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    def build(self) -> QED:
        """A freshly initialized model, from torch's default random generator."""
        return QED(self)

    def tiny(self) -> QEDSpec:
        return replace(self, layers=min(self.layers, 3), dim=64, heads=4, hidden=min(self.hidden, 160))

    def linear(self, inputs: int, outputs: int) -> Linear:
        return Affine(inputs, outputs) if self.bias else Linear(inputs, outputs)


class Attention(nn.Module):
    """As many value heads as query heads, rotary; some weights dropped while training, if the spec says so."""

    def __init__(self, spec: QEDSpec) -> None:
        super().__init__()
        self.q_proj = spec.linear(spec.dim, spec.dim)
        self.k_proj = spec.linear(spec.dim, spec.dim)
        self.v_proj = spec.linear(spec.dim, spec.dim)
        self.o_proj = spec.linear(spec.dim, spec.dim)
        self.head_dim, self.dropout = spec.head_dim, spec.dropout

    def forward(self, x_BTC: Tensor, rope: Rope, bias: Bias, tail: int) -> Tensor:
        first, heads, (cos, sin) = x_BTC.shape[1] - tail, (-1, self.head_dim), rope
        q_BTHD = self.q_proj(x_BTC[:, first:]).unflatten(-1, heads)
        k_BTHD = self.k_proj(x_BTC).unflatten(-1, heads)
        v_BTHD = self.v_proj(x_BTC).unflatten(-1, heads)
        q_BTHD = rotate(q_BTHD, cos[..., first:, :, :], sin[..., first:, :, :])
        qkv = (q_BTHD, rotate(k_BTHD, cos, sin), v_BTHD)
        y_BTHD = self._drop(*qkv, bias) if self.training and self.dropout else attend(*qkv, bias)
        return self.o_proj(y_BTHD.flatten(2))

    def _drop(self, q_BTHD: Tensor, k_BTHD: Tensor, v_BTHD: Tensor, bias: Bias) -> Tensor:
        """`attend`, with some of the attention weights zero and the others larger by as much."""
        if callable(bias):
            q_BTHD, k_BTHD, v_BTHD, bias = bias.gather(q_BTHD, k_BTHD, v_BTHD)
        q, k, v = (part.transpose(1, 2) for part in (q_BTHD, k_BTHD, v_BTHD))
        dropped = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, is_causal=bias is None, dropout_p=self.dropout
        )
        return dropped.transpose(1, 2)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, spec: QEDSpec) -> None:
        super().__init__()
        self.gate_proj = spec.linear(spec.dim, spec.hidden)
        self.up_proj = spec.linear(spec.dim, spec.hidden)
        self.down_proj = spec.linear(spec.hidden, spec.dim)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_BTC)) * self.up_proj(x_BTC))


class Block(nn.Module):
    """Attention, then the MLP, each on the residual under a norm with gains, and added to it."""

    def __init__(self, spec: QEDSpec) -> None:
        super().__init__()
        self.input_norm = Norm(spec.dim, spec.eps)
        self.attention = Attention(spec)
        self.post_attn_norm = Norm(spec.dim, spec.eps)
        self.mlp = MLP(spec)

    def forward(self, x_BTC: Tensor, rope: Rope, bias: Bias, tail: int) -> Tensor:
        """The last `tail` positions after the block."""
        y_BTC = self.attention(self.input_norm(x_BTC), rope, bias, tail)
        x_BTC = x_BTC[:, x_BTC.shape[1] - tail :] + y_BTC
        return x_BTC + self.mlp(self.post_attn_norm(x_BTC))


class TiedHead(nn.Module):
    """What a tied head has of its own."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocab, dtype=torch.float32))


class QED(Decoder):
    """The model. Takes padding masks, in `forward` too, and positions when it reads on."""

    padded = True

    def __init__(self, spec: QEDSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embed_tokens = Embedding(spec.vocab, spec.dim)
        self.layers = nn.ModuleList(Block(spec) for _ in range(spec.layers))
        self.norm = Norm(spec.dim, spec.eps)
        self.lm_head = TiedHead(spec.vocab) if spec.tied else Affine(spec.dim, spec.vocab)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw the starting weights: matrices and tables normal, gains one, biases zero."""
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=self.spec.init_std)

    @property
    def stack(self) -> nn.ModuleList:
        return self.layers

    @property
    def table(self) -> Embedding:
        return self.embed_tokens

    @property
    def head(self) -> Embedding | Linear:
        return self.embed_tokens if self.spec.tied else self.lm_head

    def forward(self, ids_BT: Tensor, tail: int | None = None, attention_mask: Tensor | None = None) -> Tensor:
        """As `Decoder.forward`. attention_mask [B, T]: zero where a token is padding, which no other sees. What
        padding itself predicts is finite and means nothing."""
        if attention_mask is None:
            return super().forward(ids_BT, tail)
        if attention_mask.shape != ids_BT.shape:
            raise DataError(f"attention_mask is {list(attention_mask.shape)}, the input {list(ids_BT.shape)}")
        return self.read_on(ids_BT, self.open_cache(len(ids_BT)), tail, allowed_BS=attention_mask)

    def project(self, x_BTC: Tensor) -> Tensor:
        scores_BTV = super().project(x_BTC)
        return scores_BTV + self.lm_head.bias if self.spec.tied else scores_BTV


def _names(spec: QEDSpec, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, str]:
    """A tied file may hold the table a second time, as the head's weight."""
    head, table = state.get("lm_head.weight"), state.get("embed_tokens.weight")
    if not spec.tied or head is None or table is None:
        return {}
    if head.shape != table.shape or not torch.equal(head, table):
        raise CheckpointError(
            f"lm_head.weight {list(head.shape)} and embed_tokens.weight {list(table.shape)} differ, which "
            "tie_word_embeddings=true forbids; set it to false"
        )
    return {"lm_head.weight": "embed_tokens.weight"}


def _copies(spec: QEDSpec) -> dict[str, str]:
    return {"lm_head.weight": "embed_tokens.weight"} if spec.tied else {}


ORIGINAL = Original(
    spec=QEDSpec,
    settings={
        "vocab_size": "vocab",
        "max_seq_len": "context",
        "d_model": "dim",
        "n_layers": "layers",
        "n_heads": "heads",
        "ffn_hidden_dim": "hidden",
        "rope_theta": "rope_base",
        "rms_norm_eps": "eps",
        "initializer_range": "init_std",
        "dropout": "dropout",
        "tie_word_embeddings": "tied",
        "bias": "bias",
        "pad_token_id": "pad",
        "bos_token_id": "bos",
        "eos_token_id": "eos",
    },
    names=_names,
    copies=_copies,
    foreign={
        "model.embed_tokens.weight": "embed_tokens.weight",
        "model.layers.{i}.self_attn.{part}.{leaf}": "layers.{i}.attention.{part}.{leaf}",
        "model.layers.{i}.mlp.{part}.{leaf}": "layers.{i}.mlp.{part}.{leaf}",
        "model.layers.{i}.input_layernorm.weight": "layers.{i}.input_norm.weight",
        "model.layers.{i}.post_attention_layernorm.weight": "layers.{i}.post_attn_norm.weight",
        "model.norm.weight": "norm.weight",
    },
)
