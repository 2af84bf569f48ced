"""Attention in pieces against single queries in float64, and when it is chosen."""

import pytest
import torch

from golf.arch import attention
from golf.arch.attention import bias
from golf.arch.pieces import Pieces, forth
from golf.arch.unet import BigramHash, UNetSpec, ValueEmbedding
from golf.contracts import SpecError
from golf.host import Host
from golf.train.job import Job
from golf.train.spec import TrainSpec

CPU = torch.device("cpu")


def heads(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def query_by_query(q, k, v, starts=None):
    """Every query of every head on its own, over the keys of its document up to itself."""
    rows, time, count, width = q.shape
    early, y = k.shape[1] - time, torch.zeros(q.shape, dtype=q.dtype)
    for row in range(rows):
        for place in range(time):
            own = early + place
            first = 0 if starts is None else max([0, *(s for s in range(own + 1) if starts[row, s])])
            for head in range(count):
                shared = head // (count // k.shape[2])
                weights = torch.softmax(k[row, first : own + 1, shared] @ q[row, place, head] / width**0.5, 0)
                y[row, place, head] = weights @ v[row, first : own + 1, shared]
    return y


@pytest.mark.parametrize(
    ("time", "count", "groups", "rows"), [(13, 4, 2, 8), (8, 3, 3, 1), (5, 4, 1, 3), (7, 2, 2, 64)]
)
@pytest.mark.parametrize("documents", [False, True])
def test_values_and_gradients_are_those_of_single_queries(time, count, groups, rows, documents):
    torch.manual_seed(0)
    q, k, v = heads(2, time, count, 4), heads(2, time, groups, 4), heads(2, time, groups, 4)
    starts = torch.rand(2, time) < 0.25 if documents else None
    got = Pieces(rows=rows).attend(q, k, v, bias(starts, time, time, q))
    wanted = query_by_query(q, k, v, starts)
    torch.testing.assert_close(got, wanted)
    back = torch.randn_like(got)
    torch.testing.assert_close(torch.autograd.grad(got, (q, k, v), back), torch.autograd.grad(wanted, (q, k, v), back))


def test_the_last_queries_alone():
    torch.manual_seed(0)
    q, k, v = heads(2, 5, 4, 4), heads(2, 11, 2, 4), heads(2, 11, 2, 4)
    wanted = query_by_query(q, k, v)
    torch.testing.assert_close(Pieces(rows=6).attend(q, k, v, None), wanted)
    torch.testing.assert_close(Pieces(rows=6).attend(q, k, v, bias(None, 11, 5, q)), wanted)


@pytest.mark.parametrize(("time", "keys", "count", "groups", "rows"), [(13, 13, 4, 2, 8), (5, 11, 6, 2, 6)])
def test_a_compiler_is_told_the_shapes_that_come_out(time, keys, count, groups, rows):
    q, k, v = torch.randn(2, time, count, 4), torch.randn(2, keys, groups, 4), torch.randn(2, keys, groups, 4)
    torch.library.opcheck(forth, (q, k, v, None, rows), test_utils=("test_schema", "test_faketensor"))


def test_later_tokens_change_nothing():
    torch.manual_seed(0)
    q, k, v = heads(1, 20, 4, 8), heads(1, 20, 2, 8), heads(1, 20, 2, 8)
    before = Pieces(rows=14).attend(q, k, v, None)
    with torch.no_grad():
        for tensor in (q, k, v):
            tensor[:, 10:] = 100 * torch.randn(1)
    torch.testing.assert_close(Pieces(rows=14).attend(q, k, v, None)[:, :10], before[:, :10], atol=0, rtol=0)


def unet_job(**changes):
    torch.manual_seed(0)
    spec = UNetSpec(
        vocab=32, layers=2, dim=16, heads=4, kv_heads=2, rope_dims=2, bigram=BigramHash(rows=8, dim=4),
        values=ValueEmbedding(dim=4),
    )  # fmt: skip
    model = spec.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return Job(model, None, TrainSpec(steps=1, batch_tokens=40, seq_len=20, rows=2, **changes), Host(), {})


def test_a_training_step_attends_as_its_spec_says(monkeypatch):
    ids, targets = torch.randint(0, 32, (2, 2, 20)).unbind()
    ids[0, 7] = ids[1, 15] = 1  # documents begin
    calls, attend = [], Pieces.attend
    monkeypatch.setattr(Pieces, "attend", lambda *given: calls.append(1) or attend(*given))
    losses, grads = [], []
    for job in (unet_job(), unet_job(attention=Pieces(rows=14))):
        loss = job.evaluate(ids, targets)
        loss.backward()
        losses.append(loss.detach())
        grads.append({name: parameter.grad for name, parameter in job.model.named_parameters()})
    assert len(calls) == 2  # the second job's two blocks
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*grads)
    with torch.no_grad():
        job.model(ids)
    assert len(calls) == 2


def test_a_gpu_keeps_the_fused_kernel():
    with Pieces().on(CPU):
        assert attention.chosen is not None
    with Pieces().on(torch.device("cuda")):
        assert attention.chosen is None


def test_an_error_inside_leaves_nothing_behind():
    with pytest.raises(ValueError), Pieces().on(CPU):
        raise ValueError
    assert attention.chosen is None


def test_a_piece_has_a_row_at_least():
    with pytest.raises(SpecError, match="Pieces.rows=0 must be at least 1"):
        Pieces(rows=0)
