"""`golf export --to hf`: a folder that transformers loads with trust_remote_code, without golf."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from golf.arch import families
from golf.contracts import ModelSpec
from golf.data import speaking, tokenizer_json
from golf.host import write_atomic
from golf.publish.bundle.flatten import flatten
from golf.publish.hf import card
from golf.publish.hf import tokenizer as hf_tokenizer
from golf.publish.use.source import Source

# Fields of specs that transformers knows under a name of its own.
STANDARD = {
    "vocab": "vocab_size",
    "layers": "num_hidden_layers",
    "dim": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "hidden": "intermediate_size",
    "context": "max_position_embeddings",
}

CLASSES = '''

class {name}Config(SpecConfig, PreTrainedConfig):
    model_type = "{type}"
    spec_class = {spec}
    settings = {settings}
    attribute_map = {aliases}
    caches = {caches}

    def __init__(self, **values):
        own, rest = self.split(values)
        super().__init__(**rest)
        self.settle(own)


class {name}ForCausalLM(CausalLM):
    config_class = {name}Config
    notes = {notes}
    pads = {pads}
'''


@dataclass(frozen=True)
class Names:
    """What a family is called on the Hub, and what `hf_model.CausalLM` has to know about it.

    caches: whether a plain forward returns a cache by default.  split: the configuration class is imported from a
    file of its own, as in the published folder.
    """

    type: str
    name: str
    notes: tuple[str, ...] | None = ()
    pads: bool = False
    caches: bool = True
    split: bool = False


FAMILIES = {
    "pr1361": Names("pr1361", "PR1361", notes=None),
    "gelu_gpt": Names("gelu_gpt", "GeluGPT", notes=("entry",), caches=False, split=True),
    "qed": Names("qed", "QED", pads=True),
    "xgqa": Names("gpt_s", "GPTS", pads=True),
    "powergqa": Names("powergqa", "PowerGQA", notes=None),
}
PREFIX = "model."  # before every name of a tensor


def export(source: Source, folder: Path) -> list[Path]:
    """Write configuration, weights, code, tokenizer and card; returns the files.

    Weights keep their type where all of them are bfloat16, else they are float32. Raises DataError for a tokenizer
    that Hugging Face's cannot express.
    """
    spec = families.spec_from_json(source.about["model"])
    names, special = FAMILIES[spec.family], _special(source)
    kinds = {tensor.dtype for tensor in source.weights.values()}
    dtype = torch.bfloat16 if kinds == {torch.bfloat16} else torch.float32
    texts = {
        "config.json": json.dumps(configuration(spec, dtype) | special, indent=2),
        "generation_config.json": json.dumps(_generation(special), indent=2),
        f"modeling_{names.type}.py": modeling(spec.family),
        "README.md": card.text(source, spec, names.type),
    }
    if names.split:
        texts[f"configuration_{names.type}.py"] = (
            f"from .modeling_{names.type} import {names.name}Config\n\n__all__ = [\"{names.name}Config\"]\n"
        )
    if source.spelled and not speaking.is_json(source.spelled):
        texts |= hf_tokenizer.files(source.spelled, getattr(spec, "context", None))
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomic(folder / name, (text.rstrip("\n") + "\n").encode())
    speech = tokenizer_json.write(folder, source.spelled) if source.spelled else []
    state = {PREFIX + name: tensor.to(dtype).contiguous() for name, tensor in source.weights.items()}
    weights = folder / "model.safetensors"
    save_file(state, folder / f".{weights.name}", {"format": "pt"})
    os.replace(folder / f".{weights.name}", weights)
    return [*(folder / name for name in texts), *speech, weights]


def settings(spec: ModelSpec) -> dict[str, str]:
    """Name in the configuration -> field of the spec, for every field: the original's names where it has them."""
    known = {field: name for name, field in families.original(spec.family).settings.items()}
    return {known.get(field.name, field.name): field.name for field in fields(spec)}


def configuration(spec: ModelSpec, dtype: torch.dtype) -> dict[str, Any]:
    """What config.json says of a model."""
    names, values = FAMILIES[spec.family], families.spec_to_json(spec)
    code = f"modeling_{names.type}"
    place = f"configuration_{names.type}" if names.split else code
    return {
        "architectures": [f"{names.name}ForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{place}.{names.name}Config",
            "AutoModelForCausalLM": f"{code}.{names.name}ForCausalLM",
        },
        "model_type": names.type,
        "dtype": str(dtype).removeprefix("torch."),
    } | {name: values[field] for name, field in settings(spec).items()}


def modeling(family: str) -> str:
    """The code of a family and its classes for transformers as one module that needs nothing of golf."""
    module, spec = families.FAMILIES[family].split(":")
    names, own = FAMILIES[family], settings(families.spec_class(family)())
    needs = [(module, spec), ("golf.publish.hf.model", "SpecConfig"), ("golf.publish.hf.model", "CausalLM")]
    classes = CLASSES.format(
        name=names.name,
        type=names.type,
        spec=spec,
        settings=_literal(own),
        aliases=_literal({STANDARD[field]: name for name, field in own.items() if STANDARD.get(field, name) != name}),
        caches=names.caches,
        notes=names.notes,
        pads=names.pads,
    )
    title = f'"""{names.name} for transformers, generated by golf from its own sources."""'
    return f"{title}\n\n{flatten(needs, extra=['from transformers import PreTrainedConfig'])}{classes}"


def _literal(values: dict[str, str]) -> str:
    """A table of names, spelled inside a class."""
    lines = [f'        "{name}": "{value}",' for name, value in values.items()]
    return "\n".join(["{", *lines, "    }"])


def _special(source: Source) -> dict[str, int]:
    """Ids of special tokens, as the tokenizer has them."""
    if not source.spelled:
        return {}
    speaker = speaking.speaker(source.spelled)
    found = {"bos_token_id": speaker.bos, "eos_token_id": speaker.eos, "pad_token_id": speaker.pad}
    return {name: token for name, token in found.items() if token >= 0}


def _generation(special: dict[str, int]) -> dict[str, Any]:
    """Where texts end: at EOS, or where the model begins another document."""
    ends = [special[name] for name in ("eos_token_id", "bos_token_id") if name in special]
    found: dict[str, Any] = {"use_cache": True} | special
    return found | {"eos_token_id": ends, "pad_token_id": special.get("pad_token_id", ends[0])} if ends else found
