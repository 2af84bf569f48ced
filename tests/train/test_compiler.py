"""Compiled training: late fake quantization is in the graph, and machines that cannot compile say so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_engine import Events, run
from train_toy import Toy, quantizer, spec

from golf.contracts import SpecError
from golf.train import compiler
from golf.train.compiler import choose
from golf.train.spec import Stage

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
STAGES = (Stage(begin=0.5, fake_quant=True),)


class Deaf(Toy):
    """Ignores its hooks while it is traced: what a flag baked into the graph amounts to."""

    def loss(self, ids, targets):
        if torch.compiler.is_compiling():
            for layer in (self.up, self.up_too, self.down):
                layer.fake = None
        return super().loss(ids, targets)


def late(model, events=None, **changes):
    given = {"switches": {"fake_quant": quantizer(model)}}
    return run(events, model=model, given=given, stages=STAGES, **changes)[1]


@pytest.fixture
def traced_only(monkeypatch):
    """The graph is captured and differentiated as for the real compiler, then run operator by operator."""
    graphs = []

    def compiled(function):
        torch.compiler.reset()

        def backend(graph, inputs):
            from torch._dynamo.backends.debugging import aot_eager

            graphs.append(graph)
            return aot_eager(graph, inputs)

        return torch.compile(function, backend=backend, fullgraph=True, dynamic=False)

    monkeypatch.setattr(compiler, "compiled", compiled)
    return graphs


def rounds(graph):
    return sum("round" in str(node.target) for node in graph.graph.nodes)


def test_late_quantization_reaches_the_compiled_graph(traced_only):
    events = Events()
    torch.manual_seed(1)
    eager = late(Toy(), compile="off")
    torch.manual_seed(1)
    compiled = late(Toy(), events, compile="on")
    assert [rounds(graph) for graph in traced_only] == [0, 3], "one graph for each set of switches, no more"
    assert events.of("warmup")[0]["backend"] == "inductor"
    for name in eager.average:
        torch.testing.assert_close(compiled.average[name], eager.average[name], rtol=1e-4, atol=1e-5)
    plain = run(seed=1)[1]
    assert not torch.allclose(plain.average["up.weight"], eager.average["up.weight"], atol=1e-4)


def test_a_switch_baked_into_the_graph_is_caught(traced_only):
    with pytest.raises(SpecError, match="switching fake_quant leaves the loss at"):
        late(Deaf(), compile="on")
    late(Deaf(), compile="off")  # eager, the same model obeys


def test_every_graph_is_traced_before_the_clock(traced_only):
    seen = []

    def sink(event):
        if event.kind in ("warmup", "train_end"):
            seen.append(len(traced_only))

    late(Toy(), sink, compile="on", warmup_steps=1)
    assert seen == [2, 2]


def test_every_context_length_is_traced_before_the_clock(traced_only):
    """Two lengths, and one of them with fake quantization: three graphs, none of them during the run."""
    model, seen = Toy(), []
    stages = (Stage(begin=0.3, seq_len=8), Stage(begin=0.6, seq_len=8, fake_quant=True), Stage(begin=0.9))

    def sink(event):
        if event.kind in ("warmup", "train_end"):
            seen.append(len(traced_only))

    given = {"switches": {"fake_quant": quantizer(model)}}
    run(sink, model=model, given=given, steps=10, seq_len=4, rows=8, stages=stages, compile="on")
    assert seen == [3, 3]


def test_a_loss_that_cannot_be_traced_is_named():
    class Broken(Toy):
        def loss(self, ids, targets):
            print("a side effect no graph can hold")
            return super().loss(ids, targets)

    with pytest.raises(SpecError, match=r"cannot be traced as one graph: .*set compile='off'"):
        run(model=Broken(), compile="on")


WITHOUT_COMPILER = """
import sys
sys.path[:0] = sys.argv[1:]
from test_compiler import Events, SpecError, run

events = Events()
assert run(events, compile="auto", seconds=300.0, steps=3)[1].steps == 3
print(events.of("warmup")[0]["backend"], events.of("warmup")[0]["why"])
try:
    run(compile="on")
except SpecError as error:
    print(error)
"""


@pytest.mark.slow
def test_without_a_c_compiler(tmp_path):
    """`auto` trains on in eager mode and says why; `on` is refused.

    In a process of its own, since torch remembers what it found out about the compiler.
    """
    here = Path(__file__).parent
    environment = os.environ | {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", WITHOUT_COMPILER, str(here), str(here.parents[1])]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=True)
    chosen, refused = child.stdout.strip().splitlines()
    assert chosen.startswith("eager compiling failed: ") and "compiler" in chosen
    assert refused.startswith("compile='on', but this machine cannot: ") and "or set compile='off'" in refused


def test_the_choice_is_made_from_device_and_budget():
    assert choose(spec(compile="on"), CPU)[0] == "inductor"
    assert choose(spec(compile="off"), CUDA)[0] == "eager"
    assert choose(spec(compile="auto"), CUDA)[0] == "inductor"
    assert choose(spec(compile="auto"), CPU)[0] == "eager"
    assert choose(spec(compile="auto", seconds=30.0), CPU)[0] == "eager"
    assert choose(spec(compile="auto", seconds=300.0, steps=None), CPU)[0] == "inductor"


@pytest.mark.slow
def test_late_quantization_under_inductor():
    events = Events()
    torch.manual_seed(1)
    eager = late(Toy(), compile="off")
    torch.manual_seed(1)
    compiled = late(Toy(), events, compile="on")
    assert events.of("warmup")[0]["backend"] == "inductor"
    for name in eager.average:
        torch.testing.assert_close(compiled.average[name], eager.average[name], rtol=1e-3, atol=1e-4)
