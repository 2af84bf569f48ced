"""What may be done to the weights of each family without changing what the model computes.

Hidden units and heads may change places. A factor may go from one matrix to the next where all between them is linear
or squares: rows of a value projection and columns of what reads them, rows that write to the residual and the gain
behind them. Names are those of `named_parameters`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from golf.contracts import ModelSpec, Side, Symmetry


@dataclass(frozen=True)
class Heads:
    """Layers of an attention by the names of their weights; `queries` heads read each of `groups` value heads.

    values: (name, axis) of whatever makes up the values: projections, tables of value embeddings.
    each, grouped: (name, axis) of what has an entry for each query head, for each value head.
    linear: values reach the output without a norm, so each of their entries may have a factor.
    """

    groups: int
    queries: int
    width: int
    q: Sequence[str]
    k: Sequence[str]
    values: Sequence[tuple[str, int]]
    o: Sequence[str]
    each: Sequence[tuple[str, int]] = ()
    grouped: Sequence[tuple[str, int]] = ()
    linear: bool = True

    def symmetries(self) -> list[Symmetry]:
        queries, width = self.queries, self.width
        wide = queries * width
        found = [
            Symmetry(
                self.groups,
                (
                    *(Side(name, 0, 0, wide) for name in self.q),
                    *(Side(name, 0, 0, width) for name in self.k),
                    *(Side(name, axis, 1, width) for name, axis in self.values),
                    *(Side(name, 1, -1, wide) for name in self.o),
                    *(Side(name, axis, 0, queries) for name, axis in self.each),
                    *(Side(name, axis) for name, axis in self.grouped),
                ),
                signs=True,
            )
        ]
        for group in range(self.groups):
            if queries > 1:
                inside = [*(Side(name, 0, 0, width, group * wide) for name in self.q)]
                inside += [Side(name, 1, 0, width, group * wide) for name in self.o]
                inside += [Side(name, axis, 0, 1, group * queries) for name, axis in self.each]
                found.append(Symmetry(queries, tuple(inside)))
            power = 1 if self.linear else 0
            entries = [Side(name, axis, power, 1, group * width) for name, axis in self.values]
            entries += [
                Side(name, 1, -power, 1, group * wide + head * width) for name in self.o for head in range(queries)
            ]
            found.append(Symmetry(width, tuple(entries), signs=self.linear))
        return found


def pr1361(spec: Any) -> list[Symmetry]:
    found, queries = [], spec.heads // spec.kv_heads

    def heads(layers: Sequence[int], values: list[tuple[str, int]], linear: bool) -> list[Symmetry]:
        paths = [f"blocks.{layer}.attn" for layer in layers]
        return Heads(
            spec.kv_heads,
            queries,
            spec.head_dim,
            q=[f"{path}.c_q.weight" for path in paths],
            k=[f"{path}.c_k.weight" for path in paths],
            values=[(f"{path}.c_v.weight", 0) for path in paths] + values,
            o=[f"{path}.proj.weight" for path in paths],
            each=[(f"{path}.q_gain", 0) for path in paths],
            linear=linear,
        ).symmetries()

    for layer in range(spec.layers):
        path, xsa = f"blocks.{layer}", layer >= spec.layers - spec.xsa_last
        if layer not in spec.value_layers:
            found += heads([layer], [], not xsa)
        found.append(_units(spec.hidden, (f"{path}.mlp.fc.weight", 0, 1), (f"{path}.mlp.proj.weight", 1, -2)))
        for gain, writes in (("attn_scale", "attn.proj"), ("mlp_scale", "mlp.proj")):
            found.append(_gain(spec.dim, (f"{path}.{gain}", 0), (f"{path}.{writes}.weight", 0)))
    if spec.values:
        # The value embedding is one for several blocks, so their heads change places together.
        narrow = spec.values.dim == spec.kv_dim
        shared = ("ve_shared.embed.weight", 1) if narrow else ("ve_shared.proj.weight", 0)
        xsa = max(spec.value_layers) >= spec.layers - spec.xsa_last
        found += heads(spec.value_layers, [shared], not xsa)
        if not narrow:
            found.append(_units(spec.values.dim, *_table("ve_shared"), signs=True))
    if spec.bigram and spec.bigram.dim != spec.dim:
        found.append(_units(spec.bigram.dim, *_table("bigram"), signs=True))
    return found


def gelu_gpt(spec: Any) -> list[Symmetry]:
    found, relu2 = [], spec.activation == "relu2"
    for layer in range(spec.layers):
        path = f"blocks.{layer}"
        extra = layer in spec.value_layers
        found += Heads(
            spec.kv_heads,
            spec.heads // spec.kv_heads,
            spec.head_dim,
            q=[f"{path}.attn.c_q.weight"],
            k=[f"{path}.attn.c_k.weight"],
            values=[(f"{path}.attn.c_v.weight", 0)] + [(f"value_embeds.{layer}.weight", 1)] * extra,
            o=[f"{path}.attn.c_proj.weight"],
            grouped=[(f"{path}.attn.ve_gate.weight", 0)] * extra,
        ).symmetries()
        up, down = (f"{path}.mlp.c_fc.weight", 0, int(relu2)), (f"{path}.mlp.c_proj.weight", 1, -2 * relu2)
        found.append(_units(4 * spec.dim, up, down))
    return found


def qed(spec: Any) -> list[Symmetry]:
    def both(name: str) -> list[str]:
        return [f"{name}.weight"] + [f"{name}.bias"] * spec.bias

    found = []
    for layer in range(spec.layers):
        path = f"layers.{layer}"
        q, k, v = (both(f"{path}.attention.{part}_proj") for part in "qkv")
        found += Heads(
            spec.heads,
            1,
            spec.head_dim,
            q=q,
            k=k,
            values=[(name, 0) for name in v],
            o=[f"{path}.attention.o_proj.weight"],
        ).symmetries()
        gate, up = both(f"{path}.mlp.gate_proj"), both(f"{path}.mlp.up_proj")
        rows = [(name, 0, 0) for name in gate] + [(name, 0, 1) for name in up]
        found.append(_units(spec.hidden, *rows, (f"{path}.mlp.down_proj.weight", 1, -1), signs=True))
        attention = [(f"{path}.attention.{part}_proj.weight", 1) for part in "qkv"]
        found.append(_gain(spec.dim, (f"{path}.input_norm.weight", 0), *attention))
        mlp = [(f"{path}.mlp.{part}_proj.weight", 1) for part in ("gate", "up")]
        found.append(_gain(spec.dim, (f"{path}.post_attn_norm.weight", 0), *mlp))
    return found


def xgqa(spec: Any) -> list[Symmetry]:
    return _llama(spec, [f"{part}_proj.weight" for part in ("q", "k", "v", "o")], "_proj", linear=False)


def powergqa(spec: Any) -> list[Symmetry]:
    talks = ("pre_talk", 0), ("pre_talk", 1), ("post_talk", 0), ("post_talk", 1), ("head_gate", 0)
    return _llama(spec, [f"{part}.weight" for part in "qkvo"], "", each=talks, local=True)


def _llama(
    spec: Any,
    names: Sequence[str],
    suffix: str,
    each: Sequence[tuple[str, int]] = (),
    linear: bool = True,
    local: bool = False,
) -> list[Symmetry]:
    """Blocks of `decoder.Block` with a gated MLP.  local: something besides attention reads the first norm."""
    found = []
    for layer in range(spec.layers):
        path = f"blocks.{layer}"
        q, k, v, o = (f"{path}.attn.{name}" for name in names)
        found += Heads(
            spec.kv_heads,
            spec.heads // spec.kv_heads,
            spec.head_dim,
            q=[q],
            k=[k],
            values=[(v, 0)],
            o=[o],
            each=[(f"{path}.attn.{name}", axis) for name, axis in each],
            linear=linear,
        ).symmetries()
        gate, up, down = (f"{path}.mlp.{part}{suffix}.weight" for part in ("gate", "up", "down"))
        found.append(_units(spec.hidden, (gate, 0, 0), (up, 0, 1), (down, 1, -1), signs=True))
        if not local:
            found.append(_gain(spec.dim, (f"{path}.attn_norm.weight", 0), (q, 1), (k, 1), (v, 1)))
        found.append(_gain(spec.dim, (f"{path}.mlp_norm.weight", 0), (gate, 1), (up, 1)))
    return found


def _units(units: int, *sides: tuple[str, int, int], signs: bool = False) -> Symmetry:
    return Symmetry(units, tuple(Side(*side) for side in sides), signs=signs)


def _gain(units: int, gain: tuple[str, int], *others: tuple[str, int]) -> Symmetry:
    """Channels of the residual: their order is everybody's, so only factors are free."""
    sides = Side(*gain, 1), *(Side(*other, -1) for other in others)
    return Symmetry(units, sides, order=False, signs=True)


def _table(name: str) -> tuple[tuple[str, int, int], tuple[str, int, int]]:
    """Entries between a small table and the matrix that widens them."""
    return (f"{name}.embed.weight", 1, 1), (f"{name}.proj.weight", 1, -1)


FAMILIES: dict[str, Callable[[Any], list[Symmetry]]] = {
    each.__name__: each for each in (pr1361, gelu_gpt, qed, xgqa, powergqa)
}


def of(spec: ModelSpec) -> tuple[Symmetry, ...]:
    """Those of a model of this shape; none for a family that declares none."""
    declared = FAMILIES.get(spec.family)
    return tuple(declared(spec)) if declared else ()
