"""Folders of Hugging Face come in: golf's own exports as they were, and Llamas as QED."""

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from test_hf import exported, golf, place, spec_of  # noqa: F401  (fixtures)

from golf.arch import families
from golf.cli import cli
from golf.contracts import CheckpointError, SpecError
from golf.publish.use.source import open_source

LLAMA = {
    "model_type": "llama", "vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "intermediate_size": 48, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "rope_theta": 500.0, "hidden_act": "silu", "tie_word_embeddings": True, "architectures": ["LlamaForCausalLM"],
}  # fmt: skip


@pytest.mark.parametrize("family", families.FAMILIES)
def test_an_exported_folder_comes_back(exported, tmp_path, family):  # noqa: F811
    """Spec, weights and tokenizer, golf's own settings included."""
    golf("import", exported[family], "--family", family, "-o", tmp_path / "w.safetensors")
    source = open_source(tmp_path / "w.safetensors")
    assert families.spec_from_json(source.about["model"]) == spec_of(family)
    held = load_file(exported[family] / "model.safetensors")
    assert {f"model.{name}" for name in source.weights} == held.keys()
    assert all(torch.equal(source.weights[name], held[f"model.{name}"].float()) for name in source.weights)
    assert source.tokenizer == (exported[family] / "tokenizer.model").read_bytes()


def llama(folder, **changed):
    """A folder like those of the Hub, with random weights."""
    config = LLAMA | changed
    width, hidden = config["hidden_size"], config["intermediate_size"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], width), "model.norm.weight": (width,)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{part}_proj.weight": (width, width) for part in "qkvo"}
        shapes |= {f"{at}.mlp.{part}_proj.weight": (hidden, width) for part in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj.weight": (width, hidden)}
        shapes |= {f"{at}.{norm}_layernorm.weight": (width,) for norm in ("input", "post_attention")}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], width)
    random = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=random) * 0.4 for name, shape in shapes.items()}
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def imported(folder, tmp_path):
    words = ["import", str(folder), "--family", "qed", "-o", str(tmp_path / "w.safetensors")]
    outcome = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return open_source(tmp_path / "w.safetensors").build()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_llama_computes_the_same_as_qed(tmp_path, tied):
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    folder = llama(tmp_path / "llama", tie_word_embeddings=tied)
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
    ids = torch.randint(90, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        worst = (imported(folder, tmp_path)(ids) - theirs(ids).logits).abs().max()
    assert worst < 2e-4


def test_settings_of_a_llama(tmp_path):
    spec = imported(llama(tmp_path / "llama"), tmp_path).spec
    assert (spec.dim, spec.layers, spec.heads, spec.hidden, spec.context) == (32, 2, 4, 48, 64)
    assert (spec.rope_base, spec.eps, spec.tied, spec.bias) == (500.0, 1e-5, True, False)
    newer = llama(tmp_path / "newer", rope_theta=None, rope_parameters={"rope_theta": 900.0, "rope_type": "default"})
    assert imported(newer, tmp_path).spec.rope_base == 900.0


@pytest.mark.parametrize(
    "changed, why",
    [
        ({"num_key_value_heads": 2}, "num_key_value_heads=2, and QED computes with 4"),
        ({"head_dim": 16}, "head_dim=16"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "rope_scaling"),
        ({"mlp_bias": True}, "mlp_bias=True"),
    ],
)
def test_what_qed_is_not(tmp_path, changed, why):
    with pytest.raises(SpecError, match=why):
        imported(llama(tmp_path / "llama", **changed), tmp_path)


def test_a_tensor_too_few(tmp_path):
    folder = llama(tmp_path / "llama")
    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        imported(folder, tmp_path)
