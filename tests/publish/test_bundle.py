"""A bundle is run the way a judge would: by a fresh interpreter, in a folder that holds nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_record import check_same_run

from golf import recipe as recipes
from golf.arch import families
from golf.contracts import SpecError
from golf.publish.bundle import coder, spell
from golf.publish.bundle.one_file import RECORD, WRITTEN, Bundle, build, bundle

ROOT = Path(__file__).resolve().parents[2]
RECORDS = sorted(ROOT.glob("records/**/recipe.py"))

ENTRY = '''
"""Docstring of the entry."""
from __future__ import annotations
from mini.room.work import report  # a comment

def main(recipe, argv, source):
    """Docstring of main."""
    print(report(recipe), list(argv), source.name)
'''
SPEC = '''
from __future__ import annotations
import dataclasses
from dataclasses import dataclass

@dataclass(frozen=True, kw_only=True)
class Spec:
    """Docstring of a class."""
    width: int = 3
    """docstring of a field"""
    name: str | None = None
'''
WORK = """
from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from mini.nowhere import Nothing

def report(spec: Nothing) -> Nothing:
    from mini.room import late
    count: int = late.COUNT
    return f"{spec.name}:{spec.width}:{count}"

def never_called():
    from mini.unwritten import nothing
    import rich
"""
RECIPE = 'from mini.room.spec import Spec\nRECIPE = Spec(width=9, name="nine")\n'
PLAIN = {"entry": ENTRY, "room/spec": SPEC, "room/work": WORK, "room/late": "COUNT = 7\n"}


def write_package(folder: Path, modules: dict[str, str]) -> Path:
    """A package `mini` in `folder`, with an empty `__init__` in each of its folders."""
    for name, text in modules.items():
        file = folder / "mini" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for each in [folder / "mini", *(path for path in (folder / "mini").rglob("*") if path.is_dir())]:
        (each / "__init__.py").touch()
    return folder


def make(folder: Path, modules: dict[str, str], recipe: str = RECIPE) -> Bundle:
    return build(recipe, entry="mini.entry", source=write_package(folder, modules))


def run(
    made: Bundle, folder: Path, *arguments: str, launcher: tuple[str, ...] = ("-I",), **variables: str
) -> subprocess.CompletedProcess:
    """Run the bundle alone in an empty folder; `-I` keeps the current folder and PYTHONPATH out of sight."""
    folder.mkdir()
    (folder / "train_gpt.py").write_bytes(made.code)
    return subprocess.run(
        [sys.executable, *launcher, "train_gpt.py", *arguments],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_runs_alone_with_its_arguments(tmp_path):
    made = make(tmp_path, PLAIN)
    done = run(made, tmp_path / "empty", "--seed", "1")
    assert done.stdout == "nine:9:7 ['--seed', '1'] train_gpt.py\n", done.stderr
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["train_gpt.py"]


def test_holds_only_what_can_run(tmp_path):
    made = make(tmp_path, PLAIN)
    assert made.modules == ("golf_record", "mini.entry", "mini.room.late", "mini.room.spec", "mini.room.work")
    assert made.packages == ("numpy",)
    assert made.sizes["mini.room.late"] <= len("COUNT=7")
    assert sum(made.sizes.values()) < 0.75 * sum(map(len, [*PLAIN.values(), RECIPE]))


def test_same_sources_same_bytes_on_any_path_and_hash_seed(tmp_path):
    made = make(tmp_path / "a", PLAIN)
    assert make(tmp_path / "elsewhere" / "b", PLAIN).code == made.code
    script = (
        "import sys; from pathlib import Path; from golf.publish.bundle.one_file import WRITTEN, build\n"
        f"sys.stdout.buffer.write(build({RECIPE!r}, entry='mini.entry', source=Path(sys.argv[1])).code)"
    )
    again = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a"],
        env=os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)},  # this process has drawn another one
        capture_output=True,
        check=True,
    )
    assert again.stdout == made.code


def test_a_script_is_plain_text(tmp_path):
    text = make(tmp_path, PLAIN).code.decode("ascii")
    assert set(filter(lambda c: not c.isprintable(), text)) == {"\n"}
    assert all(line == line.rstrip() for line in text.splitlines())  # which editors and patches would cut off
    compile(text, "train_gpt.py", "exec")


def test_inspect_traceback_and_pickle_find_what_they_need(tmp_path):
    work = """
import inspect, pickle, traceback
from mini.room.spec import Spec

def fail(value):
    raise ValueError(value)

def report(spec):
    try:
        fail(spec)
    except ValueError:
        text = traceback.format_exc()
    assert 'train_gpt.py/mini.py' in text and 'raise ValueError(' in text, text
    assert 'raise ValueError(' in inspect.getsource(fail), inspect.getsource(fail)
    assert inspect.getsourcefile(report).endswith('train_gpt.py/mini.py')
    assert pickle.loads(pickle.dumps(spec)) == spec
    return 'fine'
"""
    done = run(make(tmp_path, PLAIN | {"room/work": work}), tmp_path / "empty")
    assert done.stdout.startswith("fine"), done.stderr


def test_type_hints_of_classes_in_a_phone_book_still_resolve(tmp_path):
    work = """
import typing, dataclasses, importlib

BOOK = {'spec': 'mini.room.spec:Spec'}

def report(spec):
    module, name = BOOK['spec'].split(':')
    hints = typing.get_type_hints(getattr(importlib.import_module(module), name))
    return [hints[field.name] for field in dataclasses.fields(spec)]
"""
    done = run(make(tmp_path, PLAIN | {"room/work": work}), tmp_path / "empty")
    assert done.stdout.startswith("[<class 'int'>, str | None]"), done.stderr


@pytest.mark.slow
def test_compiled_functions_and_custom_operators_work(tmp_path):
    work = """
from __future__ import annotations
import torch
from torch import Tensor

@torch.library.custom_op('mini::twice', mutates_args=())
def twice(x: Tensor, times: int = 1) -> Tensor:
    return x * 2 ** times

@torch.compile(backend='eager', fullgraph=True)
def add(x: Tensor, *, shift: float) -> Tensor:
    return x + shift

def report(spec):
    return twice(add(torch.ones(2), shift=1.0)).tolist()
"""
    made = make(tmp_path, PLAIN | {"room/work": work})
    done = run(made, tmp_path / "empty")
    assert done.stdout.startswith("[4.0, 4.0]"), done.stderr
    assert made.packages == ("numpy", "torch")


def test_a_module_of_triton_kernels_keeps_names_and_annotations(tmp_path, monkeypatch):
    kernel = """
import triton
import triton.language as tl

@triton.jit
def add_one(pointer, count, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    tl.store(pointer + offsets, tl.load(pointer + offsets, mask=offsets < count) + 1, mask=offsets < count)
"""
    work = "from mini.room import kernel\ndef report(spec):\n    return kernel.add_one\n"
    texts = []
    keep = coder.self_expanding
    monkeypatch.setitem(WRITTEN, "dense", lambda text: texts.append(text) or keep(text))
    made = make(tmp_path, PLAIN | {"room/work": work, "room/kernel": kernel})
    assert "triton" in made.packages
    assert "BLOCK:tl.constexpr" in texts[0] and "offsets=tl.arange(0,BLOCK)" in texts[0]


def test_spawned_children_find_the_modules(tmp_path):
    work = """
import multiprocessing

def square(x):
    return x * x

def report(spec):
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        return pool.map(square, [3])
"""
    done = run(make(tmp_path, PLAIN | {"room/work": work}), tmp_path / "empty")
    assert done.stdout == "[9] [] train_gpt.py\n", done.stderr


def test_an_installed_package_of_the_same_name_never_fills_in(tmp_path):
    """Of a module that both have, the bundle's wins; one that only the installed one has does not exist."""
    work = """
import importlib

def report(spec):
    from mini.room.late import COUNT
    name = 'mini.room.' + 'foreign'
    try:
        importlib.import_module(name)
    except ImportError as error:
        return f'{COUNT} and {error}'
"""
    made = make(tmp_path / "mine", PLAIN | {"room/work": work})
    write_package(
        tmp_path / "other", {"entry": "raise SystemExit('wrong entry')", "room/late": "COUNT = -1\n"}
    )
    (tmp_path / "other" / "mini" / "room" / "foreign.py").touch()
    done = run(made, tmp_path / "empty", launcher=(), PYTHONPATH=str(tmp_path / "other"))
    assert done.stdout.startswith("7 and No module named 'mini.room'; 'mini' is not a package"), done


def test_a_recipe_is_kept_whole_so_that_its_imports_are_in(tmp_path):
    """A module that is only looked up by name at run time comes along when the recipe imports it."""
    work = """
import importlib

def report(spec):
    return getattr(importlib.import_module('mini.room.extra'), 'answer')()
"""
    modules = PLAIN | {"room/work": work, "room/extra": "def answer():\n    return 42\n"}
    missing = run(make(tmp_path, modules), tmp_path / "without")
    assert missing.returncode != 0 and "'mini' is not a package" in missing.stderr
    done = run(make(tmp_path, modules, "import mini.room.extra\n" + RECIPE), tmp_path / "with")
    assert done.stdout.startswith("42"), done.stderr


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("import mini.room.typo", "golf_record imports mini.room.typo, and there is no such module"),
        ("from mini.typo import x\nx()", "golf_record imports mini.typo, and there is no such module"),
        ("from mini.room.late import *", r"golf_record imports \* from mini\.room\.late"),
        ("import rich\nrich.print()", "golf_record imports rich, which no submission may need"),
    ],
)
def test_what_cannot_be_bundled_is_refused_with_its_importer(tmp_path, line, complaint):
    with pytest.raises(SpecError, match=complaint):
        make(tmp_path, PLAIN, f"{line}\n{RECIPE}")


def test_outer_rooms_are_refused():
    with pytest.raises(SpecError, match=r"golf_record imports golf\.publish"):
        build("from golf.publish import check\nRECIPE = check.NAME\n", entry="golf.track")


def test_a_record_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(SpecError, match="no recipe at"):
        bundle(tmp_path)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_record_bundles(family, monkeypatch):
    """Those of a family in one script, which holds what any of them needs; that each spells itself has a test."""
    monkeypatch.setattr(coder, "encode", lambda text: "")
    loaded = [(recipes.load(file), file.read_text()) for file in RECORDS]
    loaded = [(recipe, text) for recipe, text in loaded if type(recipe.model) is families.spec_class(family)]
    made = build("\n".join(spell.module_text(recipe, text, RECORD) for recipe, text in loaded))
    assert {"golf.entry", "golf.run", "golf.recipe", "golf_record"} <= set(made.modules)
    for recipe, _ in loaded:
        parts = (recipe.data, recipe.model, recipe.train.matrix, recipe.quant, recipe.quant.matrix, recipe.eval)
        assert {type(part).__module__ for part in parts} <= set(made.modules)
    assert "torch" in made.packages


@pytest.fixture(scope="module")
def submitted():
    """The script of the PR 1361 record, and the text inside it."""
    (recipe,) = (each for each in RECORDS if each.parent.name.endswith("_pr1361"))
    texts, keep = [], coder.self_expanding
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WRITTEN, "dense", lambda text: texts.append(text) or keep(text))
        return bundle(recipe).code, texts[0]


def test_the_pr1361_record_takes_less_than_25_000_bytes(submitted):
    assert len(submitted[0]) < 25_000


@pytest.mark.slow
def test_a_dense_script_loads_alone_as_the_text_it_was_made_of(submitted, tmp_path):
    code, text = submitted
    (tmp_path / "train_gpt.py").write_bytes(code)
    words = "import runpy; found = runpy.run_path('train_gpt.py'); print(found['T'], end='')"
    done = subprocess.run([sys.executable, "-I", "-c", words], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == text, done.stderr


TWO_RANKS = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


@pytest.mark.slow
def test_a_bundle_on_two_ranks_scores_what_the_library_does_bit_for_bit(two_ranks, tmp_path):
    made = Bundle(code=(two_ranks / "train_gpt.py").read_bytes(), sizes={}, packages=())
    done = run(made, tmp_path / "empty", "--seed", two_ranks.name, launcher=TWO_RANKS)
    assert done.returncode == 0, done.stderr
    check_same_run(two_ranks, tmp_path / "empty/run" / two_ranks.name)
