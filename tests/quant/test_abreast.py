"""Any number of threads gives the same curvature, the same codes and the same gains."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from test_fisher import Tied
from test_waterfill import curved

from golf.arch.unet import UNetSpec
from golf.contracts import quiet
from golf.host import Host
from golf.pack import container
from golf.pack.container import PackSpec
from golf.pack.rans import Rans
from golf.quant import abreast, fisher, viterbi
from golf.quant.apply import Calibration
from golf.quant.squeeze import Squeeze
from golf.quant.trellis import Trellis


@pytest.fixture
def threads():
    """Sets how many torch has; afterwards it has what it had."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 3])
def test_found_in_order_by_threads_of_one_each(threads, count):
    threads(count)
    names = set()

    def work(number):
        names.add(threading.get_ident())
        return number, torch.get_num_threads()

    assert abreast.each(work, range(20)) == [(number, 1) for number in range(20)]
    assert len(names) <= count + 1 and torch.get_num_threads() == count


def test_parts_are_ranks_of_one_sum(threads):
    threads(2)
    batches = [torch.full((1, 2), number) for number in range(5)]

    def total(part, host):
        return host.rank, host.world, host.sum(torch.stack(list(part)).sum()).item()

    assert abreast.in_parts(total, batches, Host()) == (0, 2, 20)
    assert abreast.in_parts(total, batches[:1], Host()) == (0, 1, 0)


def test_a_part_that_fails_ends_the_others(threads):
    threads(2)

    def work(part, host):
        if host.rank == 1:
            raise ZeroDivisionError
        return host.sum(torch.zeros(1))

    with pytest.raises(ZeroDivisionError):
        abreast.in_parts(work, [torch.zeros(1)] * 4, Host())


def test_curvature_in_parts_is_that_of_as_many_ranks(threads):
    batches = [torch.tensor([[0, 1, 3]]), torch.tensor([[4, 4, 2]])] * 3
    found = {}
    for count in (1, 2):
        threads(count)
        found[count] = abreast.in_parts(lambda part, host: fisher.collect(Tied(), part, host=host), batches, Host())
    assert found[1].tokens == found[2].tokens == 18
    for name, one in found[1].by_name.items():
        assert torch.equal(one.rows_R, found[2].by_name[name].rows_R)
    plain = fisher.collect(Tied(), batches, host=Host()).by_name["matrix"]
    assert 0.3 < (found[1].by_name["matrix"].rows_R / plain.rows_R).mean() < 3  # other draws


def test_the_same_artifact_from_any_number_of_threads(threads):
    torch.manual_seed(0)
    spec = UNetSpec(vocab=300, layers=2, dim=32, heads=4, kv_heads=2, bigram=None, rope_dims=4, rope_length=32)
    model = spec.build().eval()
    for W in model.parameters():
        torch.nn.init.normal_(W, std=0.2)
    weights, roles = {name: W.detach() for name, W in model.named_parameters()}, model.roles()
    batches = list(torch.randint(300, (6, 4, 32), generator=torch.Generator().manual_seed(1)))
    plan = Squeeze(
        **dict.fromkeys(("matrix", "head", "embed"), Trellis(step=0.002)),
        learn=3,
        calibration=Calibration(sequences=24),
    )

    def artifact(count: int) -> bytes:
        def size_of(qtensors):
            return len(container.dump(qtensors, {}, PackSpec(codec=Rans())))

        threads(count)
        with abreast.alone():
            known = abreast.in_parts(lambda part, host: plan.collect(model, part, host=host), batches, Host()).by_name
            fitted = plan.fit(weights, roles, known, size_of=size_of, cap=None, sink=quiet)
            fitted = plan.refine(fitted, model, known, batches, size_of=size_of, cap=None, host=Host(), sink=quiet)
        assert any(qtensor.method == "trellis" for qtensor in fitted.qtensors.values())
        return container.dump(fitted.qtensors, {}, PackSpec(codec=Rans()))

    assert len({artifact(count) for count in (1, 3)}) == 1


def test_the_same_artifact_for_any_block(monkeypatch):
    W, curvature = curved(300, 50)
    found = []
    for block, rows in ((viterbi.BLOCK, 1024), (7, 64)):
        monkeypatch.setattr("golf.quant.trellis.ROWS", rows)
        monkeypatch.setattr(viterbi.path, "__defaults__", (block,))
        found.append(Trellis.round(W, curvature, 0.004))
    assert found[0].method == "trellis" and all(
        np.array_equal(found[0].parts[part], found[1].parts[part]) for part in found[0].parts
    )
