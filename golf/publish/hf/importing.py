"""Folders of Hugging Face as golf's weights: those that golf exported, and Llamas as QED where the shapes allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from golf.arch import families
from golf.arch.original import renamed
from golf.contracts import Model, SpecError
from golf.publish.hf.folder import FAMILIES, PREFIX, settings

# Settings of a Llama -> of QED's original code.
LLAMA = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_seq_len",
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "ffn_hidden_dim",
    "rms_norm_eps": "rms_norm_eps",
    "tie_word_embeddings": "tie_word_embeddings",
    "attention_bias": "bias",
}
# What transformers takes for a setting that config.json leaves out.
LEFT_OUT = {
    "vocab_size": 32000, "max_position_embeddings": 2048, "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "intermediate_size": 11008, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    "attention_bias": False,
}  # fmt: skip
NAMES = {
    "model.embed_tokens.weight": "embed_tokens.weight",
    "model.layers.{i}.self_attn.{part}.{leaf}": "layers.{i}.attention.{part}.{leaf}",
    "model.layers.{i}.mlp.{part}.{leaf}": "layers.{i}.mlp.{part}.{leaf}",
    "model.layers.{i}.input_layernorm.weight": "layers.{i}.input_norm.weight",
    "model.layers.{i}.post_attention_layernorm.weight": "layers.{i}.post_attn_norm.weight",
    "model.norm.weight": "norm.weight",
}


def exported(family: str, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Model | None:
    """The model of a folder that `golf export --to hf` wrote, golf's own settings included; None for any other."""
    if family not in FAMILIES or config.get("model_type") != FAMILIES[family].type:
        return None
    names = settings(families.spec_class(family)())
    if names.keys() - config.keys() or not all(name.startswith(PREFIX) for name in state):
        return None
    spec = families.spec_from_json({"family": family} | {field: config[name] for name, field in names.items()})
    with torch.device("meta"):
        model = spec.build()
    ours = {name.removeprefix(PREFIX): tensor.float() for name, tensor in state.items()}
    if ours.keys() != model.state_dict().keys():
        return None
    model.load_state_dict(ours, assign=True)
    return model


def is_llama(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a Llama."""
    return config.get("model_type") == "llama"


def as_qed(
    state: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A Llama as QED's original code would have stored it, with a bias of zeros on the head.

    Raises SpecError for what QED does not have, with the numbers.
    """
    values = {name: config.get(name, default) for name, default in LEFT_OUT.items()}
    heads, width = values["num_attention_heads"], values["hidden_size"]
    rope = config.get("rope_parameters") or {}
    bent = config.get("rope_scaling") or (rope if rope.get("rope_type", "default") != "default" else None)
    for name, found, wanted in (
        ("num_key_value_heads", config.get("num_key_value_heads") or heads, heads),
        ("head_dim", config.get("head_dim") or width // heads, width // heads),
        ("hidden_act", config.get("hidden_act", "silu"), "silu"),
        ("mlp_bias", config.get("mlp_bias", False), values["attention_bias"]),
        ("rope_scaling", bent, None),
    ):
        if found != wanted:
            raise SpecError(f"this Llama has {name}={found!r}, and QED computes with {wanted!r} only; it cannot be one")
    settings_there = {theirs: values[name] for name, theirs in LLAMA.items()}
    settings_there["rope_theta"] = float(rope.get("rope_theta") or config.get("rope_theta", 10000.0))
    settings_there["rms_norm_eps"] = float(settings_there["rms_norm_eps"])
    found = {renamed(name, NAMES): tensor for name, tensor in state.items() if not name.endswith("rotary_emb.inv_freq")}
    found.setdefault("lm_head.bias", torch.zeros(values["vocab_size"]))
    return found, settings_there
