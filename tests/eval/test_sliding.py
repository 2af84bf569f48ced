"""The sliding-window score against one forward pass per target."""

import numpy as np
import pytest
import torch
from torch import nn

from golf.contracts import ByteTable, DataError, DivergedError, SpecError
from golf.eval.sliding import GPU_TOKENS, LOGIT_BYTES, SlidingWindow, fitting, score
from golf.host import Host

VOCAB, BOS = 30, 1
TABLE = ByteTable(np.arange(VOCAB) % 5, np.arange(VOCAB) % 3 == 0, np.arange(VOCAB) < 3)


class Mixer(nn.Module):
    """A causal model that forgets nothing: every logit depends on every token so far and its place."""

    def __init__(self, takes_tail=True):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Parameter(torch.randn(VOCAB, 8))
        self.head = nn.Parameter(torch.randn(8, VOCAB))
        self.shapes = set()
        if not takes_tail:
            self.forward = self.whole

    def whole(self, ids):
        place = torch.arange(1, ids.shape[1] + 1)[:, None]
        state = torch.cumsum(self.table[ids] * (1 + 0.1 * torch.cos(place)), 1) / place**0.5
        return state @ self.head

    def forward(self, ids, tail=None):
        self.shapes.add((*ids.shape, tail))
        logits = self.whole(ids)
        return logits if tail is None else logits[:, -tail:]


def stream(length, seed=0):
    """Tokens t_0..t_length with a document beginning here and there."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCAB, length + 1)
    tokens[rng.random(length + 1) < 0.06] = BOS
    tokens[0] = BOS
    return tokens.astype(np.uint16)


@torch.no_grad()
def one_by_one(model, tokens, window, stride, edges=(0,)):
    """(nats, bytes), a forward pass for each target over just the tokens its window lets it see."""
    nats, length = 0.0, 0
    for place in range(len(tokens) - 1):
        document = max(edge for edge in edges if edge <= place)
        behind = place - document
        begin = 0 if behind < window else ((behind - window) // stride + 1) * stride
        seen = torch.from_numpy(tokens[document + begin : place + 1].astype(np.int64))
        prev, next = int(tokens[place]), int(tokens[place + 1])
        nats -= torch.log_softmax(model(seen[None])[0, -1].double(), 0)[next].item()
        length += int(TABLE.bytes_V[next]) + bool(TABLE.opens_V[next] and not TABLE.boundary_V[prev])
    return nats, length


@pytest.mark.parametrize("length", [1, 5, 15, 16, 17, 20, 90, 91])
@pytest.mark.parametrize("stride", [1, 5, 16])
@pytest.mark.parametrize("takes_tail", [True, False])
def test_equals_one_pass_per_target(length, stride, takes_tail):
    model, tokens = Mixer(takes_tail), stream(length)
    got = score(model, tokens, TABLE, window=16, stride=stride, batch_tokens=50)
    nats, length_bytes = one_by_one(model, tokens, 16, stride)
    assert got.nats == pytest.approx(nats, rel=1e-6)
    assert (got.tokens, got.bytes) == (length, length_bytes)


@pytest.mark.parametrize("length", [3, 40, 200])
def test_isolated_documents(length):
    """Each document is read alone; its last position predicts the next one's first token."""
    model, tokens = Mixer(), stream(length, seed=3)
    got = score(model, tokens, TABLE, window=16, stride=4, batch_tokens=64, documents="isolated", bos=BOS)
    edges = np.flatnonzero(tokens == BOS).tolist()
    nats, length_bytes = one_by_one(model, tokens, 16, 4, edges)
    assert got.nats == pytest.approx(nats, rel=1e-6)
    assert (got.tokens, got.bytes) == (length, length_bytes)


def test_batches_change_nothing():
    tokens = stream(333)
    scores = [score(Mixer(), tokens, TABLE, window=32, stride=8, batch_tokens=size) for size in (1, 64, 100, 10**6)]
    for other in scores[1:]:
        assert other.nats == pytest.approx(scores[0].nats, rel=1e-9)
        assert (other.tokens, other.bytes) == (scores[0].tokens, scores[0].bytes)


def test_two_shapes_in_all():
    """One for the first window, one for all others, the ragged end included."""
    model = Mixer()
    score(model, stream(333), TABLE, window=32, stride=8, batch_tokens=96)
    assert model.shapes == {(1, 32, 32), (3, 32, 8)}


def test_a_plan_is_made_as_it_is_read():
    """Nothing about the stream is listed: the first span is there before the second document is looked for."""

    class Endless:
        def __len__(self):
            return 10**12

        def __getitem__(self, place):
            assert place.start < 2**22, "the plan ran ahead of what was asked"
            return np.full(place.stop - place.start, BOS + 1)

    spans = SlidingWindow(window=64, stride=8).plan(Mixer(), Endless())
    assert [next(spans).end for _ in range(3)] == [64, 72, 80]


def test_the_real_model_computes_its_tail_alone():
    """A U-Net with documents and all repairs, where `tail` takes another path through the last block."""
    model, tokens = unet(), stream(100)
    got = score(model, tokens, TABLE, window=16, stride=4)
    assert got.nats == pytest.approx(one_by_one(model, tokens, 16, 4)[0], rel=1e-6)


def unet(**changes):
    from golf.arch.unet import UNetSpec

    torch.manual_seed(1)
    model = UNetSpec(vocab=VOCAB, bos=BOS, rope_length=16, **changes).tiny().build()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


class Counting(nn.Module):
    """The model inside, its rows counted; `spec` is passed on or hidden."""

    def __init__(self, model, shows_spec=True):
        super().__init__()
        self.model, self.rows = model, 0
        if shows_spec:
            self.spec = model.spec

    def forward(self, ids, tail=None):
        self.rows += len(ids)
        return self.model(ids, tail=tail)


@pytest.mark.parametrize(("documents", "stride"), [("stream", 4), ("stream", 1), ("stream", 16), ("isolated", 4)])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_documents_that_the_model_keeps_apart_are_fed_together(documents, stride, share):
    """The same nats for every target as in windows of their own, in fewer rows."""
    rng = np.random.default_rng(5)
    tokens = rng.integers(2, VOCAB, 401).astype(np.uint16)
    tokens[rng.random(401) < share] = BOS
    found, rows = [], []
    for shows_spec in (True, False):
        model, nats = Counting(unet(), shows_spec), np.full(401, np.nan)
        settings = {"window": 16, "stride": stride, "documents": documents, "bos": BOS, "batch_tokens": 48}
        total = score(model, tokens, TABLE, **settings, report=nats.__setitem__)
        assert total.tokens == 400
        found.append(nats[1:])
        rows.append(model.rows)
    assert np.abs(found[0] - found[1]).max() < 1e-4
    assert rows[0] < rows[1] or (stride, documents) == (16, "stream")


@torch.no_grad()
def test_windows_without_a_boundary_take_the_causal_kernel():
    """The hint goes with exactly the windows inside which no document begins, and changes no number."""
    model, hints = unet(), []
    ids = torch.randint(2, VOCAB, (2, 16))
    ids[:, 0] = BOS
    torch.testing.assert_close(model(ids, whole=True), model(ids), atol=1e-5, rtol=1e-5)

    class Told(Counting):
        def forward(self, ids, tail=None, whole=False):
            hints.append((whole, bool((ids[:, 1:] == BOS).any())))
            return self.model(ids, tail=tail, whole=whole)

    score(Told(model), stream(200), TABLE, window=16, stride=4)
    assert {whole for whole, _ in hints} == {True, False} and all(whole is not begins for whole, begins in hints)


def test_documents_are_not_fed_together_where_the_model_would_mix_them():
    tokens = stream(300, seed=2)
    nats, _ = one_by_one(unet(documents=False), tokens, 16, 4, np.flatnonzero(tokens == BOS).tolist())
    got = score(unet(documents=False), tokens, TABLE, window=16, stride=4, documents="isolated", bos=BOS)
    assert got.nats == pytest.approx(nats, rel=1e-6)


def _rank(rank, file, out):
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    seen = []
    total = score(
        Mixer(), stream(333), TABLE, window=32, stride=8, batch_tokens=96, host=Host(rank, 2),
        report=lambda places, nats: seen.extend(places.tolist()),
    )  # fmt: skip
    torch.distributed.destroy_process_group()
    out.put((rank, total, seen))


def test_two_ranks_share_the_work(forks, tmp_path):
    out = forks.SimpleQueue()
    workers = [forks.Process(target=_rank, args=(rank, tmp_path / "meet", out)) for rank in range(2)]
    for worker in workers:
        worker.start()
    results = sorted((out.get() for _ in workers), key=lambda result: result[0])
    for worker in workers:
        worker.join()
    alone = score(Mixer(), stream(333), TABLE, window=32, stride=8, batch_tokens=96)
    for _, total, _ in results:
        assert total.nats == pytest.approx(alone.nats, rel=1e-12)
        assert (total.tokens, total.bytes) == (alone.tokens, alone.bytes)
    (_, _, first), (_, _, second) = results
    assert sorted(first + second) == list(range(1, 334)) and min(len(first), len(second)) > 100


def test_more_ranks_than_windows(monkeypatch):
    """A rank without work scores nothing and still joins the sums."""
    monkeypatch.setattr(Host, "sum", lambda self, tensor: tensor)
    with pytest.raises(AssertionError, match="0 targets scored instead of 5"):
        score(Mixer(), stream(5), TABLE, window=16, stride=4, host=Host(3, 8))


def test_report_tells_every_target_once():
    model, tokens, told = Mixer(), stream(100), {}

    def report(places, nats):
        assert not told.keys() & set(places.tolist())
        told.update(zip(places.tolist(), nats.tolist()))

    total = score(model, tokens, TABLE, window=16, stride=4, report=report)
    assert sorted(told) == list(range(1, 101))
    assert sum(told.values()) == pytest.approx(total.nats, rel=1e-6)
    first = -torch.log_softmax(model(torch.tensor([[BOS]]))[0, 0], 0)[int(tokens[1])]
    assert told[1] == pytest.approx(first.item(), rel=1e-5)


def test_the_model_is_left_as_it_was():
    model = Mixer().train()
    score(model, stream(40), TABLE, window=16, stride=4)
    assert model.training and model.table.requires_grad
    model.eval()
    score(model, stream(40), TABLE, window=16, stride=4)
    assert not model.training


def test_progress_is_told():
    events = []
    score(Mixer(), stream(100), TABLE, window=16, stride=4, batch_tokens=80, sink=events.append)
    told = [(event.values["done"], event.values["total"]) for event in events]
    assert {event.kind for event in events} == {"score"}
    assert told[0] == (0, 100) and told[-1] == (100, 100) and told == sorted(told)


def test_streams_too_short_or_foreign():
    with pytest.raises(DataError, match="at least 2 tokens, the stream has 1"):
        score(Mixer(), stream(0), TABLE, window=16, stride=4)
    tokens = stream(20)
    tokens[13] = VOCAB
    with pytest.raises(DataError, match=f"token id {VOCAB} .* outside 0..{VOCAB - 1}"):
        score(Mixer(), tokens, TABLE, window=16, stride=4)


def test_a_loss_that_is_no_number():
    model = Mixer()
    nn.init.constant_(model.head, float("nan"))
    with pytest.raises(DivergedError, match="nan"):
        score(model, stream(20), TABLE, window=16, stride=4)


def test_the_spec_feeds_the_function():
    spec = SlidingWindow(window=16, stride=4, batch_tokens=64, documents="isolated", bos=BOS)
    got = spec.score(Mixer(), stream(90), TABLE)
    assert got == score(Mixer(), stream(90), TABLE, window=16, stride=4, batch_tokens=64, documents="isolated", bos=BOS)
    for wrong in ({"stride": 5000}, {"batch_tokens": 0}, {"documents": "apart"}):
        with pytest.raises(SpecError, match=next(iter(wrong))):
            SlidingWindow(**wrong)


def test_matrices_in_bf16_and_nats_in_float32(monkeypatch):
    model, seen = Mixer(), []
    plain = score(model, stream(200), TABLE, window=16, stride=4)
    monkeypatch.setattr(Host, "compute_dtype", torch.bfloat16)
    whole, cross_entropy = model.whole, torch.nn.functional.cross_entropy

    def watched(logits, *others, **options):
        seen.append(logits.dtype)
        return cross_entropy(logits, *others, **options)

    def typed(ids):
        logits = whole(ids)
        seen.append(logits.dtype)
        return logits

    monkeypatch.setattr(model, "whole", typed)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", watched)
    low = score(model, stream(200), TABLE, window=16, stride=4)
    assert set(seen[::2]) == {torch.bfloat16} and set(seen[1::2]) == {torch.float32}
    assert low.nats != plain.nats and low.nats == pytest.approx(plain.nats, rel=0.01)


@pytest.mark.parametrize("vocab", [256, 8192, 200_000])
def test_a_batch_fits_the_memory_that_is_free(vocab, monkeypatch):
    host = Host(device=torch.device("cuda"))
    for free in (1 << 28, 1 << 32, 1 << 40):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 1 << 40))
        assert fitting(host, vocab) <= min(GPU_TOKENS, free // (LOGIT_BYTES * vocab))
    assert fitting(host, vocab) == GPU_TOKENS
