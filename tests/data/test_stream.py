import itertools
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.contracts import DataError
from golf.data import shards, stream
from golf.data.stream import Position, TokenStream, Windows


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Three shards whose tokens are their positions, so that a window tells where it came from."""
    folder = tmp_path_factory.mktemp("stream")
    return shards.write(folder / "x_train_%06d.bin", [np.arange(5_000)], 2_000)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**32))
def test_permute_is_a_permutation(size, seed):
    keys = np.random.default_rng(seed).integers(1 << 64, size=stream.FEISTEL_ROUNDS, dtype=np.uint64)
    image = stream.permute(np.arange(size), size, keys)
    assert sorted(image.tolist()) == list(range(size))
    some = np.arange(size)[:: max(size // 7, 1)]
    assert stream.permute(some, size, keys).tolist() == image[some].tolist()


def test_permute_looks_random():
    """Every image of an index, and of two neighbors, is equally likely over many keys."""
    draw = np.random.default_rng(0)
    places = np.zeros((12, 12))
    pairs = np.zeros((12, 12))
    for _ in range(3000):
        keys = draw.integers(1 << 64, size=stream.FEISTEL_ROUNDS, dtype=np.uint64)
        image = stream.permute(np.arange(12), 12, keys)
        places[np.arange(12), image] += 1
        pairs[image[3], image[4]] += 1
    assert np.abs(places - 250).max() < 5 * np.sqrt(250)
    off = pairs[~np.eye(12, dtype=bool)]
    assert np.abs(off - 3000 / 132).max() < 5 * np.sqrt(3000 / 132)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(0, 99), st.integers(0, 3))
def test_an_epoch_visits_every_window_once(paths, seq_len, seed, epoch):
    windows = Windows(paths, seq_len, seed)
    count = windows.count(epoch)
    block = windows.read(Position(epoch, 0), count)
    assert (np.diff(block.astype(int), axis=1) == 1).all()
    begins = np.sort(block[:, 0].astype(int))
    # Within a shard windows lie edge to edge from one phase on, and less than one window is left at its end.
    for first, end in ((0, 2000), (2000, 4000), (4000, 5000)):
        mine = begins[(begins >= first) & (begins < end)]
        assert (np.diff(mine) == seq_len).all()
        assert mine[0] - first < seq_len and end - 1 - (mine[-1] + seq_len) < seq_len


def test_epochs_and_seeds_differ(paths):
    def begins(seed, epoch):
        windows = Windows(paths, 16, seed)
        return tuple(windows.read(Position(epoch, 0), 20)[:, 0].tolist())

    assert len({begins(seed, epoch) for seed in (1, 2) for epoch in (0, 1, 2)}) == 6
    assert begins(1, 2) == begins(1, 2)


def take(feed, count):
    return [feed.next() for _ in range(count)]


def test_targets_are_the_inputs_one_further_on(paths):
    feed = TokenStream(paths, seq_len=32, rows=4, seed=3, vocab=5000)
    for ids, targets in take(feed, 5):
        assert ids.shape == targets.shape == (4, 32) and ids.dtype == targets.dtype == torch.int64
        assert torch.equal(targets, ids + 1)
        assert ids.is_contiguous() and targets.is_contiguous()
    feed.close()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 40), st.integers(1, 7), st.sampled_from([1, 2, 4]))
def test_resuming_anywhere_is_exact(paths, consumed, rows, world):
    whole = TokenStream(paths, seq_len=50, rows=rows, seed=5, rank=world - 1, world=world)
    take(whole, consumed)
    state = whole.state()
    expected = take(whole, 4)
    other = TokenStream(paths, seq_len=50, rows=rows, seed=5, rank=world - 1, world=world)
    take(other, 3)
    other.restore(state)
    assert other.state() == state
    for ours, theirs in zip(expected, take(other, 4)):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    whole.close(), other.close()


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_partition_what_one_rank_reads(paths, world):
    """Over two ends of an epoch, and with the same state on every rank."""
    one = TokenStream(paths, seq_len=50, rows=2 * world, seed=9)
    ranks = [TokenStream(paths, seq_len=50, rows=2, seed=9, rank=r, world=world) for r in range(world)]
    for _ in range(120):
        ids = torch.cat([rank.next()[0] for rank in ranks])
        assert torch.equal(ids, one.next()[0])
        assert all(rank.state() == one.state() for rank in ranks)
    assert one.state()["epoch"] >= 2
    for feed in (one, *ranks):
        feed.close()


def test_state_counts_what_was_handed_out_not_what_was_read_ahead(paths):
    feed = TokenStream(paths, seq_len=10, rows=3, seed=1, world=2)
    assert feed.state() == {"epoch": 0, "index": 0}
    feed.next()
    assert feed.state() == {"epoch": 0, "index": 6}
    feed.close()


def test_close_ends_the_thread(paths):
    feed = TokenStream(paths, seq_len=10, rows=3, seed=1)
    before = threading.active_count()
    first = feed.next()
    assert threading.active_count() == before + 1
    feed.close()
    feed.close()
    assert threading.active_count() == before
    feed.restore({"epoch": 0, "index": 0})
    assert torch.equal(feed.next()[0], first[0])
    feed.close()


def test_errors_of_the_thread_reach_the_caller(paths):
    feed = TokenStream(paths, seq_len=100, rows=64, seed=1, vocab=4000)
    with pytest.raises(DataError, match="beyond the vocabulary of 4000"):
        take(feed, 3)
    feed.close()


def test_too_little_text_is_refused(paths):
    with pytest.raises(DataError, match=r"longest of 3 shards has 2000 tokens, sequences of 1001 need 2002"):
        TokenStream(paths, seq_len=1001, rows=1, seed=0)
    feed = TokenStream(paths, seq_len=1000, rows=2, seed=0)
    assert feed.next()[0].shape == (2, 1000)
    feed.close()


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_sample_does_not_depend_on_the_world_size(paths, world):
    shares = [
        list(stream.sample(paths, count=11, rows=2, seq_len=30, seed=4, rank=r, world=world)) for r in range(world)
    ]
    ids = torch.cat(list(itertools.chain.from_iterable(shares)))
    (expected,) = stream.sample(shards.Tokens(paths), count=11, rows=11, seq_len=30, seed=4)
    assert torch.equal(ids, expected) and ids.shape == (11, 30)
    assert len(set(ids[:, 0].tolist())) == 11
    assert max(batch.shape[0] for share in shares for batch in share) == 2


def test_sample_of_more_than_there_is_takes_all(paths):
    batches = list(stream.sample(paths, count=10**6, rows=8, seq_len=500, seed=4))
    assert 5 <= sum(len(batch) for batch in batches) <= 9
