"""Checkpoints of parameter-golf pull request 1361 as U-Nets. Kept apart: submissions do not need it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from golf.arch.original import Original, checked
from golf.arch.unet import BigramHash, UNetSpec, ValueEmbedding
from golf.contracts import CheckpointError, SpecError

# The original's settings that are fields of the spec under another name.
RENAMED = {
    "vocab_size": "vocab",
    "num_layers": "layers",
    "model_dim": "dim",
    "num_heads": "heads",
    "num_kv_heads": "kv_heads",
    "mlp_mult": "mlp_mult",
    "tie_embeddings": "tied",
    "logit_softcap": "softcap",
    "rope_base": "rope_base",
    "rope_dims": "rope_dims",
    "xsa_last_n": "xsa_last",
    "ln_scale": "ln_scale",
    "dtg": "dtg",
    "qk_gain_init": "qk_gain",
    "tied_embed_init_std": "embed_std",
}


def published() -> dict[str, Any]:
    """Every setting of the original with its published value."""
    spec = UNetSpec()
    return {name: getattr(spec, field) for name, field in RENAMED.items()} | {
        "bigram_vocab_size": spec.bigram.rows,
        "bigram_dim": spec.bigram.dim,
        "ve_enabled": True,
        "ve_dim": spec.values.dim,
        "ve_layers": ",".join(map(str, spec.value_layers)),
        "mtp_num_heads": 0,
        "mtp_loss_weight": 0.2,
    }


def from_config(config: Mapping[str, Any]) -> UNetSpec:
    """The spec of an original checkpoint, with the repairs that change numbers undone.

    config: the original's names; what is left out has its published value. Raises SpecError.
    """
    known = checked("pr1361", published(), config)
    rows, layers = known["bigram_vocab_size"], _layers(known["ve_layers"])
    return UNetSpec(
        **{field: known[name] for name, field in RENAMED.items()},
        bigram=BigramHash(rows=rows, dim=known["bigram_dim"]) if rows else None,
        values=ValueEmbedding(dim=known["ve_dim"], layers=layers) if known["ve_enabled"] and layers else None,
        rope_length=1024,  # a constant of the original's code, whatever it trained at
        bos=None,
        documents=False,
    )


def _layers(text: str) -> tuple[int, ...]:
    """Block numbers from text such as "9,10"."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise SpecError(f"ve_layers={text!r} must be block numbers with commas between, such as '9,10'")
    return tuple(map(int, parts))


def to_config(spec: UNetSpec) -> dict[str, Any]:
    """Every setting of the original for a spec; golf's repairs have none there."""
    return published() | {name: getattr(spec, field) for name, field in RENAMED.items()} | {
        "bigram_vocab_size": spec.bigram.rows if spec.bigram else 0,
        "bigram_dim": spec.bigram.dim if spec.bigram else published()["bigram_dim"],
        "ve_enabled": spec.values is not None,
        "ve_dim": spec.values.dim if spec.values else published()["ve_dim"],
        "ve_layers": ",".join(map(str, spec.value_layers)),
    }  # fmt: skip


def canonical(spec: UNetSpec) -> UNetSpec:
    """The spec without what only says how to draw starting weights, and with block numbers counted from 0."""
    return replace(
        spec,
        bigram=spec.bigram and replace(spec.bigram, init=BigramHash().init),
        values=spec.values and replace(spec.values, layers=spec.value_layers),
    )


def _later_heads(spec: UNetSpec, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, str | None]:
    """The heads for later tokens, which only training reads, are dropped.

    Raises CheckpointError when such a head has not the head's shape.
    """
    known = published() | dict(config)
    shape = [known["vocab_size"], known["model_dim"]]
    extra = {f"mtp_heads.{head}.weight" for head in range(known["mtp_num_heads"])}
    for name in sorted(extra & set(state)):
        if list(state[name].shape) != shape:
            raise CheckpointError(f"{name} is {list(state[name].shape)}, not {shape}; see vocab_size, model_dim")
    return dict.fromkeys(sorted(extra & set(state)))


class _Original(Original):
    """Settings of the original do not map one to one to fields: tables of the spec may be absent."""

    def from_config(self, config: Mapping[str, Any]) -> UNetSpec:
        return from_config(config)

    def to_config(self, spec: UNetSpec) -> dict[str, Any]:
        return to_config(spec)

    def canonical(self, spec: UNetSpec) -> UNetSpec:
        return canonical(spec)


ORIGINAL = _Original(spec=UNetSpec, settings=RENAMED, names=_later_heads)
