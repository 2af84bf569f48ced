"""`powergqa`: grouped attention whose heads talk before and after the softmax, beside a local convolution.

Source: model card Asilarknes/PowerGQA-778M. Heads are mixed between score and softmax, so no fused attention kernel
can be used: the scores of all heads exist together, [B, H, T, S].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.arch.attention import as_bias, within
from golf.arch.cache import Reading, Rope
from golf.arch.checks import bounds, even, splits
from golf.arch.decoder import Bias, Block, Decoder
from golf.arch.layers import Embedding, Linear, Norm, rotate
from golf.arch.original import Original


@dataclass(frozen=True, kw_only=True)
class PowerGQASpec:
    """Shape of PowerGQA. Defaults are the published model, 778,221,606 parameters.

    hidden: of the MLP.  kernel: tokens the convolution sees, the current one included.
    conv_bias: whether it adds a bias.  channel_gate: a gate of the convolution for each channel, not one for all.
    context: tokens it can read at most.  eps: of every norm.  tied: the head is the token table.
    """

    family: ClassVar[str] = "powergqa"

    vocab: int = 151665
    layers: int = 22
    dim: int = 1536
    heads: int = 24
    kv_heads: int = 6
    hidden: int = 4096
    kernel: int = 5
    conv_bias: bool = False
    channel_gate: bool = False
    context: int = 1024
    rope_base: float = 10000.0
    eps: float = 1e-6
    tied: bool = True

    def __post_init__(self) -> None:
        counts = ("vocab", "layers", "dim", "heads", "kv_heads", "hidden", "kernel", "context")
        bounds(self, counts, ("rope_base", "eps"))
        splits("dim", self.dim, "heads", self.heads)
        splits("heads", self.heads, "kv_heads", self.kv_heads)
        even("head width dim/heads", self.head_dim)

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    def build(self) -> PowerGQA:
        """A freshly initialized model, from torch's default random generator."""
        return PowerGQA(self)

    def tiny(self) -> PowerGQASpec:
        kv_heads = 4 if self.kv_heads == self.heads else min(self.kv_heads, 2)
        return replace(
            self, layers=min(self.layers, 3), dim=64, heads=4, kv_heads=kv_heads, hidden=min(self.hidden, 170)
        )


class Local(nn.Module):
    """A causal convolution of each channel by itself; the last tap is the current token."""

    def __init__(self, spec: PowerGQASpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(spec.dim, 1, spec.kernel, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(spec.dim, dtype=torch.float32)) if spec.conv_bias else None

    @property
    def reach(self) -> int:
        """Tokens before the current one that are seen."""
        return self.weight.shape[-1] - 1

    def forward(self, x_BSC: Tensor) -> Tensor:
        """x behind its `reach` predecessors; returns what belongs to the others."""
        bias = None if self.bias is None else self.bias.to(x_BSC.dtype)
        return F.conv1d(x_BSC.mT, self.weight.to(x_BSC.dtype), bias, groups=x_BSC.shape[-1]).mT


class Attention(nn.Module):
    """Talking heads over grouped values, a gate for each head, and a short convolution beside them."""

    def __init__(self, spec: PowerGQASpec, layer: int) -> None:
        super().__init__()
        self.q = Linear(spec.dim, spec.dim)
        self.k = Linear(spec.dim, spec.kv_heads * spec.head_dim)
        self.v = Linear(spec.dim, spec.kv_heads * spec.head_dim)
        self.o = Linear(spec.dim, spec.dim)
        self.q_norm = Norm(spec.head_dim, spec.eps)
        self.k_norm = Norm(spec.head_dim, spec.eps)
        self.pre_talk = nn.Parameter(torch.empty(spec.heads, spec.heads, dtype=torch.float32))
        self.post_talk = nn.Parameter(torch.empty(spec.heads, spec.heads, dtype=torch.float32))
        self.head_gate = nn.Parameter(torch.empty(spec.heads, dtype=torch.float32))
        self.local = Local(spec)
        self.local_gate = nn.Parameter(torch.empty(spec.dim if spec.channel_gate else 1, dtype=torch.float32))
        self.head_dim, self.layer = spec.head_dim, layer

    def forward(self, x_BTC: Tensor, rope: Rope, bias: Bias, tail: int) -> Tensor:
        first, heads, (cos, sin) = x_BTC.shape[1] - tail, (-1, self.head_dim), rope
        q_BTHD = self.q_norm(self.q(x_BTC[:, first:]).unflatten(-1, heads))
        k_BTGD = self.k_norm(self.k(x_BTC).unflatten(-1, heads))
        v_BTGD = self.v(x_BTC).unflatten(-1, heads)
        q_BTHD, k_BTGD = rotate(q_BTHD, cos[..., first:, :, :], sin[..., first:, :, :]), rotate(k_BTGD, cos, sin)
        y_BTHD = self._talk(q_BTHD, k_BTGD, v_BTGD, bias)
        y_BTHD = torch.sigmoid(self.head_gate)[:, None].to(y_BTHD.dtype) * y_BTHD
        if isinstance(bias, Reading):
            x_BSC = bias.recall(f"local.{self.layer}", x_BTC, self.local.reach)
        else:
            x_BSC = F.pad(x_BTC, (0, 0, self.local.reach, 0))
        local_BTC = self.local(x_BSC[:, first:])
        return self.o(y_BTHD.flatten(2)) + torch.sigmoid(self.local_gate).to(x_BTC.dtype) * local_BTC

    def _talk(self, q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, bias: Bias) -> Tensor:
        """Attention [B, T, H, D]; heads blend their scores before the mask, their weights after the softmax."""
        if isinstance(bias, Reading):
            q_BTHD, k_BSGD, v_BSGD, bias = bias.gather(q_BTHD, k_BSGD, v_BSGD)
        time, groups = q_BTHD.shape[1], k_BSGD.shape[2]
        if bias is None:
            bias = as_bias(within(time, time, None, q_BTHD.device), q_BTHD)
        q_BTGFD = q_BTHD.unflatten(2, (groups, -1))
        scores_BHTS = torch.einsum("btgfd,bsgd->bgfts", q_BTGFD, k_BSGD).flatten(1, 2) * self.head_dim**-0.5
        scores_BHTS = _blend(scores_BHTS, self.pre_talk) + bias
        weights_BHTS = _blend(scores_BHTS.softmax(-1, dtype=torch.float32).to(v_BSGD.dtype), self.post_talk)
        y_BTGFD = torch.einsum("bgfts,bsgd->btgfd", weights_BHTS.unflatten(1, (groups, -1)), v_BSGD)
        return y_BTGFD.flatten(2, 3)


def _blend(x_BHTS: Tensor, mix_HH: Tensor) -> Tensor:
    """Output head g is the sum of heads h, each times mix[h, g]."""
    return torch.einsum("bhts,hg->bgts", x_BHTS, mix_HH.to(x_BHTS.dtype))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, spec: PowerGQASpec) -> None:
        super().__init__()
        self.gate = Linear(spec.dim, spec.hidden)
        self.up = Linear(spec.dim, spec.hidden)
        self.down = Linear(spec.hidden, spec.dim)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x_BTC)) * self.up(x_BTC))


class PowerGQA(Decoder):
    """The model."""

    def __init__(self, spec: PowerGQASpec) -> None:
        super().__init__()
        self.spec = spec
        self.tok_emb = Embedding(spec.vocab, spec.dim)
        self.blocks = nn.ModuleList(
            Block(spec.dim, spec.eps, Attention(spec, layer), MLP(spec)) for layer in range(spec.layers)
        )
        self.norm = Norm(spec.dim, spec.eps)
        self.lm_head = None if spec.tied else Linear(spec.dim, spec.vocab)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw the starting weights: matrices N(0, 0.02), heads that do not talk yet, a weak convolution."""
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
        for block in self.blocks:
            for mix_HH in (block.attn.pre_talk, block.attn.post_talk):
                nn.init.eye_(mix_HH)
            nn.init.constant_(block.attn.head_gate, 2.0)
            nn.init.constant_(block.attn.local_gate, -2.0)

    @property
    def table(self) -> Embedding:
        return self.tok_emb

    @property
    def head(self) -> Embedding | Linear:
        return self.tok_emb if self.lm_head is None else self.lm_head


def _adjust(spec: PowerGQASpec, state: Mapping[str, Tensor]) -> PowerGQASpec:
    """What the configuration does not say but the tensors do."""
    gate = state.get("blocks.0.attn.local_gate")
    return replace(
        spec,
        conv_bias=spec.conv_bias or "blocks.0.attn.local.bias" in state,
        channel_gate=gate is not None and gate.numel() == spec.dim > 1,
    )


ORIGINAL = Original(
    spec=PowerGQASpec,
    settings={
        "vocab_size": "vocab",
        "dim": "dim",
        "n_layers": "layers",
        "n_heads": "heads",
        "n_kv_heads": "kv_heads",
        "mlp_hidden": "hidden",
        "conv_kernel": "kernel",
        "conv_bias": "conv_bias",
        "rope_theta": "rope_base",
        "norm_eps": "eps",
        "max_seq_len": "context",
        "tie_embeddings": "tied",
    },
    reshaped=("attn.head_gate", "attn.local_gate"),
    adjust=_adjust,
)
