"""What tensors take of the streams they share adds up to the streams, and follows what each of them holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from golf.contracts import QTensor, Stream
from golf.pack import container
from golf.pack.container import PackSpec
from golf.pack.rans import Rans
from golf.pack.remembered import Remembered
from golf.pack.spent import spent, streams


@dataclass(frozen=True)
class Asked(Rans):
    """Rans, and a note of each stream it is asked for."""

    asked: list

    def encode(self, stream):
        self.asked.append(stream)
        return super().encode(stream)


def tensor(rows, columns, spread, seed):
    random = np.random.default_rng(seed)
    codes = np.round(random.normal(0, spread, (rows, columns))).astype(np.int8)
    parts = {"codes": codes, "rows": random.integers(-9, 9, rows, np.int8), "gain": np.ones(2, np.float32)}
    return QTensor((rows, columns), "waterfill", parts, {"codes": 255, "rows": 255}, "matrix")


def test_shares_add_up_to_the_streams_and_follow_the_codes():
    shapes = {"narrow": (700, 96, 1), "wide": (500, 96, 9), "alone": (300, 40, 2), "small": (20, 96, 3)}
    qtensors = {name: tensor(*shape, seed) for seed, (name, shape) in enumerate(shapes.items())}
    entries = [entry for entry, _ in container.contents(container.dump(qtensors, {}, PackSpec(codec=Rans())))]
    total = sum(entry.bytes for entry in entries if entry.alphabet)
    found = [(shared.stream.width, spent(shared)) for shared in streams(qtensors)]
    assert sum(sum(bits.values()) for _, bits in found) / 8 == pytest.approx(total, rel=0.002)
    (matrices,) = [bits for width, bits in found if width == 96]
    for name, bits in matrices.items():
        rows, columns, spread = shapes[name]
        assert bits / rows / columns == pytest.approx(np.log2(spread * np.sqrt(2 * np.pi * np.e)), abs=0.15)


def test_a_lone_column_is_shared_too():
    random = np.random.default_rng(0)
    codes = {
        name: np.round(random.normal(0, spread, 60_000)).astype(np.int8) for name, spread in (("a", 2), ("b", 20))
    }
    qtensors = {name: QTensor(c.shape, "waterfill", {"codes": c}, {"codes": 255}, "x") for name, c in codes.items()}
    (shared,) = streams(qtensors)
    bits = spent(shared)
    whole = Stream(np.concatenate(list(codes.values())), 255, 0)
    assert sum(bits.values()) == pytest.approx(8 * len(Rans().encode(whole)), rel=0.002)
    assert bits["b"] > 1.3 * bits["a"]


def test_streams_are_those_that_an_artifact_asks_a_codec_for():
    qtensors = {name: tensor(rows, 96, 3, rows) for name, rows in (("a", 700), ("b", 30))}
    asked: list[Stream] = []
    codec = Remembered(Asked(asked))
    codec.prepare([shared.stream for shared in streams(qtensors)], lambda work, items: list(map(work, items)))
    plain = container.dump(qtensors, {}, PackSpec(codec=Rans()))
    asked.clear()
    assert container.dump(qtensors, {}, PackSpec(codec=codec)) == plain
    assert [stream.alphabet for stream in asked] == [0]  # gains, which are floats
