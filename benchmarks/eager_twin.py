"""The `pr1361` model as one would first write it down from its specification: plain modules, no golf.

It is what golf's own U-Net is measured against, and an independent reference in its tests: parameters have
the same names, so a state dict moves between the two as it is.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1.1920929e-07


def rms_norm(x: Tensor) -> Tensor:
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + EPS)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos + second * sin, second * cos - first * sin, rest], dim=-1)


class Attention(nn.Module):
    def __init__(self, config: dict) -> None:
        super().__init__()
        self.heads, self.kv_heads = config["num_heads"], config["num_kv_heads"]
        dim = config["model_dim"]
        self.head_dim = dim // self.heads
        self.rope_dims = config["rope_dims"] or self.head_dim
        self.rope_base = config["rope_base"]
        self.c_q = nn.Linear(dim, dim, bias=False)
        self.c_k = nn.Linear(dim, self.kv_heads * self.head_dim, bias=False)
        self.c_v = nn.Linear(dim, self.kv_heads * self.head_dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)
        self.q_gain = nn.Parameter(torch.full((self.heads,), 1.5))

    def forward(self, x: Tensor, value: Tensor | None, xsa: bool) -> Tensor:
        batch, time, dim = x.shape
        q = self.c_q(x).view(batch, time, self.heads, self.head_dim)
        k = self.c_k(x).view(batch, time, self.kv_heads, self.head_dim)
        v = self.c_v(x)
        if value is not None:
            v = v + value
        v = v.view(batch, time, self.kv_heads, self.head_dim)
        q, k = rms_norm(q), rms_norm(k)
        base = self.rope_base
        if time > 1024:
            base = base * (time / 1024) ** (self.rope_dims / (self.rope_dims - 2))
        rates = base ** -(torch.arange(0, self.rope_dims, 2).float() / self.rope_dims)
        angles = torch.outer(torch.arange(time).float(), rates)[None, :, None, :]
        q, k = apply_rope(q, angles.cos(), angles.sin()), apply_rope(k, angles.cos(), angles.sin())
        q = q * self.q_gain[None, None, :, None]
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=2), v.repeat_interleave(group, dim=2)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
        ).transpose(1, 2)
        if xsa:
            unit = F.normalize(v, dim=-1, eps=1e-12)
            y = y - (y * unit).sum(-1, keepdim=True) * unit
        return self.proj(y.reshape(batch, time, dim))


class MLP(nn.Module):
    def __init__(self, config: dict) -> None:
        super().__init__()
        hidden = int(config["mlp_mult"] * config["model_dim"])
        self.fc = nn.Linear(config["model_dim"], hidden, bias=False)
        self.proj = nn.Linear(hidden, config["model_dim"], bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.leaky_relu(self.fc(x), 0.5).square())


class Block(nn.Module):
    def __init__(self, config: dict, layer: int) -> None:
        super().__init__()
        dim = config["model_dim"]
        self.attn, self.mlp = Attention(config), MLP(config)
        self.attn_scale = nn.Parameter(torch.ones(dim))
        self.mlp_scale = nn.Parameter(torch.ones(dim))
        self.resid_mix = nn.Parameter(torch.stack([torch.ones(dim), torch.zeros(dim)]))
        self.dtg_gate = nn.Linear(dim, 1) if config["dtg"] else None
        self.factor = 1 / math.sqrt(layer + 1) if config["ln_scale"] else 1.0
        self.xsa = layer >= config["num_layers"] - config["xsa_last_n"]

    def forward(self, x: Tensor, x0: Tensor, value: Tensor | None) -> Tensor:
        x_in = self.resid_mix[0] * x + self.resid_mix[1] * x0
        out = x_in + self.attn_scale * self.attn(self.factor * rms_norm(x_in), value, self.xsa)
        out = out + self.mlp_scale * self.mlp(self.factor * rms_norm(out))
        if self.dtg_gate is not None:
            out = x_in + torch.sigmoid(self.dtg_gate(x_in.detach())) * (out - x_in)
        return out


class SideTable(nn.Module):
    def __init__(self, rows: int, width: int, out: int, scale: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(rows, width)
        self.proj = nn.Linear(width, out, bias=False) if width != out else None
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, ids: Tensor) -> Tensor:
        looked_up = self.embed(ids)
        return self.scale * (looked_up if self.proj is None else self.proj(looked_up))


class Smear(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate)
        previous = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        return (1 - gate) * x + gate * previous


class Twin(nn.Module):
    """config: the original's settings, as in the published training script."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.config = config
        vocab, dim, layers = config["vocab_size"], config["model_dim"], config["num_layers"]
        buckets = config["bigram_vocab_size"]
        self.tok_emb = nn.Embedding(vocab, dim)
        nn.init.normal_(self.tok_emb.weight, std=0.005)
        self.bigram = SideTable(buckets, config["bigram_dim"], dim, 0.05) if buckets else None
        self.smear = Smear(dim)
        self.encoders = layers // 2
        self.skip_weights = nn.Parameter(torch.ones(min(self.encoders, layers - self.encoders), dim))
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(layers))
        named = [int(layer) for layer in config["ve_layers"].split(",")] if config["ve_enabled"] else []
        self.value_layers = named
        if named:
            width = config["num_kv_heads"] * (dim // config["num_heads"])
            self.ve_shared = SideTable(vocab, config["ve_dim"], width, 0.1)
            self.ve_layer_scales = nn.ParameterList(nn.Parameter(torch.ones(1)) for _ in named)
        if not config["tie_embeddings"]:
            self.lm_head = nn.Linear(dim, vocab, bias=False)

    def hash(self, ids: Tensor) -> Tensor:
        ids, buckets = ids.to(torch.int32), self.config["bigram_vocab_size"]
        hashed = torch.full_like(ids, buckets - 1)
        hashed[:, 1:] = torch.bitwise_xor(36313 * ids[:, 1:], 27191 * ids[:, :-1]) % (buckets - 1)
        return hashed.long()

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tok_emb(ids)
        if self.bigram is not None:
            x = x + self.bigram(self.hash(ids))
        x = x0 = self.smear(rms_norm(x))
        value = self.ve_shared(ids) if self.value_layers else None
        skips: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            if layer >= self.encoders and skips:
                x = x + self.skip_weights[layer - self.encoders] * skips.pop()
            own = None
            if layer in self.value_layers:
                own = self.ve_layer_scales[self.value_layers.index(layer)] * value
            x = block(x, x0, own)
            if layer < self.encoders:
                skips.append(x)
        x = rms_norm(x)
        head = self.tok_emb.weight if self.config["tie_embeddings"] else self.lm_head.weight
        cap = self.config["logit_softcap"]
        return cap * torch.tanh(F.linear(x, head) / cap)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self(ids).flatten(0, 1).float(), targets.flatten(), ignore_index=-100)
