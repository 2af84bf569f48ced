"""The cache by itself: rooms that grow in place without anybody noticing."""

import pytest
import torch

from golf.arch.cache import Cache, Reading, Room
from golf.arch.xgqa import GPTSSpec

MODEL = GPTSSpec(vocab=50, layers=2, dim=16, head_dim=4, hidden=20, context=400).build().eval()


@torch.no_grad()
def test_appending_happens_in_place_and_older_views_stay():
    old, new = torch.randn(2, 5, 1, 3), torch.randn(2, 2, 1, 3)
    room = Room(old, 2)
    first = room.append(new)
    second = room.append(new)
    assert first.data_ptr() == second.data_ptr() and not room.fits(first, new) and room.fits(second, new)
    assert torch.equal(first, torch.cat([old, new], 1)) and torch.equal(second[:, :7], first)
    assert not room.fits(second.clone(), new)
    assert not room.fits(second, torch.randn(2, 500, 1, 3))


def test_memory_is_not_copied_for_every_token():
    """The keys of a block lie where they lay, until the room is full; gradients get tensors of their own."""
    ids, cache, homes = torch.randint(0, 50, (2, 300)), MODEL.open_cache(2), []
    with torch.no_grad():
        for part in ids.split([100] + [1] * 200, dim=1):
            MODEL.read_on(part, cache)
            homes.append(cache.blocks[0][0].data_ptr())
    assert len(set(homes)) < 6
    exact = sum(tensor.numel() * 4 for pair in cache.blocks for tensor in pair)
    assert exact <= cache.bytes <= 1.6 * exact
    cache = MODEL.open_cache(2)
    logits = torch.cat([MODEL.read_on(part, cache) for part in ids[:, :40].split(8, dim=1)], dim=1)
    torch.testing.assert_close(logits, MODEL(ids[:, :40]), atol=1e-5, rtol=0)
    logits.sum().backward()
    pieces = [parameter.grad.clone() for parameter in MODEL.parameters()]
    MODEL.zero_grad()
    MODEL(ids[:, :40]).sum().backward()
    for piece, parameter in zip(pieces, MODEL.parameters()):
        torch.testing.assert_close(piece, parameter.grad, atol=1e-3, rtol=1e-3)
    MODEL.zero_grad()


@torch.no_grad()
def test_copies_that_go_on_differently_do_not_disturb_each_other():
    ids = torch.randint(0, 50, (3, 2, 60))
    whole = [MODEL(torch.cat([ids[0, :, :30], text[:, 30:]], dim=1)) for text in ids]
    cache = MODEL.open_cache(2)
    for part in ids[0, :, :30].split(10, dim=1):
        MODEL.read_on(part, cache)
    copies = [cache, cache.copy(), cache.copy()]
    for place in range(30, 60):
        for copy, text, wanted in zip(copies, ids, whole):
            logits = MODEL.read_on(text[:, place : place + 1], copy)
            torch.testing.assert_close(logits[:, 0], wanted[:, place], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_reading_that_fails_leaves_no_trace():
    ids, cache = torch.randint(0, 50, (1, 30)), MODEL.open_cache(1)
    for part in ids[:, :20].split(5, dim=1):
        MODEL.read_on(part, cache)
    reading = Reading(cache, 1)
    reading.gather(*(torch.randn(1, 1, heads, 4) for heads in (4, 2, 2)))  # and then never finished
    torch.testing.assert_close(MODEL.read_on(ids[:, 20:], cache), MODEL(ids)[:, 20:], atol=1e-5, rtol=0)


def test_inference_mode_and_back():
    ids, cache = torch.randint(0, 50, (1, 12)), MODEL.open_cache(1)
    with torch.inference_mode():
        for part in ids[:, :6].split(2, dim=1):
            MODEL.read_on(part, cache)
    with torch.no_grad():
        for part in ids[:, 6:].split(2, dim=1):
            logits = MODEL.read_on(part, cache)
        torch.testing.assert_close(logits, MODEL(ids)[:, -2:], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_cache_put_together_for_one_reading_makes_no_room():
    ids, cache = torch.randint(0, 50, (2, 40)), MODEL.open_cache(2)
    MODEL.read_on(ids[:, :39], cache)
    again = MODEL.open_cache(2)
    again.blocks, again.seen = cache.blocks, cache.seen
    logits = MODEL.read_on(ids[:, 39:], again)
    torch.testing.assert_close(logits, MODEL(ids, tail=1), atol=1e-5, rtol=0)
    assert again.bytes == sum(tensor.numel() * 4 for pair in again.blocks for tensor in pair)


def test_what_cannot_be_opened():
    with pytest.raises(ValueError, match="rows=0 must be at least 1"):
        MODEL.open_cache(0)
    with pytest.raises(ValueError, match="window=0 must be at least 1"):
        Cache(1, [None, 0], raw=True)
