"""Recipes: overrides by path and text, digests, loading, and a near name for every typo."""

from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf import recipe as recipes
from golf.contracts import Role, SpecError

RECORDS = sorted(Path(__file__).parents[1].glob("records/*/*/recipe.py"))
DEFAULT = next(path for path in RECORDS if "cpu_5min_1mb" in path.parts)


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = 4
    share: float = 0.5
    on: bool = False
    mode: Literal["auto", "off"] = "auto"
    limit: int | None = None
    pair: tuple[float, float] = (0.9, 0.95)
    layers: tuple[int, ...] = ()
    where: Path = Path("a")

    def __post_init__(self) -> None:
        if self.width < 1:
            raise SpecError(f"width={self.width} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = Inner()
    many: tuple[Inner, ...] = (Inner(), Inner(width=9))


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("inner.width", "7", 7),
        ("inner.width", "1_000", 1000),
        ("inner.share", "2", 2.0),
        ("inner.on", "False", False),
        ("inner.on", "yes", True),
        ("inner.mode", "off", "off"),
        ("inner.limit", "none", None),
        ("inner.limit", "3", 3),
        ("inner.pair", "0.8,0.99", (0.8, 0.99)),
        ("inner.layers", "(1, 2, 3)", (1, 2, 3)),
        ("inner.layers", "", ()),
        ("inner.where", "b/c", Path("b/c")),
        ("many.1.width", "5", 5),
    ],
)
def test_override_sets_exactly_one_field(path, text, value):
    before = Outer()
    after = recipes.override(before, path, text)
    found = after
    for name in path.split("."):
        found = found[int(name)] if name.isdigit() else getattr(found, name)
    assert found == value and type(found) is type(value)
    assert before == Outer()


@pytest.mark.parametrize(
    ("path", "text", "sentence"),
    [
        ("inner.widht", "3", "Inner has no field 'widht'; did you mean 'width'?"),
        ("iner.width", "3", "did you mean 'inner'?"),
        ("inner.width", "3.5", "Inner.width takes int, not '3.5'"),
        ("inner.width", "0", "width=0 must be at least 1"),
        ("inner.on", "2", "takes true or false"),
        ("inner.mode", "on", "one of 'auto', 'off'"),
        ("inner.limit", "x", "takes int or none"),
        ("inner.pair", "1,2,3", "takes comma-separated float values"),
        ("inner", "3", "set one of its fields"),
        ("inner.width.deep", "3", "has no field 'deep'"),
        ("many.2.width", "3", "no index of a tuple of 2"),
        ("many.1", "3", "set one of its fields"),
    ],
)
def test_a_wrong_override_is_one_sentence(path, text, sentence):
    with pytest.raises(SpecError) as caught:
        recipes.override(Outer(), path, text)
    assert sentence in str(caught.value)


def test_assign_needs_an_equals_sign():
    with pytest.raises(SpecError, match="write path=value"):
        recipes.assign(Outer(), ["inner.width"])
    assert recipes.assign(Outer(), ["inner.width=2", "inner.width=3"]).inner.width == 3


def test_values_that_only_make_sense_together_come_in_any_order():
    base = recipes.load(DEFAULT)
    texts = ["train.seconds=none", "train.steps=7"]
    changed = recipes.assign(base, texts)
    assert changed == recipes.assign(base, reversed(texts))
    assert (changed.train.seconds, changed.train.steps) == (None, 7)
    with pytest.raises(SpecError, match="neither seconds nor steps"):
        recipes.assign(base, texts[:1])


def test_a_whole_and_its_part_cannot_both_be_set():
    for texts in (["many.0=3", "many.0.width=2"], ["many.0.width=2", "many.0=3"]):
        with pytest.raises(SpecError, match="drop one"):
            recipes.assign(Outer(), texts)


def leaves(value, path=()):
    for field in fields(value):
        item = getattr(value, field.name)
        if is_dataclass(item):
            yield from leaves(item, (*path, field.name))
        elif isinstance(item, (int, float, str)):
            yield (*path, field.name), item


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_any_text_at_any_field_is_taken_or_refused_in_one_sentence(data):
    """--set never ends in anything but a recipe or a SpecError of one line, and never mixes up types."""
    base = recipes.load(DEFAULT)
    path, item = data.draw(st.sampled_from(sorted(leaves(base), key=str)))
    text = data.draw(st.text(max_size=12) | st.integers().map(str) | st.floats().map(str) | st.booleans().map(str))
    try:
        changed = recipes.override(base, ".".join(path), text)
    except SpecError as error:
        assert "\n" not in str(error).strip()
        return
    for name in path:
        changed = getattr(changed, name)
    assert changed is None or isinstance(changed, (type(item), float, int, str))


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_the_written_value_of_a_field_sets_the_same_recipe(data):
    base = recipes.load(DEFAULT)
    path, item = data.draw(st.sampled_from(sorted(leaves(base), key=str)))
    assert recipes.override(base, ".".join(path), str(item)) == base


def test_digest_follows_values_alone():
    base = recipes.load(DEFAULT)
    assert base.digest == recipes.load(DEFAULT).digest
    assert base.digest != base.override("train.ema", "0.5").digest
    assert base.override("eval.stride", str(base.eval.stride)).digest == base.digest


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.parent.name)
def test_every_record_loads_and_shrinks(record):
    recipe = recipes.load(record)
    small = recipe.tiny()
    assert small.model.vocab == recipe.model.vocab
    model = small.model.build()
    roles = model.roles()  # tables grow with the vocabulary, which stays; all else is small
    tables = (Role.HEAD, Role.EMBED)
    assert sum(p.numel() for name, p in model.named_parameters() if roles[name] not in tables) < 1_000_000
    assert small.train.steps and small.train.seconds is None


def test_load_refuses_what_is_no_recipe(tmp_path):
    with pytest.raises(SpecError, match="no recipe at"):
        recipes.load(tmp_path / "nowhere")
    (tmp_path / "recipe.py").write_text("RECIPE = 3\n")
    with pytest.raises(SpecError, match="must define RECIPE"):
        recipes.load(tmp_path)
    (tmp_path / "recipe.py").write_text("import golf.nothing\n")
    with pytest.raises(SpecError, match="cannot be read as a recipe"):
        recipes.load(tmp_path / "recipe.py")


def test_bad_values_in_a_record_keep_their_own_sentence(tmp_path):
    (tmp_path / "recipe.py").write_text(
        "from golf.eval.sliding import SlidingWindow\nSlidingWindow(window=8, stride=9)\n"
    )
    with pytest.raises(ValueError, match="stride=9"):
        recipes.load(tmp_path)


def test_replace_states_only_the_difference():
    base = recipes.load(DEFAULT)
    assert replace(base, eval=replace(base.eval, stride=32)).eval.window == base.eval.window
