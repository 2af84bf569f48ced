"""What the four plain decoders promise beyond the golden vectors: sizes, roles, hooks, limits."""

from dataclasses import replace

import pytest
import torch

from golf.arch.nanochat import GeluGPTSpec
from golf.arch.powergqa import PowerGQASpec
from golf.arch.qed import QEDSpec
from golf.arch.xgqa import GPTSSpec
from golf.contracts import DataError, Role, SpecError, named_hooks

PUBLISHED = {GeluGPTSpec: 261_096_338, QEDSpec: 75_571_584, GPTSSpec: 1_426_176, PowerGQASpec: 778_221_606}
SPECS = {
    "gelu_gpt": GeluGPTSpec(vocab=90, layers=3, dim=48, heads=4, kv_heads=2, window=16, pattern="SL"),
    "qed": QEDSpec(vocab=90, layers=2, dim=48, heads=4, hidden=80, context=40, bias=True, tied=False),
    "qed tied": QEDSpec(vocab=90, layers=2, dim=48, heads=4, hidden=80, context=40),
    "xgqa": GPTSSpec(vocab=90, layers=2, dim=40, head_dim=8, hidden=70, context=40),
    "powergqa": PowerGQASpec(
        vocab=90, layers=2, dim=48, heads=6, kv_heads=2, hidden=80, context=40, conv_bias=True
    ),
}
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def shaken(spec, seed=0):
    """Generic values everywhere, so that no feature hides behind a gate of zero."""
    torch.manual_seed(seed)
    model = spec.build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.4 if parameter.ndim < 2 else 1.2 * parameter.shape[-1] ** -0.5)
            if "norm" in name or "lambda" in name:
                parameter += 0.7
    return model


@pytest.mark.parametrize("kind", PUBLISHED, ids=lambda kind: kind.family)
def test_published_sizes(kind):
    with torch.device("meta"):
        model = kind().build()
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[kind]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    tiny = kind(vocab=500).tiny().build()
    assert sum(parameter.numel() for parameter in tiny.parameters()) < 500_000
    assert tiny.spec.tiny() == tiny.spec


@every_spec
def test_roles_and_hooks(spec):
    """Matrices and the head are watched once a forward; lookups, norms and gates are not."""
    model = shaken(spec)
    roles = model.roles()
    assert set(roles) == {name for name, _ in model.named_parameters()}
    assert {name for name, _ in named_hooks(model)} == {
        name for name, role in roles.items() if role is not Role.CONTROL
    }
    assert [name for name, role in roles.items() if role is Role.HEAD] == [
        next(name for name in roles if model.get_parameter(name) is model.head.weight)
    ]
    assert all(
        parameter.ndim == 2
        for name, parameter in model.named_parameters()
        if roles[name] is not Role.CONTROL
    )
    seen = []
    for name, layer in named_hooks(model):
        layer.watch = lambda x, name=name: seen.append((name, len(x)))
    with torch.no_grad():
        model(torch.randint(0, 90, (2, 10)))
    assert sorted(seen) == sorted(
        (name, 20) for name, role in roles.items() if role in (Role.MATRIX, Role.HEAD)
    )


@every_spec
def test_fake_weights_replace_the_real_ones(spec):
    model, doubled = shaken(spec), spec.build()
    hooked = {name for name, _ in named_hooks(model)}
    doubled.load_state_dict({n: t * 2 if n in hooked else t for n, t in model.state_dict().items()})
    ids = torch.randint(0, 90, (2, 10))
    for _, layer in named_hooks(model):
        layer.fake = lambda weight: 2 * weight
    with torch.no_grad():
        torch.testing.assert_close(model(ids), doubled(ids), atol=1e-5, rtol=1e-4)


@every_spec
@pytest.mark.parametrize("tail", [1, 7, 33])
def test_tail_is_the_end_of_the_whole(spec, tail):
    """Only the tail reaches the head, and the last block's queries."""
    model, ids = shaken(spec), torch.randint(0, 90, (3, 33))
    with torch.no_grad():
        whole = model(ids)
        model.project = lambda x, project=model.project: seen.append(x.shape[1]) or project(x)
        seen = []
        torch.testing.assert_close(model(ids, tail=tail), whole[:, -tail:], atol=2e-5, rtol=0)
    assert seen == [tail] and whole.dtype == torch.float32
    with pytest.raises(ValueError, match=r"tail=34 must be in 1\.\.33"):
        model(ids, tail=34)


@every_spec
def test_every_parameter_learns(spec):
    """Within a few steps a gradient has reached every parameter the targets can move."""
    torch.manual_seed(0)
    model = spec.build()
    dead = {name for name, _ in model.named_parameters()}
    ids, targets = torch.randint(0, 90, (2, 4, 33)).unbind()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(4):
        optimizer.zero_grad()
        model.loss(ids, targets).backward()
        dead -= {name for name, parameter in model.named_parameters() if parameter.grad.any()}
        optimizer.step()
    # A bias of keys moves all scores of a query by the same amount: the softmax does not see it.
    assert {name for name in dead if not name.endswith("k_proj.bias")} == set()


@every_spec
def test_the_future_is_not_seen_and_masked_targets_teach_nothing(spec):
    model, ids = shaken(spec), torch.randint(0, 90, (1, 30))
    other = ids.clone()
    other[0, 20:] = torch.randint(0, 90, (10,))
    with torch.no_grad():
        change = (model(ids) - model(other))[0].abs().amax(-1)
    assert (change[:20] < 1e-5).all() and (change[20:] > 1e-4).any()
    targets = torch.full((1, 30), -100)
    targets[0, 3] = 5
    model.loss(ids, targets).backward()
    late = ids[0, 4:][~torch.isin(ids[0, 4:], ids[0, :4])]
    if model.head is not model.table:
        assert not model.table.weight.grad[late].any()


@every_spec
def test_limits_are_named(spec):
    model = spec.build()
    model.load_state_dict(shaken(spec).state_dict())
    limit = spec.context
    with torch.no_grad():
        assert model(torch.zeros(1, limit, dtype=torch.long)).shape == (1, limit, 90)
        with pytest.raises(DataError, match=f"{limit + 1} tokens are over the model's limit of {limit}"):
            model(torch.zeros(1, limit + 1, dtype=torch.long))
        cache = model.open_cache(1)
        model.read_on(torch.zeros(1, limit - 1, dtype=torch.long), cache)
        with pytest.raises(DataError, match=f"{limit - 1} tokens read and 2 more are over .* {limit}"):
            model.read_on(torch.zeros(1, 2, dtype=torch.long), cache)
        assert model.read_on(torch.zeros(1, 1, dtype=torch.long), cache).shape == (1, 1, 90)
    with pytest.raises(SpecError, match=rf"window={limit + 1} must be in 1\.\.{limit}"):
        model.open_cache(1, window=limit + 1)
    for wrong in (-1, 90):
        with pytest.raises(DataError, match=f"token id {wrong} is outside 0..89"):
            model(torch.tensor([[0, wrong]]))
    with pytest.raises(SpecError, match=f"{spec.family} has nothing named 'loop'"):
        model.switch("loop", True)


@every_spec
def test_compiles_as_one_graph(spec):
    model = shaken(replace(spec, layers=1) if spec.family != "gelu_gpt" else spec)
    compiled = torch.compile(model.loss, backend="eager", fullgraph=True)
    ids, targets = torch.randint(0, 90, (2, 2, 20)).unbind()
    torch.testing.assert_close(compiled(ids, targets), model.loss(ids, targets))


@every_spec
def test_bfloat16_under_autocast(spec):
    model, seen = shaken(spec), []
    layer = [layer for name, layer in named_hooks(model) if "mlp" in name][-1]
    layer.watch = lambda x: seen.append(x.dtype)
    ids = torch.randint(0, 90, (2, 20))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model(ids)
    assert seen == [torch.bfloat16] and logits.dtype == torch.float32
    layer.watch = None
    with torch.no_grad():
        assert (logits - model(ids)).abs().mean() < 0.2


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (GPTSSpec, {"heads": 5}, "heads=5 does not split into kv_heads=2"),
        (GPTSSpec, {"head_dim": 7}, "head_dim=7 is odd"),
        (GPTSSpec, {"layers": 0}, "layers=0 must be at least 1"),
        (GPTSSpec, {"rope_base": 0.0}, "rope_base=0.0 must be above 0"),
        (GPTSSpec, {"eps": float("nan")}, "eps=nan must be above 0"),
        (QEDSpec, {"heads": 5}, "dim=384 does not split into heads=5"),
        (QEDSpec, {"dim": 390, "heads": 130}, "head width dim/heads=3 is odd"),
        (QEDSpec, {"dropout": 1.0}, "dropout=1.0"),
        (PowerGQASpec, {"heads": 25}, "dim=1536 does not split into heads=25"),
        (PowerGQASpec, {"kv_heads": 5}, "heads=24 does not split into kv_heads=5"),
        (PowerGQASpec, {"kernel": 0}, "kernel=0 must be at least 1"),
        (GeluGPTSpec, {"pattern": "SXL"}, "pattern='SXL'"),
        (GeluGPTSpec, {"pattern": ""}, "pattern=''"),
        (GeluGPTSpec, {"dim": 20, "heads": 2, "kv_heads": 2}, "dim=20 must be at least 24"),
        (GeluGPTSpec, {"activation": "silu"}, "activation='silu'"),
        (GeluGPTSpec, {"dim": 36}, "head width dim/heads=3 is odd"),
    ],
    ids=str,
)
def test_impossible_specs(kind, changes, message):
    with pytest.raises(SpecError, match=message):
        kind(**changes)


@pytest.mark.parametrize(
    ("window", "short"), [(1024, 256), (2048, 512), (512, 128), (64, 128), (1030, 384), (256, 128)]
)
def test_windows_of_gelu_gpt(window, short):
    spec = GeluGPTSpec(window=window, pattern="sL", layers=5)
    assert spec.windows == (short, window, short, window, window)
    assert GeluGPTSpec(layers=5).value_layers == (0, 2, 4)
    assert GeluGPTSpec(vocab=50257).rows == 50304
