"""A recipe with --set values becomes a module that says the same, and nothing else."""

import dataclasses

import pytest

from golf import recipe as recipes
from golf.contracts import SpecError
from golf.publish.bundle import spell


def read(text, folder):
    file = folder / "recipe.py"
    file.write_text(text)
    return recipes.load(file)


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["train.steps=3", "train.seconds=none"],
        ["model.bigram=none", "model.layers=4", "data.train_shards=2"],
        ["eval.window=64", "eval.stride=32", "train.embed.lr=0.25"],
    ],
)
def test_a_changed_recipe_spells_itself(root, tmp_path, changes):
    file = next(root.glob("records/10min_16mb/*_pr1361/recipe.py"))
    recipe = recipes.assign(recipes.load(file), changes)
    again = read(spell.module_text(recipe, file.read_text(), "golf_record"), tmp_path)
    assert again == recipe and again.digest == recipe.digest


def test_every_record_spells_itself_shortly(root, tmp_path):
    for file in root.glob("records/*/*/recipe.py"):
        recipe = recipes.load(file)
        text = spell.module_text(recipe, file.read_text(), "golf_record")
        assert read(text, tmp_path) == recipe
        assert len(text) < 1.2 * len(file.read_text())  # defaults stay out


LOCAL = '''
from dataclasses import dataclass
from pathlib import Path
from golf.data.local import Documents

@dataclass(frozen=True)
class Here(Documents):
    """A source that only this record has."""
    extra: object = None

'''


def test_classes_of_the_record_and_odd_values_are_spelled(root, tmp_path):
    record = next(root.glob("records/10min_16mb/*_pr1361/recipe.py")).read_text()
    record = record.replace("UNetSpec,", "UNetSpec as Shape,").replace("UNetSpec(", "Shape(")
    source = LOCAL + record.replace('FineWeb(tokenizer="sp1024")', "Here(train=('a',), extra=(1.0, float('inf')))")
    assert "Here(train" in source
    recipe = read(source, tmp_path)
    text = spell.module_text(recipe, source, "golf_record")
    again = read(text, tmp_path)
    assert again.digest == recipe.digest and again.data.extra == (1.0, float("inf"))
    assert "Shape(" in text  # the name that the record gave it


def test_what_cannot_be_spelled_is_refused(root, tmp_path):
    file = next(root.glob("records/10min_16mb/*_pr1361/recipe.py"))
    recipe = dataclasses.replace(recipes.load(file), data=object())
    with pytest.raises(SpecError, match="cannot spell <object"):
        spell.module_text(recipe, file.read_text(), "golf_record")
