"""The plain decoders against slow twins written from their equations, on configurations of every kind; read whole
and in pieces of any size."""

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest
import slow_twins
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.arch import families

GELU = {"sequence_len": 16, "vocab_size": 50, "n_layer": 4, "n_head": 4, "n_kv_head": 2, "n_embd": 32}
QED = {"vocab_size": 50, "max_seq_len": 40, "d_model": 24, "n_layers": 2, "n_heads": 3, "ffn_hidden_dim": 40}
GPTS = {
    "vocab_size": 50, "hidden_size": 20, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 6,
    "intermediate": 30, "block_size": 40,
}  # fmt: skip
POWER = {
    "vocab_size": 50, "dim": 24, "n_layers": 2, "n_heads": 6, "n_kv_heads": 2, "mlp_hidden": 30, "max_seq_len": 40,
}  # fmt: skip
CASES = {
    "gelu_gpt": ("gelu_gpt", GELU),
    "gelu_gpt odd": ("gelu_gpt", GELU | {"n_layer": 3, "n_kv_head": 1, "window_pattern": "l"}),
    "gelu_gpt one layer": ("gelu_gpt", GELU | {"n_layer": 1, "n_kv_head": 4, "mlp": "relu2"}),
    "gelu_gpt untied": (
        "gelu_gpt",
        GELU | {"tie_embeddings": False, "rope_base": 300.0, "n_layer": 2, "pad_vocab_size_to": 7},
    ),
    "qed": ("qed", QED),
    "qed untied": (
        "qed",
        QED | {"tie_word_embeddings": False, "bias": True, "rope_theta": 50.0, "rms_norm_eps": 0.1},
    ),
    "xgqa": ("xgqa", GPTS),
    "xgqa untied": (
        "xgqa",
        GPTS | {"tie_embeddings": False, "num_kv_heads": 1, "head_dim": 8, "rms_norm_eps": 0.1},
    ),
    "xgqa no groups": ("xgqa", GPTS | {"num_kv_heads": 4, "rope_theta": 10.0, "num_layers": 1}),
    "powergqa": ("powergqa", POWER),
    "powergqa untied": (
        "powergqa",
        POWER | {"tie_embeddings": False, "conv_bias": True, "conv_kernel": 3, "n_kv_heads": 1},
    ),
    "powergqa no groups": (
        "powergqa",
        POWER | {"n_kv_heads": 6, "conv_kernel": 1, "norm_eps": 0.1, "rope_theta": 20.0, "n_layers": 1},
    ),
}
TIME = 30


@functools.cache
def case(name):
    """Model with generic weights, ids [2, T] and what the twin makes of them."""
    family, config = CASES[name]
    generator = np.random.default_rng(0)
    spec = families.original(family).from_config(config)
    weights = {}
    for key, tensor in spec.build().state_dict().items():
        deviation = 0.5 if tensor.ndim < 2 else 1.3 * tensor.shape[-1] ** -0.5
        center = 1.0 if "norm" in key or key == "resid_lambdas" else 0.0
        weights[key] = center + deviation * generator.standard_normal(tuple(tensor.shape)).astype(np.float32)
    ids = generator.integers(0, 50, (2, TIME))
    exact = {key: value.astype(np.float64) for key, value in weights.items()}
    twin = getattr(slow_twins, family)
    logits = torch.tensor(np.stack([twin(exact, config, row) for row in ids]))
    state = {key: torch.tensor(value) for key, value in weights.items()}
    return families.import_checkpoint(family, state, config), torch.tensor(ids), logits


def close(found, wanted):
    torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_forward_and_loss(name):
    model, ids, logits = case(name)
    targets = ids.roll(-1, 1)
    targets[:, -1] = targets[0, 3] = -100
    with torch.no_grad():
        close(model(ids), logits)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        assert abs(model.loss(ids, targets).item() - loss.item()) < 2e-5


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(CASES)), st.lists(st.integers(1, TIME - 1), unique=True), st.integers(1, TIME)
)
def test_any_pieces_give_the_whole(name, cuts, tail):
    model, ids, logits = case(name)
    cuts = [0, *sorted(cuts), TIME]
    cache = model.open_cache(2)
    with torch.no_grad():
        for begin, end in itertools.pairwise(cuts):
            kept = min(tail, end - begin)
            close(model.read_on(ids[:, begin:end], cache, tail=kept), logits[:, end - kept : end])
    assert cache.seen == TIME


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(sorted(CASES)), st.lists(st.integers(1, 50), max_size=8))
def test_a_window_is_flat_in_memory_and_endless(name, sizes):
    """While it holds everything, a window changes nothing; after that, what is far back no longer matters."""
    model, ids, logits = case(name)
    window = 6
    cache, pieces = model.open_cache(2, window=window), []
    spec = model.spec
    local = getattr(spec, "kernel", 1) - 1  # the convolution reaches further back than the window, block by block
    reach = spec.layers * max(window - 1, local) + 1
    noise = torch.randint(0, 50, (2, 37))
    stream = torch.cat([noise, ids], dim=1)
    twin = model.open_cache(2, window=window)
    with torch.no_grad():
        close(model.read_on(ids[:, :window], model.open_cache(2, window=window)), logits[:, :window])
        for part in stream.split(sizes_for(stream.shape[1], sizes), dim=1):
            pieces.append(model.read_on(part, cache))
            assert cache.kept <= window - 1
        other = torch.cat([model.read_on(part, twin) for part in ids.split(7, dim=1)], dim=1)
    assert cache.bytes == twin.bytes and cache.seen == stream.shape[1]
    found = torch.cat(pieces, dim=1)[:, 37:]
    torch.testing.assert_close(found[:, reach:], other[:, reach:], atol=1e-4, rtol=0)


def sizes_for(total, sizes):
    """Sizes that add up to the total."""
    kept = []
    for size in sizes:
        if sum(kept) + size < total:
            kept.append(size)
    return [*kept, total - sum(kept)]


def test_gelu_gpt_forgets_what_its_windows_cannot_reach():
    """Well past both windows, short layers keep 128 keys and long ones 16: the same numbers in flat memory."""
    config = GELU | {"window_pattern": "SL", "n_layer": 3, "n_head": 2, "n_kv_head": 1}
    model = families.original("gelu_gpt").from_config(config).build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    ids = torch.randint(0, 50, (1, 145))
    exact = {key: value.double().numpy() for key, value in model.state_dict().items()}
    logits = torch.tensor(slow_twins.gelu_gpt(exact, config, ids[0].numpy()))[None]
    cache = model.open_cache(1)
    with torch.no_grad():
        close(model(ids), logits)
        close(torch.cat([model.read_on(part, cache) for part in ids.split([20, 1, 100, 9, 15], dim=1)], 1), logits)
        for tail in (1, 40):
            close(model(ids, tail=tail), logits[:, -tail:])
    assert [keys.shape[1] for keys, _ in cache.blocks] == [128, 16, 16]


@pytest.mark.parametrize("name", ["qed", "qed untied"])
@pytest.mark.parametrize("sizes", [[TIME], [1] * TIME, [3, 8, 1, 18]], ids=["whole", "single", "pieces"])
def test_qed_with_padding(name, sizes):
    """A row padded on the left, one on the right, one in the middle of a piece; masks of all columns so far."""
    model, ids, _ = case(name)
    config = CASES[name][1]
    ids = torch.cat([ids, ids[:1]])
    mask = torch.ones(3, TIME, dtype=torch.long)
    mask[0, :7] = mask[1, -5:] = mask[2, 9:12] = 0
    exact = {key: value.double().numpy() for key, value in model.state_dict().items()}
    wanted = torch.tensor(
        np.stack([slow_twins.qed(exact, config, row.numpy(), kept.numpy()) for row, kept in zip(ids, mask)])
    )
    cache, pieces = model.open_cache(3), []
    with torch.no_grad():
        for part in ids.split(sizes, dim=1):
            pieces.append(model.read_on(part, cache, allowed_BS=mask[:, : cache.seen + part.shape[1]]))
        found = torch.cat(pieces, dim=1)
        assert torch.isfinite(found).all()
        close(found[mask.bool()], wanted[mask.bool()])
        close(model(ids, attention_mask=mask)[mask.bool()], wanted[mask.bool()])


def test_positions_of_ones_own():
    """Left padding with positions that start after it is the row without padding."""
    for name in ("qed", "xgqa"):
        model, ids, logits = case(name)
        pad = torch.zeros(2, 4, dtype=torch.long)
        mask = torch.cat([pad, torch.ones_like(ids)], dim=1)
        places = (mask.cumsum(1) - 1).clamp_min(0)
        cache = model.open_cache(2)
        padded = torch.cat([pad, ids], dim=1)
        with torch.no_grad():
            first = model.read_on(padded[:, :20], cache, allowed_BS=mask[:, :20], places_BT=places[:, :20])
            second = model.read_on(padded[:, 20:], cache, allowed_BS=mask, places_BT=places[:, 20:])
        close(torch.cat([first, second], 1)[:, 4:], logits)


def test_a_mask_cannot_hide_what_meets_outside_attention():
    for name in ("gelu_gpt", "powergqa"):
        model, ids, logits = case(name)
        mask = torch.ones_like(ids)
        close(model.read_on(ids, model.open_cache(2), allowed_BS=mask).detach(), logits)
        mask[1, :3] = 0
        with pytest.raises(ValueError, match=f"hides 3 tokens, but {name} mixes neighbors"):
            model.read_on(ids, model.open_cache(2), allowed_BS=mask)


def test_attention_does_not_care_where_positions_begin():
    for name in sorted(CASES):
        model, ids, logits = case(name)
        places = torch.arange(TIME).expand(2, -1) + torch.tensor([[3], [9]])
        cache = model.open_cache(2)
        with torch.no_grad():
            pieces = [
                model.read_on(ids[:, begin:end], cache, places_BT=places[:, begin:end], tail=2)
                for begin, end in ((0, 11), (11, TIME))
            ]
        close(torch.cat(pieces, 1), logits[:, [9, 10, TIME - 2, TIME - 1]])


def test_masks_and_positions_that_do_not_fit_are_refused():
    model, ids, _ = case("qed")
    cache = model.open_cache(2)
    model.read_on(ids[:, :10], cache)
    with pytest.raises(ValueError, match=r"mask is \[2, 7\]; it must be \[2, 5\] .* or \[2, 15\]"):
        model.read_on(ids[:, 10:15], cache, allowed_BS=torch.ones(2, 7))
    with pytest.raises(ValueError, match=r"positions are \[2, 4\]; they must be \[2, 5\]"):
        model.read_on(ids[:, 10:15], cache, places_BT=torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"attention_mask is \[2, 9\], the input \[2, 10\]"):
        model(ids[:, :10], attention_mask=torch.ones(2, 9))
    assert cache.seen == 10
    fresh = model.open_cache(2, window=4)
    with pytest.raises(ValueError, match="counted by the model itself where there is a window"):
        model.read_on(ids[:, :3], fresh, places_BT=torch.ones(2, 3))


def test_keys_without_the_rest_are_refused():
    """A cache put together from keys and values alone lacks what the smear gate and the convolution look back at."""
    for name, part in (("gelu_gpt", "entry"), ("powergqa", "local.0")):
        model, ids, _ = case(name)
        cache = model.open_cache(2)
        model.read_on(ids[:, :10], cache)
        cache.notes = {}
        with pytest.raises(ValueError, match=f"holds 10 tokens but no '{part}'"):
            model.read_on(ids[:, 10:], cache)


def test_attention_drops_weights_in_training_alone():
    model, ids, logits = case("qed")
    dropping = replace(model.spec, dropout=0.5).build()
    dropping.load_state_dict(model.state_dict())
    with torch.no_grad():
        close(dropping.eval()(ids), logits)
        torch.manual_seed(0)
        once, twice = dropping.train()(ids), dropping(ids)
        assert (once - twice).abs().max() > 1e-2
        # Position 0 sees itself alone: its weight is dropped or doubled.
        assert (once[:, 0] - logits[:, 0]).abs().max() > 1e-2
