"""The U-Net against the published code's golden vector, a plain twin, and what its repairs promise."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from golf.arch.families import import_checkpoint
from golf.arch.unet import BigramHash, UNetSpec, ValueEmbedding
from golf.contracts import DataError, Role, SpecError, named_hooks

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT.parent / "shared" / "oracles" / "pr1361_a.safetensors"
SMALL = {
    "vocab_size": 96,
    "num_layers": 4,
    "model_dim": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "mlp_mult": 2.5,
    "tie_embeddings": True,
    "logit_softcap": 30.0,
    "rope_base": 10000.0,
    "rope_dims": 4,
    "bigram_vocab_size": 50,
    "bigram_dim": 12,
    "xsa_last_n": 4,
    "ln_scale": True,
    "dtg": False,
    "ve_enabled": True,
    "ve_dim": 10,
    "ve_layers": "1,3",
}


def load_twin():
    file = ROOT / "benchmarks" / "eager_twin.py"
    spec = importlib.util.spec_from_file_location("eager_twin", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Twin


@torch.no_grad()
def shake(model, seed=0):
    """Generic values everywhere, so that no feature hides behind a gate of zero or a gain of one."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        deviation = 0.4 if parameter.ndim < 2 else 1.5 * parameter.shape[1] ** -0.5
        parameter.normal_(std=deviation)
        if "scale" in name or "gain" in name:
            parameter += 0.7
    return model


def random_unet(**changes):
    """A small U-Net with every feature on, and ids with documents of a few tokens."""
    spec = UNetSpec(
        vocab=96,
        layers=4,
        dim=32,
        heads=4,
        kv_heads=2,
        mlp_mult=2.0,
        bigram=BigramHash(rows=50, dim=12),
        values=ValueEmbedding(dim=10),
        rope_dims=4,
        rope_length=64,
    )
    return shake(replace(spec, **changes).build())


@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden vectors are not beside the repository")
def test_golden_vector_of_the_published_code():
    data, meta = load_file(GOLDEN), json.loads(GOLDEN.with_suffix(".json").read_text())
    state = {name[2:]: tensor for name, tensor in data.items() if name.startswith("w.")}
    model = import_checkpoint("pr1361", state, meta["config"])
    assert sum(parameter.numel() for parameter in model.parameters()) == meta["n_params"]
    with torch.no_grad():
        torch.testing.assert_close(model(data["tokens"]), data["logits"], atol=2e-4, rtol=0)
        torch.testing.assert_close(
            model.loss(data["tokens"], data["targets"]), data["loss"], atol=2e-5, rtol=0
        )
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        name: tensor.shape for name, tensor in state.items()
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_layers": 5, "ve_layers": "0,4"},
        {"num_layers": 1, "ve_layers": "0"},
        {"bigram_vocab_size": 0},
        {"bigram_dim": 32},
        {"ve_enabled": False},
        {"ve_dim": 16},
        {"ve_layers": " 3, 1 "},
        {"tie_embeddings": False},
        {"dtg": True},
        {"xsa_last_n": 2},
        {"xsa_last_n": 0, "num_kv_heads": 4},
        {"rope_dims": 0},
        {"rope_dims": 0, "rope_base": 500.0, "num_kv_heads": 1},
        {"logit_softcap": 3.0},
        {"ln_scale": False, "mlp_mult": 1.3},
    ],
    ids=str,
)
def test_equals_the_plain_twin(changes):
    config = SMALL | changes
    twin = shake(load_twin()(config))
    model = import_checkpoint("pr1361", twin.state_dict(), config)
    ids = torch.randint(0, 96, (2, 37))
    targets = torch.randint(0, 96, (2, 37)).masked_fill(torch.rand(2, 37) < 0.2, -100)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), twin(ids), atol=2e-4, rtol=0)
        torch.testing.assert_close(model.loss(ids, targets), twin.loss(ids, targets), atol=2e-5, rtol=0)


def test_gradients_equal_the_plain_twin():
    twin = shake(load_twin()(SMALL))
    model = import_checkpoint("pr1361", twin.state_dict(), SMALL)
    ids, targets = torch.randint(0, 96, (2, 2, 37)).unbind()
    model.loss(ids, targets).backward()
    twin.loss(ids, targets).backward()
    theirs = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=2e-5, rtol=1e-3, msg=name)


def test_longer_than_the_original_training_length():
    """Past 1024 the base is stretched by the length of the input; golf does so from rope_length on."""
    config = SMALL | {"num_layers": 2, "ve_layers": "1"}
    twin = shake(load_twin()(config))
    model = import_checkpoint("pr1361", twin.state_dict(), config)
    ids = torch.randint(0, 96, (1, 1500))
    with torch.no_grad():
        stretched = model(ids)
        torch.testing.assert_close(stretched, twin(ids), atol=2e-4, rtol=0)
        repaired = replace(model.spec, rope_length=2048).build()
        repaired.load_state_dict(model.state_dict())
        assert (repaired(ids) - stretched)[:, 1100:].abs().max() > 1e-3
        torch.testing.assert_close(repaired(ids[:, :900]), model(ids[:, :900]), atol=1e-6, rtol=0)


def test_xsa_equals_a_loop_in_float64():
    """One head at one position, spelled out: without its part along the value of its own kv head."""
    from golf.arch.attention import attend, exclude_self

    torch.manual_seed(0)
    q, k, v = torch.randn(1, 5, 4, 8), torch.randn(1, 5, 2, 8), torch.randn(1, 5, 2, 8)
    v[0, 3, 1] = 0
    got = exclude_self(attend(q, k, v, None), v)
    for head in range(4):
        for place in range(5):
            keys, values = k[0, : place + 1, head // 2].double(), v[0, : place + 1, head // 2].double()
            weights = torch.softmax(keys @ q[0, place, head].double() / 8**0.5, 0)
            mean, own = weights @ values, values[-1]
            if own.any():
                mean = mean - (mean @ own) * own / (own @ own)
            torch.testing.assert_close(got[0, place, head].double(), mean, atol=1e-6, rtol=0)
    assert got[0, 0].abs().max() < 1e-6


def test_published_size():
    with torch.device("meta"):
        model = UNetSpec().build()
    assert sum(parameter.numel() for parameter in model.parameters()) == 27_067_484
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("documents", [True, False])
@pytest.mark.parametrize("tail", [1, 7, 40])
def test_tail_is_the_end_of_the_whole(tail, documents):
    model = random_unet(documents=documents, dtg=True)
    ids = torch.randint(0, 96, (3, 40))
    ids[0, 35] = ids[1, 10] = ids[2, [0, 38]] = 1
    with torch.no_grad():
        torch.testing.assert_close(model(ids, tail=tail), model(ids)[:, -tail:], atol=1e-5, rtol=0)


def test_tail_is_checked():
    for tail in (0, 41):
        with pytest.raises(ValueError, match=r"1\.\.40"):
            random_unet()(torch.zeros(1, 40, dtype=torch.long), tail=tail)


@pytest.mark.parametrize("repaired", [True, False])
def test_a_document_does_not_see_the_one_before(repaired):
    """Given another first document, the repaired model reads the second one the same to the bit."""
    model = random_unet(**({} if repaired else {"bos": None, "documents": False}))
    ids = torch.randint(2, 96, (1, 40))
    ids[0, [0, 21]] = 1
    other = ids.clone()
    other[0, 1:21] = torch.randint(2, 96, (20,))
    with torch.no_grad():
        change = (model(ids) - model(other))[0, 21:].abs().amax(-1)
    assert (change == 0).all() if repaired else (change > 1e-4).all()


@pytest.mark.parametrize("name", ["smear", "bigram"])
def test_each_mask_by_itself(name):
    """With attention open to the past, smear gate and bigram still do not carry the last token over a BOS."""
    model = random_unet(documents=False)
    ids = torch.randint(2, 96, (1, 12))
    ids[0, 6] = 1
    starts = ids == 1
    if name == "bigram":
        buckets = model.bigram.buckets(ids, starts)
        assert (buckets == 49).nonzero()[:, 1].tolist() == [0, 6]
        expected = ((36313 * int(ids[0, 5])) ^ (27191 * int(ids[0, 4]))) % 49
        assert buckets[0, 5] == expected
    else:
        x = torch.randn(1, 12, 32)
        smeared, kept = model.smear(x, starts), (1 - torch.sigmoid(model.smear.gate)) * x
        alone = (smeared - kept).abs().amax(-1)[0] == 0
        assert alone.nonzero()[:, 0].tolist() == [0, 6]


def test_bigram_products_wrap_in_32_bits():
    model = random_unet(vocab=60000, bigram=BigramHash(rows=50, dim=12))
    before, now = 59_990, 59_999

    def wrap(number):
        return (number + 2**31) % 2**32 - 2**31

    expected = (wrap(36313 * now) ^ wrap(27191 * before)) % 49
    assert model.bigram.buckets(torch.tensor([[before, now]]), None).tolist() == [[49, expected]]


def test_the_future_is_not_seen():
    model = random_unet()
    ids = torch.randint(2, 96, (1, 30))
    other = ids.clone()
    other[0, 20:] = torch.randint(2, 96, (10,))
    with torch.no_grad():
        change = (model(ids) - model(other))[0].abs().amax(-1)
    assert (change[:20] == 0).all() and (change[20:] > 0).all()


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_has_a_role(tied):
    model = random_unet(tied=tied, dtg=True)
    roles = model.roles()
    assert set(roles) == {name for name, _ in model.named_parameters()}
    assert [name for name, role in roles.items() if role is Role.HEAD] == [
        "tok_emb.weight" if tied else "lm_head.weight"
    ]
    assert roles["bigram.embed.weight"] is roles["ve_shared.embed.weight"] is Role.EMBED
    assert roles["tok_emb.weight"] is (Role.HEAD if tied else Role.EMBED)
    hooked = {name for name, _ in named_hooks(model)}
    assert hooked == {name for name, role in roles.items() if role is not Role.CONTROL}
    for name in (
        "blocks.0.dtg_gate.weight",
        "bigram.scale",
        "smear.gate",
        "blocks.3.resid_mix",
        "skip_weights",
    ):
        assert roles[name] is Role.CONTROL


def test_watch_sees_what_meets_the_weights():
    """Every matrix is watched once, lookups never; the head's inputs are normed and make the logits."""
    model = random_unet()
    seen = {}
    for name, layer in named_hooks(model):
        layer.watch = lambda x, name=name: seen.setdefault(name, []).append(x)
    ids = torch.randint(0, 96, (2, 10))
    with torch.no_grad():
        logits = model(ids)
    roles = model.roles()
    assert set(seen) == {name for name in roles if roles[name] in (Role.MATRIX, Role.HEAD)}
    assert all(len(calls) == 1 and calls[0].shape[0] == 20 for calls in seen.values())
    (x,) = seen["tok_emb.weight"]
    torch.testing.assert_close(x.square().mean(1), torch.ones(20), atol=1e-3, rtol=0)
    capped = 30 * torch.tanh(x @ model.tok_emb.weight.T / 30)
    torch.testing.assert_close(capped, logits.flatten(0, 1), atol=1e-5, rtol=1e-5)


def test_fake_weights_replace_the_real_ones():
    """A fake that doubles is a model with doubled weights, in the lookup and in the head alike."""
    model = random_unet()
    doubled = model.spec.build()
    hooked = {name for name, _ in named_hooks(model)}
    doubled.load_state_dict({n: t * 2 if n in hooked else t for n, t in model.state_dict().items()})
    ids = torch.randint(0, 96, (2, 10))
    for _, layer in named_hooks(model):
        layer.fake = lambda weight: 2 * weight
    with torch.no_grad():
        torch.testing.assert_close(model(ids), doubled(ids), atol=1e-5, rtol=0)


@pytest.mark.parametrize("bigram", [BigramHash(rows=50, dim=12), BigramHash(rows=50, dim=32)], ids=str)
def test_every_branch_learns_from_the_start(bigram):
    """Within a few steps a gradient has reached every parameter: no branch is dead, however narrow."""
    torch.manual_seed(0)
    model = replace(random_unet().spec, bigram=bigram).build()
    dead = {name for name, _ in model.named_parameters()}
    ids, targets = torch.randint(0, 96, (2, 4, 50)).unbind()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(4):
        optimizer.zero_grad()
        model.loss(ids, targets).backward()
        dead -= {name for name, parameter in model.named_parameters() if parameter.grad.any()}
        optimizer.step()
    assert not dead


def test_starting_values():
    torch.manual_seed(0)
    model = UNetSpec(layers=4).build()
    weight = model.blocks[2].mlp.fc.weight
    torch.testing.assert_close(weight.T @ weight, torch.eye(512), atol=1e-4, rtol=0)
    projection = model.bigram.proj.weight
    torch.testing.assert_close(projection.T @ projection, torch.eye(112) / 8, atol=1e-4, rtol=0)
    assert not model.bigram.embed.weight.any() and not model.blocks[0].attn.proj.weight.any()
    assert 0.0049 < model.tok_emb.weight.std() < 0.0051
    assert model.blocks[0].resid_mix.tolist() == [[1.0] * 512, [0.0] * 512]


def test_compiles_as_one_graph():
    """No graph breaks, the same numbers, and a hook attached later reaches the compiled code."""
    model = random_unet(layers=2, values=ValueEmbedding(dim=10, layers=(-1,)))
    compiled = torch.compile(model.loss, backend="aot_eager", fullgraph=True)
    ids, targets = torch.randint(0, 96, (2, 2, 20)).unbind()
    torch.testing.assert_close(compiled(ids, targets), model.loss(ids, targets))
    model.blocks[0].mlp.fc.fake = torch.zeros_like
    torch.testing.assert_close(compiled(ids, targets), model.loss(ids, targets))


def test_bfloat16_under_autocast():
    """Activations have autocast's type from the first lookup on, logits come in float32."""
    model = random_unet()
    seen = []
    model.blocks[-1].mlp.proj.watch = lambda x: seen.append(x.dtype)
    ids = torch.randint(0, 96, (2, 20))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model(ids)
    assert seen == [torch.bfloat16] and logits.dtype == torch.float32
    with torch.no_grad():
        assert (logits - model(ids)).abs().mean() < 0.2


def test_ids_outside_the_vocabulary():
    for wrong in (-1, 96):
        with pytest.raises(DataError, match=f"token id {wrong} is outside 0..95"):
            random_unet()(torch.tensor([[0, wrong]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 500}, "dim=500 does not split into heads=8"),
        ({"heads": 6, "dim": 510, "kv_heads": 4}, "heads=6 does not split into kv_heads=4"),
        ({"rope_dims": 15}, "rope_dims=15"),
        ({"rope_dims": 80}, "head width dim/heads=64"),
        ({"softcap": 0.0}, "softcap=0.0"),
        ({"softcap": float("nan")}, "softcap=nan"),
        ({"layers": 0}, "layers=0"),
        ({"mlp_mult": 0.001}, "mlp_mult"),
        ({"values": ValueEmbedding(layers=(11,))}, "layers=11"),
        ({"values": ValueEmbedding(layers=(-1, 10))}, "twice"),
        ({"bos": 1024}, "bos=1024"),
        ({"bos": None}, "documents"),
    ],
    ids=str,
)
def test_impossible_specs(changes, message):
    with pytest.raises(SpecError, match=message):
        UNetSpec(**changes)


def test_dead_bigrams_are_refused():
    with pytest.raises(SpecError, match="rows"):
        BigramHash(rows=1)
    with pytest.raises(SpecError, match="dead"):
        BigramHash(init=0.0)


def test_unknown_switches():
    with pytest.raises(SpecError, match="loop"):
        random_unet().switch("loop", True)


def test_tiny_has_the_same_features():
    tiny = UNetSpec().tiny()
    assert tiny.bigram and tiny.values and tiny.vocab == 1024
    model = tiny.build()
    assert sum(parameter.numel() for parameter in model.parameters()) < 500_000
    assert UNetSpec(bigram=None, values=None, kv_heads=8).tiny().build().spec.bigram is None
