"""Hessians through the hooks equal the sums written out, on one rank and on several."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from golf.contracts import HessianError
from golf.host import Host
from golf.quant.hessian import collect


class Layer(nn.Module):
    """A matrix with hooks, as `contracts.Hooked` has it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * 0.3)
        self.fake = self.watch = None

    def forward(self, x: Tensor) -> Tensor:
        if self.watch is not None:
            self.watch(x)
        return x @ self.weight.T

    def look_up(self, ids: Tensor) -> Tensor:
        return self.weight[ids]


class Looped(nn.Module):
    """Tied table, one layer used three times, one never used as a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.shared, self.unused = Layer(6, 11), Layer(6, 6), Layer(4, 4)
        self.fail = False

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table.look_up(ids)
        for _ in range(3):
            x = torch.tanh(self.shared(x))
            if self.fail:
                raise RuntimeError("broken on purpose")
        return self.table(x)


def batches(count: int, seed: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(11, (2, 7), generator=random) for _ in range(count)]


def direct(model: Looped, ids: list[Tensor]) -> dict[str, Tensor]:
    """The sums written out, token by token, in float64."""
    shared, table, tokens = torch.zeros(6, 6).double(), torch.zeros(6, 6).double(), 0
    weight = model.shared.weight.detach().double()
    for token in torch.cat([batch.flatten() for batch in ids]):
        x = model.table.weight.detach()[token].double()
        for _ in range(3):
            shared += torch.outer(x, x)
            x = torch.tanh(weight @ x)
        table += torch.outer(x, x)
        tokens += 1
    return {"shared.weight": shared / tokens, "table.weight": table / tokens}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name in expected:
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-5, atol=1e-6)


def test_equals_the_sums_written_out_with_every_pass_of_a_shared_layer():
    model, ids = Looped(), batches(4)
    found = collect(model, iter(ids), host=Host())
    assert found.tokens == 4 * 14
    assert_equal(found.by_name, direct(model, ids))


def test_how_tokens_are_batched_does_not_matter():
    model, ids = Looped(), batches(4)
    one = collect(model, [torch.cat(ids)], host=Host())
    other = collect(model, ids, host=Host())
    assert_equal(one.by_name, {name: H.double() for name, H in other.by_name.items()})


class Pretend(Host):
    """Rank 0 of two; the other rank's tensors were recorded beforehand."""

    def __init__(self, others: list[Tensor]) -> None:
        super().__init__()
        object.__setattr__(self, "others", others)

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor.add_(self.others.pop(0))


class Record(Host):
    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "seen", [])

    def sum(self, tensor: Tensor) -> Tensor:
        self.seen.append(tensor.clone())
        return tensor


def test_ranks_add_up_even_when_one_read_nothing():
    model, ids = Looped(), batches(5)
    for split in (2, 5):
        other = Record()
        if split == 5:
            with pytest.raises(HessianError):
                collect(model, ids[split:], host=other)
            # Alone it would fail; in company it takes part in every sum, so nobody waits for it.
            other.seen += [torch.zeros(6, 6), torch.zeros(6, 6), torch.zeros(4, 4)]
        else:
            collect(model, ids[split:], host=other)
        found = collect(model, ids[:split], host=Pretend(other.seen))
        assert found.tokens == 5 * 14
        assert_equal(found.by_name, direct(model, ids))


def test_hooks_are_detached_after_success_and_after_an_exception():
    model = Looped()
    layers = (model.table, model.shared, model.unused)
    collect(model, batches(1), host=Host())
    assert all(layer.watch is None for layer in layers)
    model.fail = True
    with pytest.raises(RuntimeError, match="broken on purpose"):
        collect(model, batches(1), host=Host())
    assert all(layer.watch is None for layer in layers)


def test_nothing_else_about_the_model_changes():
    model = Looped()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    collect(model, batches(2), host=Host())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_compiled_model_is_watched_too():
    model, ids = Looped(), batches(3)
    model.compile(backend="eager", fullgraph=True)
    model(ids[0])
    assert_equal(collect(model, ids, host=Host()).by_name, direct(model, ids))


def test_memory_does_not_grow_with_the_text():
    """Batches are taken one at a time: what came before has been let go of."""
    import weakref

    alive: list[weakref.ref] = []

    def stream():
        for ids in batches(6):
            ids = ids.clone()
            assert sum(ref() is not None for ref in alive) <= 1
            alive.append(weakref.ref(ids))
            yield ids
            del ids

    collect(Looped(), stream(), host=Host())
    assert len(alive) == 6


def test_no_token_is_an_error():
    with pytest.raises(HessianError, match="0 tokens"):
        collect(Looped(), [], host=Host())
