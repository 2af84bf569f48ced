"""`xgqa`: GPT-S, a small Llama-like decoder whose grouped attention leaves out each token's own value (XSA).

Source: model card AxiomicLabs/GPT-S-1.4M, the sibling GPT-S2-5M where it is silent, and arXiv 2603.09078. Its code
and the names of its tensors are not published; the names here are golf's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.arch.attention import attend, exclude_self
from golf.arch.cache import Rope
from golf.arch.checks import bounds, even, splits
from golf.arch.decoder import Bias, Block, Decoder
from golf.arch.layers import Embedding, Linear, Norm, rotate
from golf.arch.original import Original


@dataclass(frozen=True, kw_only=True)
class GPTSSpec:
    """Shape of GPT-S. Defaults are the published model, 1,426,176 parameters.

    head_dim: width of a head, which need not be dim / heads.  hidden: of the MLP.
    context: tokens it can read at most.  eps: of every norm.  tied: the head is the token table.
    """

    family: ClassVar[str] = "xgqa"

    vocab: int = 4096
    layers: int = 5
    dim: int = 128
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    hidden: int = 341
    context: int = 384
    rope_base: float = 2500.0
    eps: float = 1e-6
    tied: bool = True

    def __post_init__(self) -> None:
        bounds(
            self,
            ("vocab", "layers", "dim", "heads", "kv_heads", "head_dim", "hidden", "context"),
            ("rope_base", "eps"),
        )
        splits("heads", self.heads, "kv_heads", self.kv_heads)
        even("head_dim", self.head_dim)

    def build(self) -> GPTS:
        """A freshly initialized model, from torch's default random generator."""
        return GPTS(self)

    def tiny(self) -> GPTSSpec:
        return replace(self, layers=min(self.layers, 3), dim=64, head_dim=16, hidden=min(self.hidden, 171))


class Attention(nn.Module):
    """Grouped queries, rotary; what a head returns has no part along its own value (exclusive self-attention)."""

    def __init__(self, spec: GPTSSpec) -> None:
        super().__init__()
        self.q_proj = Linear(spec.dim, spec.heads * spec.head_dim)
        self.k_proj = Linear(spec.dim, spec.kv_heads * spec.head_dim)
        self.v_proj = Linear(spec.dim, spec.kv_heads * spec.head_dim)
        self.o_proj = Linear(spec.heads * spec.head_dim, spec.dim)
        self.head_dim = spec.head_dim

    def forward(self, x_BTC: Tensor, rope: Rope, bias: Bias, tail: int) -> Tensor:
        first, heads, (cos, sin) = x_BTC.shape[1] - tail, (-1, self.head_dim), rope
        q_BTHD = self.q_proj(x_BTC[:, first:]).unflatten(-1, heads)
        k_BTGD = self.k_proj(x_BTC).unflatten(-1, heads)
        v_BTGD = self.v_proj(x_BTC).unflatten(-1, heads)
        q_BTHD = rotate(q_BTHD, cos[..., first:, :, :], sin[..., first:, :, :])
        y_BTHD = attend(q_BTHD, rotate(k_BTGD, cos, sin), v_BTGD, bias)
        return self.o_proj(exclude_self(y_BTHD, v_BTGD[:, first:]).flatten(2))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, spec: GPTSSpec) -> None:
        super().__init__()
        self.gate_proj = Linear(spec.dim, spec.hidden)
        self.up_proj = Linear(spec.dim, spec.hidden)
        self.down_proj = Linear(spec.hidden, spec.dim)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_BTC)) * self.up_proj(x_BTC))


class GPTS(Decoder):
    """The model. Takes padding masks and positions when it reads on."""

    padded = True

    def __init__(self, spec: GPTSSpec) -> None:
        super().__init__()
        self.spec = spec
        self.tok_emb = Embedding(spec.vocab, spec.dim)
        self.blocks = nn.ModuleList(Block(spec.dim, spec.eps, Attention(spec), MLP(spec)) for _ in range(spec.layers))
        self.norm = Norm(spec.dim, spec.eps)
        self.lm_head = None if spec.tied else Linear(spec.dim, spec.vocab)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw the starting weights: all N(0, 0.02), those that write to the residual smaller by sqrt(2 layers)."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.spec.layers) if writes else 0.02)

    @property
    def table(self) -> Embedding:
        return self.tok_emb

    @property
    def head(self) -> Embedding | Linear:
        return self.tok_emb if self.lm_head is None else self.lm_head


ORIGINAL = Original(
    spec=GPTSSpec,
    settings={
        "vocab_size": "vocab",
        "hidden_size": "dim",
        "num_layers": "layers",
        "num_heads": "heads",
        "num_kv_heads": "kv_heads",
        "head_dim": "head_dim",
        "intermediate": "hidden",
        "block_size": "context",
        "rope_theta": "rope_base",
        "rms_norm_eps": "eps",
        "tie_embeddings": "tied",
    },
    foreign={
        "model.embed_tokens.weight": "tok_emb.weight",
        "model.layers.{i}.self_attn.{part}.weight": "blocks.{i}.attn.{part}.weight",
        "model.layers.{i}.mlp.{part}.weight": "blocks.{i}.mlp.{part}.weight",
        "model.layers.{i}.input_layernorm.weight": "blocks.{i}.attn_norm.weight",
        "model.layers.{i}.post_attention_layernorm.weight": "blocks.{i}.mlp_norm.weight",
        "model.norm.weight": "norm.weight",
    },
)
