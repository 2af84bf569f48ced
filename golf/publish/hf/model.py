"""Any family as transformers knows models. `publish.hf` writes these classes and the family's code into one file."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from golf.arch.cache import Cache


class SpecConfig:
    """What a configuration class adds to transformers': the spec, spelled as its attributes.

    spec_class: the family's.  settings: name of an attribute -> field of the spec.
    """

    spec_class: type
    settings: dict[str, str]
    caches: bool

    def split(self, values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings, those left out as published, and what is transformers' own."""
        published = self.spec_class()
        own = {name: values.get(name, getattr(published, field)) for name, field in self.settings.items()}
        rest = {name: value for name, value in values.items() if name not in self.settings}
        return {name: as_json(value) for name, value in own.items()}, rest

    def settle(self, own: dict[str, Any]) -> None:
        """Set what `split` gave, and what follows from it."""
        for name, value in own.items():
            setattr(self, name, value)
        spec = self.spec()
        self.tie_word_embeddings = spec.tied
        if "max_position_embeddings" not in self.attribute_map:
            self.max_position_embeddings = getattr(spec, "context", None) or spec.rope_length

    def spec(self) -> Any:
        """Raises ValueError for settings that cannot work."""
        published = self.spec_class()
        given = {field: getattr(self, name) for name, field in self.settings.items()}
        return self.spec_class(**{field: as_field(value, getattr(published, field)) for field, value in given.items()})


def as_json(value: Any) -> Any:
    """A field of a spec as JSON has it."""
    if is_dataclass(value):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    return [as_json(entry) for entry in value] if isinstance(value, (tuple, list)) else value


def as_field(value: Any, like: Any) -> Any:
    """Undo `as_json`; `like` is a field of the same kind."""
    if isinstance(value, dict):
        return type(like)(**{name: as_field(entry, getattr(like, name)) for name, entry in value.items()})
    return tuple(value) if isinstance(value, list) else value


class CausalLM(PreTrainedModel, GenerationMixin):
    """The family's model, with the inputs, outputs and errors of a causal language model of transformers.

    notes: what the family's cache holds beside keys and values. Nothing: `past_key_values` is a tuple of a pair
        (keys, values), each [B, G, S, D], for every block. One name: that tuple, and the tensor of that name. None:
        that tuple, and all of them by name.
    pads: attention masks with zeros and positions of one's own are understood.
    """

    notes: tuple[str, ...] | None
    pads: bool
    base_model_prefix = "model"
    _supports_cache_class = False
    _is_stateful = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        # transformers asks for a number type by way of the default one; the family's parameters are float32.
        self.model = config.spec().build().to(torch.get_default_dtype())
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing: building the model has drawn its weights."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def get_input_embeddings(self) -> torch.nn.Module:
        return getattr(self.model, "table", None) or self.model.tok_emb

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        num_items_in_batch: Any = None,
        **others: Any,
    ) -> Any:
        """Logits [B, T, V] in float32, of the last `logits_to_keep` positions if that is not 0.

        labels: the targets as transformers has them, equal to `input_ids`: each is predicted one position earlier;
            -100 is skipped.
        attention_mask: [B, T] or [B, S], S columns for cached and new tokens; zero is padding.
        Raises ValueError for what the model cannot honor, rather than pass over it.
        """
        for name, value in others.items():
            if value is not None and value is not False:
                raise ValueError(f"{type(self).__name__} does not take {name}")
        if input_ids is None:
            raise ValueError("input_ids is None; this model reads tokens only")
        rows, time = input_ids.shape
        if use_cache is None:
            usual = getattr(self.config, "use_cache", self.config.caches)
            use_cache = past_key_values is not None or (usual and not self.training)
        tail = min(logits_to_keep, time) or None if labels is None else None
        cache = self._cache(past_key_values, rows)
        padding = self._padding(attention_mask, position_ids, rows, cache.seen, time)
        if use_cache or padding or cache.seen:
            logits = self.model.read_on(input_ids, cache, tail, **padding)
        else:
            logits = self.model(input_ids, tail)
        loss = None
        if labels is not None:
            reduction = "mean" if num_items_in_batch is None else "sum"
            targets = labels[:, 1:].flatten().to(logits.device)
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets, ignore_index=-100, reduction=reduction)
            loss = loss if num_items_in_batch is None else loss / num_items_in_batch
        past = self._as_past(cache) if use_cache else None
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past)
        return output.to_tuple() if return_dict is False else output

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, past_key_values: Any = None, attention_mask: Tensor | None = None, **others: Any
    ) -> dict[str, Any]:
        """Only what the cache does not hold yet is read. Positions count on from 0 whatever the padding."""
        seen = 0 if past_key_values is None else self._pairs(past_key_values)[0][0].shape[2]
        return {
            "input_ids": input_ids[:, seen:],
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
            "use_cache": others.get("use_cache"),
            "logits_to_keep": others.get("logits_to_keep", 0),
        }

    def _reorder_cache(self, past_key_values: Any, beam_idx: Tensor) -> Any:
        rows = len(self._pairs(past_key_values)[0][0])
        return self._as_past(self._cache(past_key_values, rows).pick(beam_idx))

    def _padding(
        self, mask: Tensor | None, places: Tensor | None, rows: int, seen: int, time: int
    ) -> dict[str, Tensor]:
        """What the model has to be told about padding and positions."""
        if mask is not None and list(mask.shape) not in ([rows, time], [rows, seen + time]):
            fitting = f"[{rows}, {time}] or [{rows}, {seen + time}]"
            raise ValueError(f"attention_mask is {list(mask.shape)}; it must be {fitting}")
        padded = mask is not None and not bool(mask.bool().all())
        moved = False
        if places is not None:
            usual = torch.arange(seen, seen + time, device=places.device)
            moved = places.shape[-1] != time or not bool((places == usual).all())
        if not self.pads and (padded or moved):
            what = "an attention_mask with zeros" if padded else f"positions other than {seen}..{seen + time - 1}"
            raise ValueError(f"{type(self).__name__} cannot honor {what}; give it rows of one length, in order")
        return ({"allowed_BS": mask} if padded else {}) | ({"places_BT": places} if moved else {})

    @staticmethod
    def _pairs(past: Any) -> Any:
        """Keys and values of every block."""
        return past if isinstance(past[0][0], Tensor) else past[0]

    def _cache(self, past: Any, rows: int) -> Cache:
        cache = self.model.open_cache(rows)
        cache.forget = False  # the tuple tells by its length how much has been read
        if past is None:
            return cache
        if not isinstance(past, (tuple, list)) or not past:
            raise ValueError(f"past_key_values must be what this model returned, not a {type(past).__name__}")
        pairs = self._pairs(past)
        if len(pairs) != len(cache.spans):
            raise ValueError(f"past_key_values holds {len(pairs)} layers, the model has {len(cache.spans)}")
        cache.blocks = [(keys.transpose(1, 2), values.transpose(1, 2)) for keys, values in pairs]
        cache.seen = cache.kept
        if pairs is not past:
            held = past[1]
            cache.notes = dict(held) if isinstance(held, dict) else {} if held is None else {self.notes[0]: held}
        return cache

    def _as_past(self, cache: Cache) -> Any:
        pairs = tuple((keys.transpose(1, 2), values.transpose(1, 2)) for keys, values in cache.blocks)
        if self.notes == ():
            return pairs
        return pairs, dict(cache.notes) if self.notes is None else cache.notes[self.notes[0]]
