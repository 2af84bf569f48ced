"""`gelu_gpt`: the nanochat GPT with GELU: smear, backout, residual scalars, gated value embeddings, sliding windows.

Source: model card mlnomad/gelu-d12-chinchilla-261M-pytorch and flaxchat's torch_port; starting values from its JAX
original. Parameters carry the names of its checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.arch.attention import as_bias, attend, within
from golf.arch.cache import Reading, Rope
from golf.arch.checks import above_zero, at_least, bounds, even, splits
from golf.arch.decoder import Bias, Decoder
from golf.arch.layers import Embedding, Linear, one_back, rms, rotate
from golf.arch.original import Original
from golf.contracts import SpecError

EPS = 1e-6
# What the original fixes in its code: scale of normed queries and keys, bound of the logits, channels that the
# smear gate and the gates of value embeddings read, tokens per unit of `window` that rotary positions reach.
QK_SCALE, SOFTCAP, SMEAR_READS, GATE_READS, REACH = 1.2, 15.0, 24, 12, 10


@dataclass(frozen=True, kw_only=True)
class GeluGPTSpec:
    """Shape of the GPT. Defaults are the published model, 261,096,338 parameters.

    vocab: width of the logits; tables have rows up to the next multiple of `pad_vocab`.
    window: how far back a long layer looks; a short one looks back a quarter, in steps of 128 tokens.
        10 windows are all it can read.
    pattern: S or L per layer, repeated; the last layer is long whatever it says.
    activation: "gelu" (tanh form) or "relu2" (squared ReLU).  tied: the head is the token table.
    """

    family: ClassVar[str] = "gelu_gpt"

    vocab: int = 32768
    pad_vocab: int = 64
    layers: int = 12
    dim: int = 768
    heads: int = 12
    kv_heads: int = 12
    window: int = 1024
    pattern: str = "SSSL"
    activation: str = "gelu"
    rope_base: float = 100000.0
    tied: bool = True

    def __post_init__(self) -> None:
        bounds(self, ("vocab", "pad_vocab", "layers", "dim", "heads", "kv_heads", "window"), ())
        above_zero("rope_base", self.rope_base)
        at_least(SMEAR_READS, "dim", self.dim)
        splits("dim", self.dim, "heads", self.heads)
        splits("heads", self.heads, "kv_heads", self.kv_heads)
        even("head width dim/heads", self.head_dim)
        if not self.pattern or set(self.pattern.upper()) - {"S", "L"}:
            raise SpecError(f"pattern={self.pattern!r} must be letters S (short) and L (long), such as 'SSSL'")
        if self.activation not in ("gelu", "relu2"):
            raise SpecError(f"activation={self.activation!r} must be 'gelu' or 'relu2'")

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def rows(self) -> int:
        """Rows of the tables."""
        return -(-self.vocab // self.pad_vocab) * self.pad_vocab

    @property
    def context(self) -> int:
        return REACH * self.window

    @property
    def windows(self) -> tuple[int, ...]:
        """How far back each layer looks. The short one is the longer where `window` is below 128."""
        short = 128 * math.ceil(math.ceil(self.window / 4) / 128)
        letters = [self.pattern[layer % len(self.pattern)].upper() for layer in range(self.layers - 1)] + ["L"]
        return tuple(self.window if letter == "L" else short for letter in letters)

    @property
    def value_layers(self) -> tuple[int, ...]:
        """Layers with a value embedding: every other one, so that the last has one."""
        return tuple(layer for layer in range(self.layers) if layer % 2 == (self.layers - 1) % 2)

    def build(self) -> GeluGPT:
        """A freshly initialized model, from torch's default random generator."""
        return GeluGPT(self)

    def tiny(self) -> GeluGPTSpec:
        kv_heads = 4 if self.kv_heads == self.heads else min(self.kv_heads, 2)
        return replace(self, layers=min(self.layers, 4), dim=64, heads=4, kv_heads=kv_heads)


class Attention(nn.Module):
    """Queries and keys are rotated first and normed then; a gate per value head lets the value embedding in."""

    def __init__(self, spec: GeluGPTSpec, layer: int) -> None:
        super().__init__()
        wide = spec.kv_heads * spec.head_dim
        self.c_q = Linear(spec.dim, spec.dim)
        self.c_k = Linear(spec.dim, wide)
        self.c_v = Linear(spec.dim, wide)
        self.c_proj = Linear(spec.dim, spec.dim)
        if layer in spec.value_layers:
            self.ve_gate = nn.Linear(GATE_READS, spec.kv_heads, bias=False, dtype=torch.float32)
        self.head_dim = spec.head_dim

    def forward(self, x_BTC: Tensor, value_BTK: Tensor | None, rope: Rope, bias: Bias, tail: int) -> Tensor:
        first, heads, (cos, sin) = x_BTC.shape[1] - tail, (-1, self.head_dim), rope
        q_BTHD = self.c_q(x_BTC[:, first:]).unflatten(-1, heads)
        k_BTGD = self.c_k(x_BTC).unflatten(-1, heads)
        v_BTGD = self.c_v(x_BTC).unflatten(-1, heads)
        if value_BTK is not None:
            gate_BTG = 3 * torch.sigmoid(F.linear(x_BTC[..., :GATE_READS], self.ve_gate.weight.to(x_BTC.dtype)))
            v_BTGD = v_BTGD + gate_BTG[..., None] * value_BTK.unflatten(-1, heads)
        q_BTHD = rms(rotate(q_BTHD, cos[..., first:, :, :], sin[..., first:, :, :]), EPS, QK_SCALE)
        k_BTGD = rms(rotate(k_BTGD, cos, sin), EPS, QK_SCALE)
        return self.c_proj(attend(q_BTHD, k_BTGD, v_BTGD, bias).flatten(2))


class MLP(nn.Module):
    """Four times as wide inside."""

    def __init__(self, spec: GeluGPTSpec) -> None:
        super().__init__()
        self.c_fc = Linear(spec.dim, 4 * spec.dim)
        self.c_proj = Linear(4 * spec.dim, spec.dim)
        self.smooth = spec.activation == "gelu"

    def forward(self, x_BTC: Tensor) -> Tensor:
        z = self.c_fc(x_BTC)
        return self.c_proj(F.gelu(z, approximate="tanh") if self.smooth else F.relu(z).square())


class Block(nn.Module):
    """Attention, then the MLP, each on the normed residual and added to it."""

    def __init__(self, spec: GeluGPTSpec, layer: int) -> None:
        super().__init__()
        self.attn = Attention(spec, layer)
        self.mlp = MLP(spec)

    def forward(self, x_BTC: Tensor, value_BTK: Tensor | None, rope: Rope, bias: Bias, tail: int) -> Tensor:
        """The last `tail` positions after the block."""
        y_BTC = self.attn(rms(x_BTC, EPS), value_BTK, rope, bias, tail)
        x_BTC = x_BTC[:, x_BTC.shape[1] - tail :] + y_BTC
        return x_BTC + self.mlp(rms(x_BTC, EPS))


class GeluGPT(Decoder):
    """The model. Every block reads a mix of the residual and of the first one; at the end a part of the middle one is
    taken back out."""

    flip = True

    def __init__(self, spec: GeluGPTSpec) -> None:
        super().__init__()
        self.spec = spec
        self.wte = Embedding(spec.rows, spec.dim)
        self.blocks = nn.ModuleList(Block(spec, layer) for layer in range(spec.layers))
        self.value_embeds = nn.ModuleDict(
            {str(layer): Embedding(spec.rows, spec.kv_heads * spec.head_dim) for layer in spec.value_layers}
        )
        self.resid_lambdas = nn.Parameter(torch.empty(spec.layers, dtype=torch.float32))
        self.x0_lambdas = nn.Parameter(torch.empty(spec.layers, dtype=torch.float32))
        self.smear_gate = nn.Linear(SMEAR_READS, 1, bias=False, dtype=torch.float32)
        self.smear_lambda = nn.Parameter(torch.empty(1, dtype=torch.float32))
        self.backout_lambda = nn.Parameter(torch.empty(1, dtype=torch.float32))
        self.lm_head = None if spec.tied else Linear(spec.dim, spec.rows)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw the starting weights of the JAX original: uniform matrices, those that write to the residual zero."""
        spec, side = self.spec, math.sqrt(3 / self.spec.dim)
        nn.init.normal_(self.wte.weight, std=0.8)
        for block in self.blocks:
            for layer in (block.attn.c_q, block.attn.c_k, block.attn.c_v):
                nn.init.uniform_(layer.weight, -side, side)
            nn.init.uniform_(block.mlp.c_fc.weight, -0.4 * side, 0.4 * side)
            nn.init.zeros_(block.attn.c_proj.weight)
            nn.init.zeros_(block.mlp.c_proj.weight)
        for layer, table in self.value_embeds.items():
            nn.init.uniform_(table.weight, -side, side)
            nn.init.uniform_(self.blocks[int(layer)].attn.ve_gate.weight, 0, 0.02)
        self.resid_lambdas.copy_(torch.linspace(1.15, 1.05, spec.layers))
        self.x0_lambdas.copy_(torch.linspace(0.20, 0.05, spec.layers))
        nn.init.zeros_(self.smear_lambda)
        nn.init.constant_(self.backout_lambda, 0.2)
        if self.lm_head is not None:
            nn.init.normal_(self.lm_head.weight, std=0.001)

    @property
    def table(self) -> Embedding:
        return self.wte

    @property
    def head(self) -> Embedding | Linear:
        return self.wte if self.lm_head is None else self.lm_head

    @property
    def spans(self) -> list[int | None]:
        return [window + 1 for window in self.spec.windows]

    def biases(self, time: int, tail: int, like: Tensor) -> list[Bias]:
        """One mask for each kind of window; none where a window holds everything."""

        def bias(span: int, tail: int) -> Tensor | None:
            if tail == time <= span:
                return None
            return as_bias(within(time, tail, span, like.device), like)

        *spans, last = self.spans
        inner = {span: bias(span, time) for span in set(spans)}
        return [inner[span] for span in spans] + [bias(last, tail)]

    def through(self, x_BTC: Tensor, ids_BT: Tensor, rope: Rope, biases: Sequence[Bias], tail: int) -> Tensor:
        spec = self.spec
        x_BTC = start_BTC = self._smear(rms(x_BTC, EPS), biases[0])
        middle_BTC = x_BTC
        for layer, (block, bias) in enumerate(zip(self.blocks, biases)):
            kept = tail if layer == spec.layers - 1 else x_BTC.shape[1]
            keep, restart = (mix[layer].to(x_BTC.dtype) for mix in (self.resid_lambdas, self.x0_lambdas))
            value_BTK = self.value_embeds[str(layer)](ids_BT) if layer in spec.value_layers else None
            x_BTC = block(keep * x_BTC + restart * start_BTC, value_BTK, rope, bias, kept)
            if layer == spec.layers // 2:
                middle_BTC = x_BTC
        middle_BTC = middle_BTC[:, middle_BTC.shape[1] - tail :]
        x_BTC = rms(x_BTC - self.backout_lambda.to(x_BTC.dtype) * middle_BTC, EPS)
        return SOFTCAP * torch.tanh(self.project(x_BTC)[..., : spec.vocab].float() / SOFTCAP)

    def _smear(self, x_BTC: Tensor, bias: Bias) -> Tensor:
        """Every token with a part of the one before it, as much as its own first channels say."""
        before_BTC = bias.recall("entry", x_BTC, 1)[:, :-1] if isinstance(bias, Reading) else one_back(x_BTC)
        gate_BT1 = torch.sigmoid(F.linear(x_BTC[..., :SMEAR_READS], self.smear_gate.weight.to(x_BTC.dtype)))
        return x_BTC + self.smear_lambda.to(x_BTC.dtype) * gate_BT1 * before_BTC


def _names(spec: GeluGPTSpec, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, str | None]:
    """Rotary tables are computed anew, and files of the Hub put a prefix before every name."""
    names = {name: name.removeprefix("model.") for name in state}
    return {name: None if ours in ("rope_cos", "rope_sin") else ours for name, ours in names.items()}


def _extras(spec: GeluGPTSpec) -> dict[str, Tensor]:
    """The rotary tables as the port computes them, [1, T, 1, D / 2]."""
    rates = 1.0 / spec.rope_base ** (torch.arange(0, spec.head_dim, 2, dtype=torch.float32) / spec.head_dim)
    angles = torch.outer(torch.arange(spec.context, dtype=torch.float32), rates)[None, :, None]
    return {"rope_cos": angles.cos(), "rope_sin": angles.sin()}


ORIGINAL = Original(
    spec=GeluGPTSpec,
    settings={
        "sequence_len": "window",
        "vocab_size": "vocab",
        "pad_vocab_size_to": "pad_vocab",
        "n_layer": "layers",
        "n_head": "heads",
        "n_kv_head": "kv_heads",
        "n_embd": "dim",
        "window_pattern": "pattern",
        "tie_embeddings": "tied",
        "rope_base": "rope_base",
        "mlp": "activation",
    },
    aliases={
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "num_key_value_heads": "n_kv_head",
        "hidden_size": "n_embd",
        "tie_word_embeddings": "tie_embeddings",
    },
    names=_names,
    extras=_extras,
)
