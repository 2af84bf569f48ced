"""Reading on in pieces gives what one forward over the whole gives."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.arch.unet import BigramHash, UNetSpec, ValueEmbedding
from golf.contracts import DataError

SPEC = UNetSpec(
    vocab=96,
    layers=3,
    dim=32,
    heads=4,
    kv_heads=2,
    mlp_mult=2.0,
    bigram=BigramHash(rows=50, dim=12),
    values=ValueEmbedding(dim=10),
    rope_dims=4,
    rope_length=64,
    dtg=True,
)
VARIANTS = [
    {},
    {"documents": False},
    {"documents": False, "bos": None},
    {"bigram": None, "smear": False, "values": None, "xsa_last": 1, "tied": False},
]


def shaken(spec):
    """Generic values everywhere, so that no feature hides behind a gate of zero."""
    torch.manual_seed(0)
    model = spec.build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.4 if parameter.ndim < 2 else 1.5 * parameter.shape[1] ** -0.5)
            if "scale" in name or "gain" in name:
                parameter += 0.7
    return model


MODELS = [shaken(replace(SPEC, **changes)) for changes in VARIANTS]


def read_in(model, ids, sizes, **options):
    """Logits of all tokens, read in pieces of these sizes."""
    cache = model.open_cache(len(ids), **options)
    with torch.no_grad():
        return torch.cat([model.read_on(part, cache) for part in ids.split(sizes, dim=1)], dim=1), cache


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(MODELS), st.lists(st.integers(1, 13), min_size=1, max_size=6), st.integers(1, 3), st.randoms()
)
def test_any_pieces_give_the_whole(model, sizes, rows, draw):
    ids = torch.tensor([[draw.choice([1, *range(96)]) for _ in range(sum(sizes))] for _ in range(rows)])
    ids[0, draw.randrange(sum(sizes))] = 1
    logits, cache = read_in(model, ids, sizes)
    with torch.no_grad():
        torch.testing.assert_close(logits, model(ids), atol=1e-4, rtol=0)
    assert cache.seen == sum(sizes)


def test_past_the_trained_length_the_newest_token_is_that_of_the_whole():
    """The base then follows the length, so earlier logits belong to shorter wholes."""
    model = MODELS[0]
    ids = torch.randint(2, 96, (2, 75))
    cache = model.open_cache(2)
    with torch.no_grad():
        for end in (50, 62, 63, 64, 65, 66, 75):
            logits = model.read_on(ids[:, cache.seen : end], cache, tail=1)
            torch.testing.assert_close(logits, model(ids[:, :end])[:, -1:], atol=1e-4, rtol=0)


def test_a_window_is_flat_in_memory_and_endless():
    """Every block forgets: what is far enough back changes nothing, and the bytes stay what they were."""
    model = shaken(replace(SPEC, bos=None, documents=False, rope_length=20))
    ids = torch.randint(2, 96, (2, 90))
    other = torch.cat([torch.randint(2, 96, (2, 40)), ids[:, 40:]], dim=1)
    logits, cache = read_in(model, ids, [30, 30, 7, 1, 22], window=10)
    piecewise, small = read_in(model, other, [1] * 90, window=10)
    assert small.bytes == cache.bytes and small.kept == 9
    reach = 3 * 9 + 2  # three blocks of nine steps back, the smear gate's one, and the bigram's
    torch.testing.assert_close(logits[:, 40 + reach :], piecewise[:, 40 + reach :], atol=1e-4, rtol=0)
    assert (logits[:, 41] - piecewise[:, 41]).abs().max() > 1e-3


def test_a_window_reads_its_first_tokens_as_an_input_of_its_length():
    """The rotary base is the window's from the first token on, as rows padded to the window have it."""
    model = shaken(replace(SPEC, rope_length=20))
    ids = torch.randint(2, 96, (1, 48))
    logits, _ = read_in(model, ids, [5, 43], window=48)
    with torch.no_grad():
        torch.testing.assert_close(logits, model(ids), atol=1e-4, rtol=0)


def test_only_the_tail_reaches_the_head():
    model = MODELS[0]
    ids = torch.randint(2, 96, (2, 30))
    cache = model.open_cache(2)
    seen = []
    model.tok_emb.watch = lambda x: seen.append(len(x))
    with torch.no_grad():
        model.read_on(ids[:, :20], cache, tail=1)
        logits = model.read_on(ids[:, 20:], cache, tail=3)
    model.tok_emb.watch = None
    assert seen == [2, 6]
    with torch.no_grad():
        torch.testing.assert_close(logits, model(ids, tail=3), atol=1e-4, rtol=0)


def test_copies_and_picked_rows_go_their_own_ways():
    model = MODELS[0]
    ids = torch.randint(2, 96, (2, 20))
    cache = model.open_cache(2)
    with torch.no_grad():
        model.read_on(ids[:, :10], cache)
        copy, swapped = cache.copy(), cache.pick(torch.tensor([1, 0, 1]))
        first = model.read_on(ids[:, 10:], cache)
        torch.testing.assert_close(model.read_on(ids[:, 10:], copy), first, atol=0, rtol=0)
        again = model.read_on(ids[[1, 0, 1], 10:], swapped)
    torch.testing.assert_close(again, first[[1, 0, 1]], atol=1e-5, rtol=0)


def test_what_does_not_fit_is_named_and_changes_nothing():
    model = MODELS[0]
    cache = model.open_cache(2)
    with torch.no_grad():
        model.read_on(torch.full((2, 3), 5), cache)
        before = cache.bytes
        for ids, message in [
            (torch.zeros(3, 1, dtype=torch.long), "holds 2 rows, the input has 3"),
            (torch.zeros(2, 0, dtype=torch.long), "0 tokens"),
            (torch.full((2, 1), 96), r"96 is outside 0\.\.95"),
        ]:
            with pytest.raises(DataError, match=message):
                model.read_on(ids, cache)
        with pytest.raises(ValueError, match=r"tail=4 must be in 1\.\.2"):
            model.read_on(torch.zeros(2, 2, dtype=torch.long), cache, tail=4)
    assert (cache.seen, cache.bytes) == (3, before)
    for options in ({"rows": 0}, {"rows": 1, "window": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            model.open_cache(**options)
