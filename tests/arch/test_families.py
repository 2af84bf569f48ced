"""The phone book, specs as JSON, and the importer's refusals."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.arch import families
from golf.arch.unet import BigramHash, UNetSpec, ValueEmbedding
from golf.contracts import ArtifactError, CheckpointError, SpecError

CONFIG = {
    "vocab_size": 40,
    "num_layers": 2,
    "model_dim": 16,
    "num_heads": 2,
    "num_kv_heads": 1,
    "rope_dims": 4,
    "bigram_vocab_size": 10,
    "bigram_dim": 4,
    "ve_dim": 6,
    "ve_layers": "1",
}


def original(**changes):
    """A state dict as the original would write it, without golf's importer."""
    from golf.arch.unet_original import from_config

    torch.manual_seed(0)
    state = from_config(CONFIG | changes).build().state_dict()
    return {name: torch.randn_like(tensor) for name, tensor in state.items()}


SPECS = [
    UNetSpec(),
    UNetSpec().tiny(),
    UNetSpec(bigram=None, values=None, bos=None, documents=False, tied=False),
    UNetSpec(bigram=BigramHash(rows=7, init=0.5), values=ValueEmbedding(layers=(0, -1)), mlp_mult=2),
]


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_specs_survive_json(spec):
    values = json.loads(json.dumps(families.spec_to_json(spec)))
    assert values["family"] == "pr1361"
    assert families.spec_from_json(values) == spec


def test_build_from_json():
    spec = UNetSpec().tiny()
    model = families.build(families.spec_to_json(spec))
    assert model.spec == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": 3}, "no field 'layer'; did you mean 'layers'"),
        ({"dim": "512"}, r"pr1361.dim='512' must be int"),
        ({"layers": True}, r"pr1361.layers=True must be int"),
        ({"tied": 1}, "pr1361.tied=1 must be bool"),
        ({"bos": 1.0}, r"bos=1.0 must be int"),
        ({"bigram": [3, 4]}, "must be a table of the fields of BigramHash"),
        ({"values": {"dim": 4, "layers": [1.5]}}, r"values.layers=1.5 must be int"),
        ({"values": {"dim": 4}}, "pr1361.values lacks layers"),
    ],
    ids=str,
)
def test_malformed_json(change, message):
    with pytest.raises(ArtifactError, match=message):
        families.spec_from_json(families.spec_to_json(UNetSpec()) | change)


def test_missing_fields_are_named():
    values = families.spec_to_json(UNetSpec())
    del values["heads"], values["softcap"]
    with pytest.raises(ArtifactError, match="pr1361 lacks heads, softcap"):
        families.spec_from_json(values)


def test_values_that_cannot_work():
    with pytest.raises(SpecError, match="heads=7"):
        families.spec_from_json(families.spec_to_json(UNetSpec()) | {"heads": 7})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([*families.spec_to_json(UNetSpec())]), JSON)
def test_any_json_in_any_field_is_read_or_refused(name, value):
    try:
        spec = families.spec_from_json(families.spec_to_json(UNetSpec()) | {name: value})
    except (ArtifactError, SpecError):
        return
    assert name != "family" and getattr(replace(spec), name) == getattr(spec, name)


@pytest.mark.parametrize("value", [None, [], "pr1361", {}, {"family": 3}], ids=str)
def test_not_a_spec_at_all(value):
    with pytest.raises(ArtifactError, match="must be a table with a family"):
        families.spec_from_json(value)


def test_unknown_family():
    with pytest.raises(SpecError, match="did you mean 'pr1361'"):
        families.build({"family": "pr1316"})
    with pytest.raises(SpecError, match="no original checkpoints"):
        families.import_checkpoint("nosuch", {}, {})


def test_a_name_is_only_text_until_used():
    code = "import sys, golf.arch.families; sys.exit('golf.arch.unet' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_import_takes_over_every_value():
    state = original()
    state["tok_emb.weight"] = state["tok_emb.weight"].bfloat16()
    model = families.import_checkpoint("pr1361", state, CONFIG)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, state[name].float(), rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    before = state["smear.gate"].clone()
    with torch.no_grad():
        model.smear.gate.zero_()
    torch.testing.assert_close(state["smear.gate"], before)


def test_import_names_every_wrong_tensor():
    state = original()
    del state["smear.gate"]
    state["blocks.0.atn.c_q.weight"] = state.pop("blocks.0.attn.c_q.weight")
    state["blocks.1.mlp.fc.weight"] = torch.zeros(48, 17)
    state["skip_weights"] = torch.zeros(1, 16, dtype=torch.int64)
    with pytest.raises(CheckpointError) as caught:
        families.import_checkpoint("pr1361", state, CONFIG)
    for part in (
        "missing smear.gate [16]",
        "missing blocks.0.attn.c_q.weight [16, 16]",
        "unexpected blocks.0.atn.c_q.weight; did you mean 'blocks.0.attn.c_q.weight'",
        "blocks.1.mlp.fc.weight is [48, 17], not [48, 16]",
        "skip_weights holds torch.int64",
    ):
        assert part in str(caught.value)


def test_scalars_are_not_broadcast():
    state = original()
    state["bigram.scale"] = state["bigram.scale"].view(1)
    with pytest.raises(CheckpointError, match=r"bigram.scale is \[1\], not \[\]"):
        families.import_checkpoint("pr1361", state, CONFIG)


def test_heads_for_later_tokens_are_dropped_only_when_announced():
    state = original() | {
        "mtp_heads.0.weight": torch.zeros(40, 16),
        "mtp_heads.1.weight": torch.zeros(40, 16),
    }
    model = families.import_checkpoint("pr1361", state, CONFIG | {"mtp_num_heads": 2})
    assert not any(name.startswith("mtp") for name in model.state_dict())
    with pytest.raises(CheckpointError, match=r"unexpected mtp_heads.1.weight"):
        families.import_checkpoint("pr1361", state, CONFIG | {"mtp_num_heads": 1})
    state["mtp_heads.1.weight"] = torch.zeros(40, 15)
    with pytest.raises(CheckpointError, match=r"mtp_heads.1.weight is \[40, 15\], not \[40, 16\]"):
        families.import_checkpoint("pr1361", state, CONFIG | {"mtp_num_heads": 2})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 3}, "no setting 'n_layers'; did you mean 'num_layers'"),
        ({"num_layers": "11"}, "num_layers='11' must be int"),
        ({"tie_embeddings": 1}, "tie_embeddings=1 must be bool"),
        ({"num_heads": 3}, "heads=3"),
        ({"ve_layers": "1,x"}, "ve_layers='1,x'"),
        ({"ve_layers": "-1"}, "ve_layers='-1'"),
        ({"ve_layers": "5"}, "layers=2"),
        ({"logit_softcap": 0.0}, "softcap=0.0"),
    ],
    ids=str,
)
def test_impossible_configs(changes, message):
    with pytest.raises(SpecError, match=message):
        families.import_checkpoint("pr1361", {}, CONFIG | changes)


def test_published_settings_are_the_defaults():
    from golf.arch.unet_original import from_config

    spec = from_config({})
    undone = replace(UNetSpec(), bos=None, documents=False, rope_length=1024)
    assert replace(spec, values=undone.values) == undone
    assert spec.value_layers == undone.value_layers == (9, 10)
    assert from_config(CONFIG | {"ve_layers": " "}).values is None
    assert from_config(CONFIG | {"ve_enabled": False, "ve_layers": "1"}).values is None
    assert from_config(CONFIG | {"bigram_vocab_size": 0}).bigram is None


def test_a_checkpoint_of_another_size_is_refused_in_a_sentence():
    """What is wrong in one way is named eight times and then counted, or the sentence would fill pages."""
    with torch.device("meta"):
        state = families.original("xgqa").from_config({"num_layers": 1}).build().state_dict()
    with pytest.raises(CheckpointError, match=r"missing blocks\.1\.attn_norm\.weight \[128\]; .* 10 more missing$"):
        families.import_checkpoint("xgqa", state, {"num_layers": 3})
