"""Checkpoints of original code come in by every door and go out as they came, to the bit."""

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from golf.arch import families
from golf.cli import cli
from golf.contracts import CheckpointError, DataError, SpecError
from golf.publish.use.source import open_source

CONFIGS = {
    "pr1361": {
        "vocab_size": 40, "num_layers": 2, "model_dim": 16, "num_heads": 2, "num_kv_heads": 1, "rope_dims": 4,
        "bigram_vocab_size": 10, "bigram_dim": 4, "ve_dim": 6, "ve_layers": "1",
    },
    "gelu_gpt": {"sequence_len": 32, "vocab_size": 40, "n_layer": 3, "n_head": 2, "n_kv_head": 1, "n_embd": 24},
    "qed": {"vocab_size": 40, "max_seq_len": 32, "d_model": 16, "n_layers": 2, "n_heads": 2, "ffn_hidden_dim": 24},
    "xgqa": {"vocab_size": 40, "hidden_size": 16, "num_layers": 2, "head_dim": 6, "intermediate": 24},
    "powergqa": {"vocab_size": 40, "dim": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "mlp_hidden": 24},
}  # fmt: skip
every_family = pytest.mark.parametrize("family", CONFIGS)


def golf(*words):
    outcome = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def checkpoint(family, **changes):
    """Random tensors under the names of the original, every other one in bfloat16."""
    torch.manual_seed(0)
    original = families.original(family)
    spec = original.from_config(CONFIGS[family] | changes)
    state = {name: torch.randn_like(tensor) for name, tensor in spec.build().state_dict().items()}
    state = {
        name: tensor.bfloat16() if place % 2 else tensor
        for place, (name, tensor) in enumerate(state.items())
    }
    return state | {theirs: state[ours].clone() for theirs, ours in original.copies(spec).items()}


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype and one[name].shape == other[name].shape, name
        assert torch.equal(one[name], other[name]), name


def there_and_back(folder, family, source, *options):
    """The tensors and the configuration that come back from a file imported by the command line."""
    golf("import", source, "--family", family, *options, "-o", folder / "w.safetensors")
    golf("export", folder / "w.safetensors", "--to", "original", "-o", folder / "back")
    back = folder / "back"
    return load_file(back / "model.safetensors"), json.loads((back / "config.json").read_text())


@every_family
def test_there_and_back(family, tmp_path):
    state, config = checkpoint(family), tmp_path / "config.json"
    save_file(state, tmp_path / "model.safetensors")
    config.write_text(json.dumps(CONFIGS[family]))
    again, settings = there_and_back(tmp_path, family, tmp_path / "model.safetensors", "--config", config)
    same(again, state)
    assert settings == CONFIGS[family]
    model = families.import_checkpoint(family, state, CONFIGS[family])
    source = open_source(tmp_path / "w.safetensors")
    assert source.build().spec == model.spec and source.about["eval"]["window"] <= 1024
    with pytest.raises(DataError, match="imported without its tokenizer"):
        source.tokenizer  # noqa: B018
    again, settings = there_and_back(tmp_path / "folder", family, tmp_path / "back")
    same(again, state)


@every_family
def test_what_golf_made_has_the_published_names(family, tmp_path):
    """Without an imported file to remember, names and settings are those of the published checkpoints."""
    from golf.train import checkpoint as files

    original = families.original(family)
    spec = original.from_config(CONFIGS[family])
    model = spec.build()
    files.save_weights(
        tmp_path / "w.safetensors",
        model.state_dict(),
        {"model": families.spec_to_json(spec), "tokenizer_sha256": ""},
    )
    golf("export", tmp_path / "w.safetensors", "--to", "original", "-o", tmp_path / "out")
    state = load_file(tmp_path / "out" / "model.safetensors")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert set(state) == set(checkpoint(family))
    assert CONFIGS[family].items() <= config.items()
    again = families.import_checkpoint(family, state, config)
    assert original.canonical(again.spec) == original.canonical(spec)
    same(dict(again.state_dict()), dict(model.state_dict()))


def test_repairs_have_no_original_form(tmp_path):
    from golf.arch.unet import UNetSpec
    from golf.train import checkpoint as files

    spec = UNetSpec(vocab=500).tiny()
    about = {"model": families.spec_to_json(spec), "tokenizer_sha256": ""}
    files.save_weights(tmp_path / "w.safetensors", spec.build().state_dict(), about)
    with pytest.raises(
        SpecError, match="no setting for rope_length=2048, bos=1, documents=True; export --to hf"
    ):
        golf("export", tmp_path / "w.safetensors", "--to", "original", "-o", tmp_path / "out")


@pytest.mark.parametrize("suffix", ["pt", "bin"])
@pytest.mark.parametrize(
    ("family", "weights", "settings"),
    [
        ("gelu_gpt", "state_dict", "config"),
        ("qed", "model", "model_config"),
        ("powergqa", "model", "cfg"),
        ("xgqa", None, None),
    ],
)
def test_files_of_torch(family, weights, settings, suffix, tmp_path):
    """As training code saves them: among other things, or bare."""
    state, file = checkpoint(family), tmp_path / f"model.{suffix}"
    options = ()
    if weights is None:
        torch.save(state, file)
        (tmp_path / "c.json").write_text(json.dumps(CONFIGS[family]))
        options = ("--config", tmp_path / "c.json")
    else:
        torch.save(
            {"step": 3, weights: state, settings: CONFIGS[family], "optimizer": {"lr": torch.ones(1)}}, file
        )
    again, config = there_and_back(tmp_path, family, file, *options)
    same(again, state)
    assert config == CONFIGS[family]


def test_old_files_of_torch_too(tmp_path):
    state = checkpoint("xgqa")
    torch.save(
        {"state_dict": state, "config": CONFIGS["xgqa"]},
        tmp_path / "m.pt",
        _use_new_zipfile_serialization=False,
    )
    same(there_and_back(tmp_path, "xgqa", tmp_path / "m.pt")[0], state)


def test_a_hub_file_of_gelu_gpt(tmp_path):
    """A prefix before every name, rotary tables, and housekeeping in the configuration."""
    state = {f"model.{name}": tensor for name, tensor in checkpoint("gelu_gpt").items()}
    tables = families.original("gelu_gpt").extras(
        families.original("gelu_gpt").from_config(CONFIGS["gelu_gpt"])
    )
    assert tables["rope_cos"].shape == (1, 320, 1, 6)
    config = CONFIGS["gelu_gpt"] | {
        "model_type": "gelu_gpt", "architectures": ["GeluGPTForCausalLM"], "num_hidden_layers": 3, "hidden_size": 24,
        "max_position_embeddings": 320, "tie_word_embeddings": True,
    }  # fmt: skip
    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "config.json").write_text(json.dumps(config))
    whole = state | {f"model.{name}": table for name, table in tables.items()}
    save_file(whole, hub / "model.safetensors")
    again, settings = there_and_back(tmp_path, "gelu_gpt", hub)
    same(again, whole)
    assert settings == config
    save_file(state | {"model.rope_sin": torch.ones(1)}, hub / "model.safetensors")
    again, _ = there_and_back(tmp_path, "gelu_gpt", hub)
    same(again, state)
    with pytest.raises(SpecError, match="num_hidden_layers=4 and n_layer=3 are one setting"):
        families.import_checkpoint("gelu_gpt", state, config | {"num_hidden_layers": 4})
    with pytest.raises(CheckpointError, match="unexpected inv_freq"):
        families.import_checkpoint("gelu_gpt", state | {"model.inv_freq": torch.ones(1)}, config)


def test_tied_files_of_qed():
    state = checkpoint("qed")
    del state["lm_head.weight"]
    model = families.import_checkpoint("qed", state, CONFIGS["qed"])
    state["lm_head.weight"] = state["embed_tokens.weight"].clone()
    state["lm_head.weight"][3, 4] += 1
    with pytest.raises(
        CheckpointError, match=r"lm_head.weight \[40, 16\] and embed_tokens.weight .* differ"
    ):
        families.import_checkpoint("qed", state, CONFIGS["qed"])
    loose = families.import_checkpoint("qed", state, CONFIGS["qed"] | {"tie_word_embeddings": False})
    ids = torch.arange(8)[None]
    with torch.no_grad():
        change = (loose(ids) - model(ids)).abs().amax((0, 1))
    assert change[3] > 1e-3 and change[4:].max() < 1e-5


@pytest.mark.parametrize("shape", [(4,), (1, 4, 1, 1), (4, 1, 1)], ids=str)
def test_gates_of_powergqa_in_any_shape(shape, tmp_path):
    state = checkpoint("powergqa")
    for layer in range(2):
        state[f"blocks.{layer}.attn.head_gate"] = state[f"blocks.{layer}.attn.head_gate"].view(shape)
        state[f"blocks.{layer}.attn.local_gate"] = torch.randn(1, 1, 16)
        state[f"blocks.{layer}.attn.local.bias"] = torch.randn(16)
    torch.save({"model": state, "cfg": CONFIGS["powergqa"], "step": 13500}, tmp_path / "m.pt")
    again, _ = there_and_back(tmp_path, "powergqa", tmp_path / "m.pt")
    same(again, state)
    spec = open_source(tmp_path / "w.safetensors").build().spec
    assert spec.conv_bias and spec.channel_gate
    state["blocks.1.attn.head_gate"] = torch.randn(5)
    with pytest.raises(CheckpointError, match=r"blocks.1.attn.head_gate is \[5\], not \[4\]"):
        families.import_checkpoint("powergqa", state, CONFIGS["powergqa"])


def test_names_of_others(tmp_path):
    """Llama's are known to `xgqa`; any other table is given with --rename."""
    state = checkpoint("xgqa")
    llama = {
        "tok_emb.weight": "model.embed_tokens.weight",
        "attn_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
        "attn.": "self_attn.",
        "blocks.": "model.layers.",
    }
    foreign = {}
    for name, tensor in state.items():
        for ours, theirs in llama.items():
            name = name.replace(ours, theirs)
        foreign["model.norm.weight" if name == "norm.weight" else name] = tensor
    assert "model.layers.1.self_attn.q_proj.weight" in foreign
    torch.save({"state_dict": foreign, "config": CONFIGS["xgqa"]}, tmp_path / "m.pt")
    same(there_and_back(tmp_path, "xgqa", tmp_path / "m.pt")[0], foreign)

    odd = {name.replace("blocks.", "h_").replace(".attn.", "/"): tensor for name, tensor in state.items()}
    torch.save({"state_dict": odd, "config": CONFIGS["xgqa"]}, tmp_path / "m.pt")
    table = {"h_{i}/{part}.weight": "blocks.{i}.attn.{part}.weight", "h_{i}.{a}.weight": "blocks.{i}.{a}.weight"}
    table |= {"h_{i}.{a}.{b}.weight": "blocks.{i}.{a}.{b}.weight"}
    (tmp_path / "names.json").write_text(json.dumps(table))
    same(there_and_back(tmp_path, "xgqa", tmp_path / "m.pt", "--rename", tmp_path / "names.json")[0], odd)

    with pytest.raises(CheckpointError, match=r"two tensors of the file would both be norm.weight"):
        families.import_checkpoint("xgqa", state, CONFIGS["xgqa"], {"blocks.{i}.mlp_norm.weight": "norm.weight"})
    with pytest.raises(SpecError, match="no rule for names"):
        families.import_checkpoint("xgqa", state, CONFIGS["xgqa"], {"norm.{i}": "{j}"})


class Evil:
    def __reduce__(self):
        return (print, ("this ran",))


def test_nothing_in_a_file_is_run(tmp_path, capsys):
    torch.save({"state_dict": checkpoint("xgqa"), "config": Evil()}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="does not hold plain tensors and values alone"):
        golf("import", tmp_path / "m.pt", "--family", "xgqa", "-o", tmp_path / "w.safetensors")
    assert "this ran" not in capsys.readouterr().out
    assert not (tmp_path / "w.safetensors").exists()


def test_what_cannot_be_read(tmp_path):
    def refused(error, match, file, *options):
        with pytest.raises(error, match=match):
            golf("import", tmp_path / file, "--family", "xgqa", *options, "-o", tmp_path / "w.safetensors")

    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08")
    (tmp_path / "model.npz").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "no.json").write_text("{")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(checkpoint("xgqa"), tmp_path / "bare.pt")
    refused(CheckpointError, "cannot be read as torch wrote it", "cut.pt")
    refused(CheckpointError, "nowhere.pt does not exist", "nowhere.pt")
    refused(CheckpointError, "not a readable .safetensors", "cut.safetensors")
    refused(CheckpointError, "model.npz is none of .safetensors, .pt", "model.npz")
    refused(CheckpointError, "holds no .safetensors", "empty")
    refused(CheckpointError, "no table of tensors by name", "list.pt")
    refused(SpecError, "name a JSON file with --config", "bare.pt")
    refused(SpecError, "must hold one JSON object, found list", "bare.pt", "--config", tmp_path / "list.json")
    refused(SpecError, "is not JSON", "bare.pt", "--config", tmp_path / "no.json")
    refused(DataError, "cannot be read", "bare.pt", "--config", tmp_path / "none.json")
