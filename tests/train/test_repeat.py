"""A compiled run on a CPU repeats to the bit, on several threads as on one."""

import pytest
import torch
import torch.nn.functional as F
from test_engine import digest, run
from torch import nn

from golf import host as hosts
from golf.contracts import Role

ROWS, TIME, FEW = 32, 64, 4


class Lookup(nn.Module):
    """Every batch looks up the same few rows very often: threads that add up their gradients meet all the time."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(FEW, 64))

    def loss(self, ids, targets):
        return (F.embedding(ids, self.table).sin() - targets[..., None]).square().mean()

    def roles(self):
        return {"table": Role.EMBED}


class Random:
    """An endless stream, the same one each time."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(7)

    def next(self):
        return tuple(torch.randint(FEW, (ROWS, TIME), generator=self.generator) for _ in range(2))

    def state(self):
        return self.generator.get_state().tolist()

    def restore(self, state):
        self.generator.set_state(torch.tensor(state, dtype=torch.uint8))


@pytest.fixture
def two_threads():
    threads, ordered = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(ordered)


def test_two_threads_come_to_the_same_bits_each_time(two_threads):
    with hosts.join() as host:
        if host.device.type != "cpu":
            pytest.skip("a GPU is not held to one order of its sums")
        seen = set()
        shape = {"rows": ROWS, "seq_len": TIME, "batch_tokens": ROWS * TIME, "steps": 100}
        for _ in range(2):
            torch.manual_seed(1)
            _, trained = run(model=Lookup(), stream=Random(), given={"host": host}, compile="on", **shape)
            seen.add(digest(trained.average))
    assert len(seen) == 1
