"""The artifact: what goes in comes out, everything else is one clear refusal, and bytes are not wasted."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.contracts import ArtifactError, QTensor, Role
from golf.pack.container import DIGEST, PREFIX, VERSION, PackSpec, dump, load
from golf.pack.rans import Rans
from golf.pack.streams import check_symbols
from golf.pack.xz import Xz, deflate, inflate
from golf.pack.zstd import Zstd

HEADER = {"model": {"family": "unet", "layers": 2}, "tokenizer": "ab" * 32, "note": "é"}


def grid_tensor(shape: tuple[int, ...], alphabet: int = 63, role: Role = Role.MATRIX, seed: int = 0) -> QTensor:
    random = np.random.default_rng(seed)
    low = -(alphabet // 2)
    codes = np.clip(np.round(random.normal(size=shape) * alphabet / 12), low, low + alphabet - 1).astype(np.int8)
    scale = np.exp(random.normal(-4, 0.3, int(np.prod(shape[:-1])))).astype(np.float16)
    return QTensor(shape, "gptq", {"codes": codes, "scale": scale}, {"codes": alphabet}, role.value)


def kept(shape: tuple[int, ...], dtype=np.float16, seed: int = 0) -> QTensor:
    value = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    return QTensor(shape, "keep", {"value": value}, role=Role.CONTROL.value)


def model(layers: int = 3) -> dict[str, QTensor]:
    tensors = {"tok_emb.weight": grid_tensor((64, 16), 255, Role.HEAD), "gain": kept((), np.float32)}
    for layer in range(layers):
        tensors[f"blocks.{layer}.attn.q.weight"] = grid_tensor((16, 16), seed=layer)
        tensors[f"blocks.{layer}.mlp.proj.weight"] = grid_tensor((16, 48), seed=layer)
        tensors[f"blocks.{layer}.scale"] = kept((16,), seed=layer)
    tensors["empty"] = kept((0, 4))
    return tensors


def same(one: dict[str, QTensor], other: dict[str, QTensor]) -> bool:
    return list(one) == list(other) and all(
        (a.shape, a.method, a.role, a.alphabets) == (b.shape, b.method, b.role, b.alphabets)
        and list(a.parts) == list(b.parts)
        and all(
            a.parts[part].dtype == b.parts[part].dtype
            and a.parts[part].shape == b.parts[part].shape
            and a.parts[part].tobytes() == b.parts[part].tobytes()
            for part in a.parts
        )
        for a, b in zip(one.values(), other.values())
    )


@pytest.mark.parametrize(
    "spec", [PackSpec(codec=codec) for codec in (Zstd(), Xz(), Zstd(level=3), Rans())], ids=str
)
def test_round_trip(spec):
    header, tensors = load(dump(model(), HEADER, spec))
    assert header == HEADER
    assert same(tensors, model())


@pytest.mark.parametrize("alphabet, low, high", [(255, -127, 127), (256, -128, 127), (3, -1, 1), (2, -1, 0)])
def test_symbols_end_where_their_alphabet_does(alphabet, low, high):
    """On either side alone: one that is out is refused when written, and would be when read."""
    check_symbols("a stream", np.array([low, 0, high], np.int16), alphabet)
    for wrong in (low - 1, high + 1):
        with pytest.raises(ArtifactError, match=f"its alphabet is {low}..{high}"):
            check_symbols("a stream", np.array([0, wrong], np.int16), alphabet)


def test_nothing_at_all_round_trips():
    assert load(dump({}, {}, PackSpec(codec=Zstd()))) == ({}, {})


def test_the_same_arguments_give_the_same_bytes():
    assert dump(model(), HEADER, PackSpec(codec=Zstd())) == dump(model(), dict(HEADER), PackSpec(codec=Zstd()))


integers = st.tuples(st.sampled_from([np.int8, np.int16]), st.integers(1, 256), st.integers(0, 2**32 - 1))
floats = st.tuples(st.sampled_from([np.float16, np.float32]), st.just(0), st.integers(0, 2**32 - 1))


@st.composite
def tensors(draw) -> dict[str, QTensor]:
    found = {}
    for name in draw(st.lists(st.text(max_size=12), max_size=6, unique=True)):
        shape = tuple(draw(st.lists(st.integers(0, 6), max_size=3)))
        parts, alphabets = {}, {}
        for part in draw(st.lists(st.sampled_from(["codes", "scale", "value", "extra"]), max_size=3, unique=True)):
            dtype, alphabet, seed = draw(st.one_of(integers, floats))
            part_shape = shape if draw(st.booleans()) else tuple(draw(st.lists(st.integers(0, 9), max_size=2)))
            random = np.random.default_rng(seed)
            if alphabet:
                low = -(alphabet // 2)
                parts[part] = random.integers(low, low + alphabet, part_shape).astype(dtype)
                alphabets[part] = alphabet
            else:
                parts[part] = np.asarray(random.normal(size=part_shape)).astype(dtype)
        role = draw(st.sampled_from(Role)).value
        found[name] = QTensor(shape, draw(st.text(max_size=5)), parts, alphabets, role)
    return found


@settings(deadline=None, max_examples=80)
@given(tensors(), st.sampled_from([PackSpec(codec=Zstd(level=3)), PackSpec(codec=Xz()), PackSpec(codec=Rans())]))
def test_any_tensors_round_trip(found, spec):
    assert same(load(dump(found, {"n": len(found)}, spec))[1], found)


def sign(body: bytes) -> bytes:
    """A file with these contents and a checksum that holds."""
    return body + blake2b(body, digest_size=DIGEST).digest()


def rebuilt(change) -> bytes:
    """The model's artifact with `change` applied to the decoded header, signed again."""
    body = dump(model(), HEADER, PackSpec(codec=Zstd()))[:-DIGEST]
    end = PREFIX + int.from_bytes(body[PREFIX - 4 : PREFIX], "little")
    text = body[PREFIX:end]
    whole = json.loads(text if text[:1] == b"{" else inflate(text, 1 << 20))
    changed = change(whole)
    text = json.dumps(whole if changed is None else changed).encode()
    return sign(body[: PREFIX - 4] + len(text).to_bytes(4, "little") + text + body[end:])


def refused(data: bytes, allowed: int = 4_000_000) -> bool:
    """Whether load refuses, with the one error it may raise, and without a large allocation."""
    tracemalloc.start()
    try:
        load(data)
    except ArtifactError as error:
        assert "\n" not in str(error)
        return True
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < allowed, f"{peak:,} bytes for a file of {len(data):,}"
    return False


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    place, count = int(random.integers(len(data))), int(random.integers(1, 9))
    junk = random.bytes(count)
    return {
        "flip": data[:place] + bytes([data[place] ^ 1 << int(random.integers(8))]) + data[place + 1 :],
        "overwrite": data[:place] + junk + data[place + count :],
        "cut": data[:place],
        "delete": data[:place] + data[place + count :],
        "insert": data[:place] + junk + data[place:],
        "append": data + junk,
        "swap": data[place:] + data[:place],
    }[str(random.choice(["flip", "overwrite", "cut", "delete", "insert", "append", "swap"]))]


@pytest.mark.parametrize("spec", [PackSpec(codec=Zstd()), PackSpec(codec=Rans())], ids=str)
def test_two_thousand_mutations_are_all_refused(spec):
    data, random = dump(model(1), HEADER, spec), np.random.default_rng(0)
    for _ in range(2000):
        bad = mutated(data, random)
        assert bad == data or refused(bad)


def test_every_flipped_byte_is_noticed():
    data = dump(model(1), HEADER, PackSpec(codec=Zstd()))
    assert all(refused(data[:n] + bytes([data[n] ^ 0xFF]) + data[n + 1 :]) for n in range(len(data)))


def test_every_truncation_is_noticed():
    data = dump(model(1), HEADER, PackSpec(codec=Zstd()))
    assert all(refused(data[:n]) for n in range(len(data)))


@pytest.mark.parametrize("spec, count", [(PackSpec(codec=Zstd()), 2000), (PackSpec(codec=Rans()), 150)], ids=str)
def test_mutations_with_a_matching_checksum_never_escape(spec, count):
    """A forger can write another valid artifact, but cause neither another exception nor a huge allocation.
    Decoding tables of rANS have their fixed size, however small the file."""
    body, random = dump(model(1), HEADER, spec)[:-DIGEST], np.random.default_rng(1)
    refusals = sum(refused(sign(mutated(body, random)), 24_000_000) for _ in range(count))
    assert refusals > count / 2


def test_mutated_header_values_with_a_matching_checksum_never_escape():
    values = [
        -1,
        0,
        1,
        7,
        2**31,
        2**63,
        10**30,
        1.5,
        True,
        None,
        "",
        "zstd",
        "i1",
        [],
        {},
        [[[]]],
        {"a": 1},
        1e400,
    ]
    random = np.random.default_rng(2)

    def change(node):
        """Replace one randomly chosen value somewhere below `node`."""
        places = list(node) if isinstance(node, dict) else range(len(node))
        place = places[int(random.integers(len(places)))]
        if isinstance(node[place], (dict, list)) and len(node[place]) and random.random() < 0.9:
            change(node[place])
        else:
            node[place] = values[int(random.integers(len(values)))]

    refusals = sum(refused(rebuilt(change)) for _ in range(600))
    assert refusals > 200


def set_value(*path_and_value):
    *path, last, value = path_and_value

    def change(whole):
        node = whole
        for step in path:
            node = node[step]
        node[last] = value

    return change


FORGERIES = {
    "not an object": lambda whole: [1, 2],
    "a number": lambda whole: 7,
    "no header": lambda whole: {key: value for key, value in whole.items() if key != "header"},
    "no streams": set_value("streams", []),
    "unknown codec": set_value("streams", 0, 0, "zpaq"),
    "unknown type": set_value("streams", 0, 1, "O"),
    "alphabet too small": set_value("streams", 0, 2, 3),
    "alphabet beyond the type": set_value("streams", 0, 2, 257),
    "alphabet on floats": set_value("streams", 1, 2, 5),
    "no alphabet on integers": set_value("streams", 0, 2, 0),
    "negative width": set_value("streams", 0, 3, -1),
    "stream too long": set_value("streams", 0, 4, 10**12),
    "negative stream": set_value("streams", 0, 4, -5),
    "shape too large": set_value("layouts", 0, 2, [10**9, 10**9]),
    "shape a little larger": set_value("layouts", 0, 2, [65, 16]),
    "negative shape": set_value("layouts", 0, 2, [-64, -16]),
    "float shape": set_value("layouts", 0, 2, [64.0, 16]),
    "shape of truth": set_value("layouts", 0, 2, [True, 16]),
    "unknown role": set_value("layouts", 0, 0, "king"),
    "method that is no name": set_value("layouts", 0, 1, None),
    "stream that is not there": set_value("layouts", 0, 3, 0, 1, 99),
    "stream from behind": set_value("layouts", 0, 3, 0, 1, -1),
    "layout that is not there": set_value("tensors", 0, 1, 99),
    "layout from behind": set_value("tensors", 0, 1, -1),
    "part twice": set_value("layouts", 0, 3, 1, 0, "codes"),
    "name twice": lambda whole: whole["tensors"].append(whole["tensors"][0]),
    "name that is no name": set_value("tensors", 0, 0, 5),
    "tensor left out": lambda whole: whole["tensors"].pop(0) and None,
    "header that is no object": set_value("header", 3),
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
def test_forgeries_with_a_matching_checksum_are_refused(change):
    assert not refused(rebuilt(lambda whole: None))
    assert refused(rebuilt(change))


def test_a_header_too_deep_is_refused():
    text = b'{"header":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    prefix = b"GOLF" + bytes([VERSION])
    assert refused(sign(prefix + len(text).to_bytes(4, "little") + text))
    assert refused(sign(prefix + (2**32 - 1).to_bytes(4, "little") + text))


def test_a_header_that_explodes_is_refused():
    text = deflate(b"[" * (1 << 25))
    assert refused(sign(b"GOLF" + bytes([VERSION]) + len(text).to_bytes(4, "little") + text), 8_000_000)


def test_streams_that_explode_are_refused():
    zeros = np.zeros(1 << 26, np.int8)
    bomb = {"w": QTensor(zeros.shape, "gptq", {"codes": zeros}, {"codes": 3})}
    with pytest.raises(ArtifactError, match="would decode to"):
        dump(bomb, {}, PackSpec(codec=Zstd(level=1)))


@pytest.mark.parametrize("version, way", [(VERSION + 1, "a newer golf"), (VERSION - 1, "the golf that wrote it")])
def test_another_format_is_named(version, way):
    data = bytearray(dump(model(1), HEADER, PackSpec(codec=Zstd())))
    data[4] = version
    for file in (bytes(data), sign(bytes(data[:-DIGEST]))):
        with pytest.raises(ArtifactError, match=f"format {version}.*{way}"):
            load(file)


@pytest.mark.parametrize(
    "qtensor",
    [
        QTensor((2,), "x", {"codes": np.array([0, 40], np.int8)}, {"codes": 63}),
        QTensor((2,), "x", {"codes": np.array([0, 1], np.int8)}),
        QTensor((2,), "x", {"codes": np.array([0, 1], np.int64)}, {"codes": 63}),
        QTensor((2,), "x", {"value": np.array([0, 1], np.float64)}),
        QTensor((2,), "x", {"value": np.array([0, 1], np.float32)}, {"value": 3}),
        QTensor((2,), "x", {"value": np.array(["a", "b"], object)}),
    ],
    ids=["outside", "no alphabet", "int64", "float64", "float with alphabet", "objects"],
)
def test_what_cannot_be_stored_is_refused_with_its_name(qtensor):
    with pytest.raises(ArtifactError, match=r"odd\."):
        dump({"odd": qtensor}, {}, PackSpec(codec=Zstd()))


@dataclass(frozen=True)
class Recording:
    """A codec that remembers the streams it was given."""

    streams: list
    name: str = "zstd"

    def encode(self, stream) -> bytes:
        self.streams.append(stream)
        return Zstd(level=1).encode(stream)


def test_streams_group_codes_by_role_alphabet_and_width_and_split_floats_into_planes():
    recorder = Recording([])
    tensors = model(2)
    dump(tensors, {}, PackSpec(codec=recorder))
    integer = {(s.alphabet, s.width): s.symbols.size for s in recorder.streams if s.alphabet}
    assert integer == {(255, 16): 64 * 16, (63, 16): 2 * 256, (63, 48): 2 * 768}
    planes = {s.symbols.size: s.symbols for s in recorder.streams if not s.alphabet}
    assert sorted(planes) == [4, 2 * 32, 2 * (64 + 4 * 16)]
    values = np.concatenate([tensors[f"blocks.{i}.scale"].parts["value"] for i in range(2)])
    assert np.array_equal(planes[64], values.view(np.uint8).reshape(-1, 2).T.ravel())


def test_the_header_costs_a_percent_of_a_small_artifact():
    """200 tensors as a small record has them: every byte of names and shapes counts against a megabyte."""
    tensors = {}
    for layer in range(20):
        for name in ("attn.c_q", "attn.c_k", "attn.c_v", "attn.proj", "mlp.fc", "mlp.proj"):
            tensors[f"blocks.{layer}.{name}.weight"] = grid_tensor((8, 8), seed=layer)
        for name in ("attn_scale", "mlp_scale", "resid_mix", "attn.q_gain"):
            tensors[f"blocks.{layer}.{name}"] = kept((8,), seed=layer)
    data = dump(tensors, HEADER, PackSpec(codec=Zstd()))
    assert int.from_bytes(data[PREFIX - 4 : PREFIX], "little") < 1000


def test_arrays_come_back_read_only_and_free_of_the_file():
    _, tensors = load(dump(model(1), HEADER, PackSpec(codec=Zstd())))
    codes = tensors["tok_emb.weight"].parts["codes"]
    with pytest.raises(ValueError):
        codes[0, 0] = 1
    assert replace(tensors["tok_emb.weight"], method="nearest").parts["codes"] is codes
