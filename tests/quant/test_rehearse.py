"""Late QAT on the squeeze's own steps: the same rounding as export, in any graph, over stops, on every rank."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.contracts import QTensor, Role, SpecError, quiet
from golf.host import Host
from golf.pack import container
from golf.pack.container import PackSpec
from golf.pack.rans import Rans
from golf.quant.apply import LATE_QAT, Calibration, dequantize, quantize
from golf.quant.fisher import Curvature
from golf.quant.nearest import Keep
from golf.quant.rehearse import Rehearsed, aim, rate, reach
from golf.quant.trellis import Trellis
from golf.quant.waterfill import round_tensor
from golf.train import compiler, engine
from golf.train.job import Job
from golf.train.spec import AdamW, Muon, Stage, TrainSpec

VOCAB, DIM, ROWS, TIME = 48, 24, 4, 8


class Layer(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.fake = self.watch = None

    def now(self) -> Tensor:
        return self.weight if self.fake is None else self.fake(self.weight)


class Toy(nn.Module):
    """A tied table, two matrices and a gain."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.up, self.down = Layer(DIM, VOCAB), Layer(DIM, 2 * DIM), Layer(2 * DIM, DIM)
        self.gain = nn.Parameter(torch.ones(DIM))

    def roles(self) -> dict[str, Role]:
        matrices = {"up.weight": Role.MATRIX, "down.weight": Role.MATRIX}
        return matrices | {"table.weight": Role.HEAD, "gain": Role.CONTROL}

    def forward(self, ids: Tensor) -> Tensor:
        x = F.embedding(ids, self.table.now())
        x = x + F.linear(F.silu(F.linear(x * self.gain, self.up.now())), self.down.now())
        return F.linear(x, self.table.now())

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self(ids).flatten(0, 1), targets.flatten())


class Counting:
    """Rows that count up from a random token; rank and position choose which."""

    position = 0

    def next(self) -> tuple[Tensor, Tensor]:
        self.position += 1
        begin = torch.randint(VOCAB, (ROWS, 1), generator=torch.Generator().manual_seed(self.position))
        tokens = (begin + torch.arange(TIME + 1)) % VOCAB
        return tokens[:, :-1], tokens[:, 1:]

    def state(self) -> int:
        return self.position

    def restore(self, state: int) -> None:
        self.position = state


QUANT = Rehearsed(calibration=Calibration(sequences=32, rows=4), share=0.5)
TRAIN = TrainSpec(
    steps=12, batch_tokens=ROWS * TIME, seq_len=TIME, rows=ROWS, stages=(Stage(begin=0.5, fake_quant=True),),
    matrix=Muon(momentum_steps=4), head=AdamW(lr=0.02), control=AdamW(lr=0.01), compile="off", log_every=1,
)  # fmt: skip
CAP = 1500


def batches() -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randint(VOCAB, (4, TIME), generator=random) for _ in range(8)]


def rehearsal(model: nn.Module, quant: Rehearsed = QUANT, train: TrainSpec = TRAIN, cap: int | None = CAP):
    return quant.rehearse(model, batches, cap, train, Host())[LATE_QAT]


def fit(sink=quiet, spec: TrainSpec = TRAIN, **given):
    model = Toy()
    switches = {"fake_quant": rehearsal(model, train=spec)}
    return engine.fit(model, Counting(), spec, host=Host(), sink=sink, seed=0, switches=switches, **given)


@pytest.mark.parametrize("name", ["table", "up", "down"])
def test_one_rounding(name):
    """The stage computes with what read-back makes of the nearest codes on the same steps, bit for bit."""
    model = Toy()
    switch = rehearsal(model)
    switch(True)
    layer = getattr(model, name)
    rows, columns = layer.rehearsed_rows, layer.rehearsed_columns
    exact_RK = 2.0 ** ((rows[:, None].double() + columns) / 4)
    codes = (layer.weight.detach().double() / exact_RK).round().short()
    parts = {"codes": codes.numpy(), "rows": rows.numpy(), "columns": columns.numpy()}
    read = dequantize({"w": QTensor(tuple(codes.shape), "waterfill", parts)})["w"]
    assert torch.equal(layer.now(), read) and not torch.equal(read, layer.weight)
    switch(False)
    assert torch.equal(layer.now(), layer.weight)


def test_export_rounds_alike_where_no_error_can_be_made_up_for():
    model = Toy()
    rehearsal(model, cap=None)(True)
    curvature = known_curvature("up", Toy())
    factor = replace(curvature.factor, U_KK=curvature.factor.U_KK.diagonal().diag())
    curvature.__dict__["factor"] = factor
    qtensor = round_tensor(model.up.weight.detach(), curvature, QUANT.matrix.step)
    assert torch.equal(model.up.now(), dequantize({"w": qtensor})["w"])


def known_curvature(name: str, model: nn.Module) -> Curvature:
    read = batches()[: int(QUANT.share * QUANT.calibration.batches(1))]
    return QUANT.collect(model, read, host=Host()).by_name[f"{name}.weight"]


def test_steps_are_those_of_export():
    """The same curvature and the same step behind all steps: exponents equal those in an artifact."""
    model = Toy()
    rehearsal(model, cap=None)(True)
    for name in ("table", "up", "down"):
        layer, curvature = getattr(model, name), known_curvature(name, Toy())
        parts = round_tensor(layer.weight.detach(), curvature, QUANT.matrix.step).parts
        assert layer.rehearsed_rows.tolist() == parts["rows"].tolist()
        assert layer.rehearsed_columns.tolist() == parts["columns"].tolist()


@pytest.mark.parametrize("octaves", [0.0, 4.0, 6.0])
def test_the_ideal_coder_foretells_bytes(octaves):
    """From eight bits a weight to two, the packer needs what was foretold, and the search finds the way back."""
    random = torch.Generator().manual_seed(0)
    X, known = torch.randn(600, 96, generator=random) * torch.linspace(0.3, 3.0, 96), {}
    known["w"] = Curvature("w", X.T @ X / 600, torch.linspace(0.1, 2.0, 256))
    weights, roles = {"w": 0.02 * torch.randn(256, 96, generator=random)}, {"w": Role.MATRIX}
    qtensors = quantize(weights, roles, known, QUANT, 2.0**octaves)
    size = len(container.dump(qtensors, {}, PackSpec(codec=Rans())))
    assert rate(weights["w"], aim(weights, roles, known, QUANT, octaves)["w"]) == pytest.approx(8 * size, rel=0.05)
    assert reach(weights, roles, known, QUANT, size) == pytest.approx(octaves, abs=0.3)


def test_a_run_stopped_anywhere_resumes_to_the_same_bits(tmp_path):
    class Stop(Exception):
        pass

    whole = fit().average
    for stop in (5, 6, 7, 11):
        path = tmp_path / f"{stop}.safetensors"

        def sink(event, stop=stop):
            if event.kind == "step" and event.values["step"] == stop:
                raise Stop

        given = {"checkpoint": path, "resume": True, "spec": replace(TRAIN, checkpoint_seconds=0)}
        with pytest.raises(Stop):
            fit(sink, **given)
        again = fit(**given).average
        assert all(torch.equal(again[name], W) for name, W in whole.items()), stop
    assert whole.keys() == dict(Toy().named_parameters()).keys(), "buffers of the rehearsal are not handed on"


def test_resumed_within_the_stage_nothing_is_measured_again():
    model = Toy()
    job = Job(model, Counting(), TRAIN, Host(), {"fake_quant": rehearsal(model)})
    job.enter(frozenset({"fake_quant"}))
    tensors = {name: tensor.clone() for name, tensor in job.capture()[0].items()}
    read, other = [], Toy()
    switch = QUANT.rehearse(other, lambda: read.append(1) or batches(), CAP, TRAIN, Host())[LATE_QAT]
    later = Job(other, Counting(), TRAIN, Host(), {"fake_quant": switch})
    later.restore(tensors, job.capture()[1])
    later.enter(frozenset({"fake_quant"}))
    assert not read and torch.equal(other.up.now(), model.up.now())


def test_measured_anew_after_warm_up_and_once():
    model, read = Toy(), []
    switch = QUANT.rehearse(model, lambda: read.append(1) or batches(), CAP, TRAIN, Host())[LATE_QAT]
    engine.fit(model, Counting(), TRAIN, host=Host(), sink=quiet, seed=0, switches={"fake_quant": switch})
    assert len(read) == 2 and model.up.fake is None


def test_in_a_compiled_graph(monkeypatch):
    """One graph for each set of switches though steps are other ones in warm-up; the same weights as without."""
    graphs = []

    def compiled(function):
        torch.compiler.reset()

        def backend(graph, inputs):
            from torch._dynamo.backends.debugging import aot_eager

            graphs.append(sum("round" in str(node.target) for node in graph.graph.nodes))
            return aot_eager(graph, inputs)

        return torch.compile(function, backend=backend, fullgraph=True, dynamic=False)

    monkeypatch.setattr(compiler, "compiled", compiled)
    eager, traced = fit().average, fit(spec=replace(TRAIN, compile="on")).average
    assert graphs == [0, 4], "the table rounds at both of its ends"
    for name in eager:
        torch.testing.assert_close(traced[name], eager[name], rtol=1e-4, atol=1e-5)
    plain = fit(spec=replace(TRAIN, stages=(Stage(begin=0.99, fake_quant=True),))).average
    assert not torch.allclose(plain["up.weight"], eager["up.weight"], atol=1e-4)


def test_other_ranks_take_the_first_ones_steps():
    class Pair(Host):
        """Both ranks of a job, one after the other: what rank 0 shares, rank 1 receives."""

        shared = None

        def share(self, value):
            if self.is_main:
                Pair.shared = value
            return Pair.shared

        def sum(self, tensor):
            return tensor

        def largest(self, value):
            return value

    models = Toy(), Toy()
    for rank, model in enumerate(models):
        with torch.no_grad():
            model.up.weight.mul_(1 + rank)  # so that it would find other steps by itself
        QUANT.rehearse(model, batches, CAP, TRAIN, Pair(rank, 2))[LATE_QAT](True)
    assert torch.equal(models[0].up.rehearsed_rows, models[1].up.rehearsed_rows)
    assert models[0].up.rehearsed_rows.any() and models[1].rehearsed


def test_a_budget_moves_the_steps():
    fine, coarse = Toy(), Toy()
    rehearsal(fine, cap=2 * CAP)(True)
    rehearsal(coarse, cap=CAP)(True)
    assert (coarse.up.rehearsed_rows > fine.up.rehearsed_rows).all()


def test_methods_without_steps_rehearse_their_own():
    model = Toy()
    rehearsal(model, replace(QUANT, head=Keep()))(True)
    assert torch.equal(model.table.now(), model.table.weight.half().float())
    assert not hasattr(model.table, "rehearsed_rows")
    known = {name: known_curvature(name, model) for name in ("up", "down")}
    weights = {name: getattr(model, name).weight.detach() for name in known}
    assert aim(weights, dict.fromkeys(known, Role.MATRIX), known, QUANT, 0.0).keys() == known.keys()


def test_what_cannot_work_is_refused():
    with pytest.raises(SpecError, match=r"share=0 of the calibration text is outside \(0, 1\]"):
        replace(QUANT, share=0)
    with pytest.raises(SpecError, match="rounds to one grid and 'trellis' to others"):
        replace(QUANT, matrix=Trellis())
    with pytest.raises(SpecError, match="no stage to rehearse in"):
        rehearsal(Toy(), train=replace(TRAIN, stages=()))
    late = replace(TRAIN, steps=None, seconds=0.001)
    with pytest.raises(SpecError, match="measuring what to rehearse takes .* s and may take 0.0 s, half of what the"):
        rehearsal(Toy(), train=late)(True)
