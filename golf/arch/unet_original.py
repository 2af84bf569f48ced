"""Checkpoints of parameter-golf pull request 1361 as U-Nets. Kept apart: submissions do not need it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from golf.arch.unet import BigramHash, UNetSpec, ValueEmbedding
from golf.contracts import SpecError

# What the original's settings are when a config does not name them.
PUBLISHED: dict[str, Any] = {
    "vocab_size": 1024,
    "num_layers": 11,
    "model_dim": 512,
    "num_heads": 8,
    "num_kv_heads": 4,
    "mlp_mult": 3.0,
    "tie_embeddings": True,
    "logit_softcap": 30.0,
    "rope_base": 10000.0,
    "rope_dims": 16,
    "bigram_vocab_size": 3072,
    "bigram_dim": 112,
    "xsa_last_n": 11,
    "ln_scale": True,
    "ve_enabled": True,
    "ve_dim": 128,
    "ve_layers": "9,10",
    "dtg": False,
    "qk_gain_init": 1.5,
    "tied_embed_init_std": 0.005,
    "mtp_num_heads": 0,
    "mtp_loss_weight": 0.2,
}


def from_config(config: Mapping[str, Any]) -> UNetSpec:
    """The spec of an original checkpoint, with the repairs that change numbers undone.

    config: the original's names; what is left out has its published value. Raises SpecError.
    """
    known = dict(PUBLISHED)
    for name, value in config.items():
        if name not in known:
            raise SpecError(f"pr1361 has no setting {name!r}; it has {', '.join(known)}")
        kinds = (int, float) if isinstance(known[name], float) else (type(known[name]),)
        if type(value) not in kinds:
            raise SpecError(f"{name}={value!r} must be of type {kinds[-1].__name__}")
        known[name] = value
    layers = tuple(int(part) for part in known["ve_layers"].split(",") if part.strip())
    return UNetSpec(
        vocab=known["vocab_size"],
        layers=known["num_layers"],
        dim=known["model_dim"],
        heads=known["num_heads"],
        kv_heads=known["num_kv_heads"],
        mlp_mult=float(known["mlp_mult"]),
        tied=known["tie_embeddings"],
        softcap=float(known["logit_softcap"]),
        bigram=BigramHash(rows=known["bigram_vocab_size"], dim=known["bigram_dim"])
        if known["bigram_vocab_size"]
        else None,
        values=ValueEmbedding(dim=known["ve_dim"], layers=layers) if known["ve_enabled"] and layers else None,
        xsa_last=known["xsa_last_n"],
        ln_scale=known["ln_scale"],
        dtg=known["dtg"],
        qk_gain=float(known["qk_gain_init"]),
        embed_std=float(known["tied_embed_init_std"]),
        rope_base=float(known["rope_base"]),
        rope_dims=known["rope_dims"],
        rope_length=1024,
        bos=None,
        documents=False,
    )


def from_state(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors the model takes: without the heads for later tokens, which only training reads."""
    heads = config.get("mtp_num_heads", 0)
    extra = {f"mtp_heads.{head}.weight" for head in range(heads)}
    return {name: tensor for name, tensor in state.items() if name not in extra}
