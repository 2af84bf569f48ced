"""A language model and a stream small enough to train in milliseconds, for the tests of `golf.train`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from golf.contracts import Role, SpecError
from golf.train.spec import AdamW, Muon, TrainSpec

VOCAB, DIM, ROWS, TIME = 32, 16, 4, 8


class Layer(nn.Module):
    """A matrix whose forward pass goes through the hook `fake`, as golf's families have them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.fake = None

    def forward(self, x):
        return F.linear(x, self.weight if self.fake is None else self.fake(self.weight))


class Toy(nn.Module):
    """Two mixing layers around a token shift, tied head, a gain, and a family switch named `double`."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.table = nn.Parameter(0.1 * torch.randn(VOCAB, DIM))
        self.up, self.up_too, self.down = Layer(DIM, 3 * DIM), Layer(DIM, 3 * DIM), Layer(3 * DIM, DIM)
        self.gain = nn.Parameter(torch.ones(DIM + 1))  # an odd length, so that banks have to pad
        self.register_buffer("ticks", torch.zeros(3, dtype=torch.int64))
        self.register_buffer("drift", torch.zeros(2))
        self.dropout, self.double = dropout, False

    def forward(self, ids, tail=None):
        x = F.embedding(ids, self.table)
        x = x + F.pad(x[:, :-1], (0, 0, 1, 0))
        x = F.dropout(x, self.dropout, self.training and self.dropout > 0)
        hidden = F.silu(self.up(x)) * self.up_too(x)
        x = x + self.gain[:-1] * self.down(hidden) * (2 if self.double else 1)
        return F.linear(x, self.table) * self.gain[-1]

    def loss(self, ids, targets):
        return F.cross_entropy(self(ids).flatten(0, 1), targets.flatten())

    def roles(self):
        matrices = dict.fromkeys(("up.weight", "up_too.weight", "down.weight"), Role.MATRIX)
        return matrices | {"table": Role.HEAD, "gain": Role.CONTROL}

    def switch(self, name, on):
        if name != "double":
            raise SpecError(f"no switch {name!r}")
        self.double = on


class Counting:
    """An endless stream of a learnable pattern; rank r of w takes every w-th batch."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.position, self.rank, self.world = 0, rank, world

    def next(self):
        index = self.position * self.world + self.rank
        self.position += 1
        generator = torch.Generator().manual_seed(index)
        begin = torch.randint(VOCAB, (ROWS, 1), generator=generator)
        step = torch.randint(1, 4, (ROWS, 1), generator=generator)
        tokens = (begin + step * torch.arange(TIME + 1)) % VOCAB
        return tokens[:, :-1], tokens[:, 1:]

    def state(self):
        return {"position": self.position}

    def restore(self, state):
        self.position = state["position"]


def quantizer(model: Toy, step: float = 0.25):
    """Switch a straight-through rounding of every layer on or off."""

    def rounded(weight):
        return weight + ((weight / step).round() * step - weight).detach()

    def flip(on: bool) -> None:
        for layer in (model.up, model.up_too, model.down):
            layer.fake = rounded if on else None

    return flip


def spec(**changes) -> TrainSpec:
    given = dict(
        steps=6,
        batch_tokens=2 * ROWS * TIME,
        seq_len=TIME,
        rows=ROWS,
        matrix=Muon(momentum_steps=4),
        head=AdamW(lr=0.02),
        control=AdamW(lr=0.01),
        compile="off",
        warmup_steps=1,
        log_every=1,
    )
    return TrainSpec(**given | changes)
