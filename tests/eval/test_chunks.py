"""Learning by chunks: against a loop written out, and what must not depend on what."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from golf.arch.unet import UNetSpec
from golf.contracts import ByteTable, SpecError
from golf.eval.chunks import ChunkSGD
from golf.eval.validity import causality, driver
from golf.host import Host

VOCAB, BOS = 30, 1
TABLE = ByteTable(np.arange(VOCAB) % 5, np.arange(VOCAB) % 3 == 0, np.arange(VOCAB) < 3)
SPEC = ChunkSGD(window=16, stride=4, chunk=40, epochs=2, rows=2, lr=0.05)


def unet(**changes):
    torch.manual_seed(1)
    model = UNetSpec(vocab=VOCAB, bos=BOS, rope_length=16, **changes).tiny().build()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def stream(length, seed=0):
    """Text with something to learn: a token is mostly the one before plus three."""
    rng = np.random.default_rng(seed)
    tokens = [BOS]
    while len(tokens) <= length:
        follows = 2 + (tokens[-1] + 1) % (VOCAB - 2)
        tokens.append(BOS if rng.random() < 0.05 else follows if rng.random() < 0.8 else int(rng.integers(2, VOCAB)))
    return np.array(tokens, np.uint16)


def told(spec, model, tokens, **options):
    nats = np.full(len(tokens), np.nan)
    return spec.score(model, tokens, TABLE, report=nats.__setitem__, **options), nats[1:]


def written_out(model, tokens, spec):
    """Nats of every target: windows by hand, one forward each, and SGD from its definition."""
    model, ids = copy.deepcopy(model), torch.from_numpy(tokens.astype(np.int64))
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    nats, total = [], len(tokens) - 1
    for first in range(0, total, spec.chunk):
        last = min(first + spec.chunk, total)
        for place in range(first, last):
            begin = 0 if place < spec.window else ((place - spec.window) // spec.stride + 1) * spec.stride
            with torch.no_grad():
                logits = model(ids[None, begin : place + 1])[0, -1]
            nats.append(F.cross_entropy(logits, ids[place + 1]).item())
        if last == total:
            break
        for _ in range(spec.epochs):
            for begin in range(first, last, spec.rows * spec.window):
                end = min(begin + spec.rows * spec.window, last)
                losses = [
                    F.cross_entropy(model(ids[None, at:to])[0], ids[at + 1 : to + 1], reduction="sum")
                    for at, to in ((at, min(at + spec.window, end)) for at in range(begin, end, spec.window))
                ]
                grads = torch.autograd.grad(sum(losses) / (end - begin), list(model.parameters()))
                norm = torch.sqrt(sum(grad.square().sum() for grad in grads))
                for (name, parameter), grad in zip(model.named_parameters(), grads):
                    velocity[name] = spec.momentum * velocity[name] + grad * (spec.grad_clip / norm).clamp(max=1)
                    parameter.data -= spec.lr * velocity[name]
    return np.array(nats)


@pytest.mark.parametrize("documents", [True, False])
@pytest.mark.parametrize("length", [130, 120])
def test_equals_the_loop_written_out(documents, length):
    model, tokens = unet(documents=documents), stream(length)
    total, nats = told(SPEC, model, tokens)
    np.testing.assert_allclose(nats, written_out(model, tokens, SPEC), atol=2e-4)
    assert (total.tokens, total.bytes) == (length, int(TABLE.count(tokens[:-1], tokens[1:]).sum()))


def test_the_first_chunk_is_the_fixed_score_and_later_ones_are_better():
    model, tokens = unet(), stream(600)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    total, nats = told(SPEC, model, tokens)
    fixed, before = told(SPEC.fixed, model, tokens)
    np.testing.assert_allclose(nats[:40], before[:40], atol=5e-5)
    assert total.nats < 0.97 * fixed.nats and SPEC.fixed.kind == "sliding"
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_comes_later_changes_no_score_to_the_last_bit():
    model, tokens = unet(), stream(130)
    changed = tokens.copy()
    changed[97] = 2 + (tokens[97] - 1) % (VOCAB - 2)
    before, after = told(SPEC, model, tokens)[1], told(SPEC, model, changed)[1]
    assert (before[:96] == after[:96]).all() and before[96] != after[96] and before[125] != after[125]


@pytest.mark.parametrize("stretch", [None, 7])
def test_steps_and_stretches_agree(stretch):
    model, tokens = unet(), stream(100)
    found = driver.drive(SPEC.predictor(), model, tokens, stretch=stretch)
    nats = np.concatenate([scored.nats_T for scored in found])
    np.testing.assert_allclose(nats, told(SPEC, model, tokens)[1], atol=2e-4)


def _rank(rank, file, out):
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    out.put((rank, told(SPEC, unet(), stream(130), host=Host(rank, 2))[0]))
    torch.distributed.destroy_process_group()


def test_two_ranks_learn_the_same(forks, tmp_path):
    out = forks.SimpleQueue()
    workers = [forks.Process(target=_rank, args=(rank, tmp_path / "meet", out)) for rank in range(2)]
    for worker in workers:
        worker.start()
    results = [out.get()[1] for _ in workers]
    for worker in workers:
        worker.join()
    alone = told(SPEC, unet(), stream(130))[0]
    assert results[0] == results[1] and results[0].bytes == alone.bytes
    assert results[0].nats == pytest.approx(alone.nats, rel=1e-5)


def test_rates_and_refusals():
    spec = ChunkSGD(lr=0.004, decay_chunks=10)
    assert [spec.rate(chunk) for chunk in (0, 5, 10, 99)] == pytest.approx([0.004, 0.002, 0, 0])
    assert ChunkSGD(lr=0.004).rate(99) == 0.004
    for wrong in ({"chunk": 0}, {"lr": 0.0}, {"momentum": 1.0}, {"stride": 5000}):
        with pytest.raises(SpecError, match=next(iter(wrong))):
            ChunkSGD(**wrong)


@pytest.mark.parametrize("place", (1, 41, 42, 81, 97))
def test_shown_in_one_go_it_learns_as_it_does_when_asked_in_between(place):
    model, tokens = unet(), stream(100)
    row = causality.step(SPEC.predictor(), model, tokens[:place].astype(np.int64))
    assert -row[tokens[place]] == pytest.approx(told(SPEC, model, tokens)[1][place - 1], abs=2e-4)
