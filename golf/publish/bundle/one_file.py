"""One file to submit: the corridor, the recipe and all they reach, minified, compressed and self-serving."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from python_minifier import minify

from golf import recipe as recipes
from golf.contracts import SpecError
from golf.publish.bundle import coder, rename, spell
from golf.publish.bundle.reach import Reach

RECORD = "golf_record"  # the recipe's module name inside the bundle
SCRIPT = "train_gpt.py"
SOURCE = Path(__file__).resolve().parents[3]  # the folder that holds the package golf
OUTER = ("golf.publish", "golf.cli", "golf.__main__")  # rooms that no submission runs
# What a submission may import besides the standard library. Their bytes are free, so the list is short.
PACKAGES = frozenset("huggingface_hub numpy safetensors scipy sentencepiece torch triton zstandard".split())

# Runs first of all: T holds this text and the modules after it. A module's file name looks like a path, because
# `inspect` takes <names> for interactive input and Triton reads its kernels through `inspect`. A module of the package
# that is not inside raises, so that another version that happens to be installed never fills in.
_IMPORTER = """\
import importlib.abc,importlib.util,linecache,pathlib,sys
M=dict(m.split("\\n",1)for m in T.split("\\0")[1:])
class B(importlib.abc.MetaPathFinder,importlib.abc.ExecutionLoader):
	def is_package(A,B):return any(C.startswith(B+".")for C in M)
	def find_spec(A,B,*_):
		if B in M or A.is_package(B):return importlib.util.spec_from_loader(B,A)
		if B.startswith("{package}."):raise ImportError(B+" is not in this bundle; import it in the recipe")
	def get_filename(A,B):return"{script}/"+B+".py"
	def get_source(A,B):return M.get(B,"")
sys.meta_path.insert(0,B())
for A,C in M.items():D=B().get_filename(A);linecache.cache[D]=len(C),None,C.splitlines(True),D
if __name__=="__main__":
	from {entry} import main;from {record} import RECIPE
	main(RECIPE,sys.argv[1:],pathlib.Path(__file__))
"""


WRITTEN = {"dense": coder.self_expanding, "plain": coder.compressed}  # the recipe's `pack.script`


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """code: the whole script.  sizes: minified bytes of each module inside, before compression.
    packages: what has to be installed, besides the standard library."""

    code: bytes
    sizes: dict[str, int]
    packages: tuple[str, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        return tuple(self.sizes)


def bundle(recipe: Path, *, overrides: Sequence[str] = ()) -> Bundle:
    """The script that runs a recipe (a record folder or its `recipe.py`) without golf being installed.

    overrides: `path=value` texts; the script's recipe has these values for good.
    The recipe's `pack.script` says how dense it is. Raises SpecError for a recipe that cannot be read or spelled, and
    what `build` raises.
    """
    file = recipe / "recipe.py" if recipe.is_dir() else recipe
    value = recipes.assign(recipes.load(file), overrides)
    text = spell.module_text(value, file.read_text(encoding="utf-8"), RECORD)
    return build(text, written=value.pack.script)


def build(record: str, *, entry: str = "golf.entry", source: Path = SOURCE, written: str = "dense") -> Bundle:
    """The script that calls `main(RECIPE, arguments, path of the script)` of the module `entry`.

    record: text of a module that defines RECIPE.  source: the folder that holds the entry's package.
    written: a name in WRITTEN. The same sources give the same bytes, on any machine.
    Raises SpecError when a module is missing, or belongs to golf's outer rooms or to a package that no
    submission may need.
    """
    if written not in WRITTEN:
        raise SpecError(f"pack.script={written!r} is no way to write a script; there are {' and '.join(WRITTEN)}")

    def is_package(name: str) -> bool:
        return name != RECORD and source.joinpath(*name.split(".")).is_dir()

    def find(name: str) -> str | None:
        if name == RECORD:
            return record
        path = source.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        return file.read_text(encoding="utf-8") if file.is_file() else None

    reach = Reach([(entry, "main"), (RECORD, spell.NAME)], find, is_package)
    refuse_outer(reach)
    trees = reach.trees()
    rename.shorten(trees, keep=("main", spell.NAME))
    texts = {name: squeeze(tree) for name, tree in trees.items()}
    texts = {name: text for name, text in texts.items() if text}  # an empty package is known by its modules
    importer = _IMPORTER.format(package=entry.partition(".")[0], script=SCRIPT, entry=entry, record=RECORD)
    text = "\0".join([importer, *(f"{name}\n{text}" for name, text in texts.items())])
    code = WRITTEN[written](text) + 'exec(T.split("\\0")[0])\n'
    sizes = {name: len(text.encode()) for name, text in texts.items()}
    return Bundle(code=code.encode(), sizes=sizes, packages=tuple(sorted(reach.externals)))


def refuse_outer(reach: Reach) -> None:
    """Raises SpecError when something that cannot be part of a submission has been reached."""
    for name, importer in sorted(reach.importers.items()):
        if name.startswith(OUTER):
            raise SpecError(f"{importer} imports {name}, which no submission runs; take that import out")
    for package, importer in sorted(reach.externals.items()):
        if package not in PACKAGES:
            allowed = ", ".join(sorted(PACKAGES))
            raise SpecError(f"{importer} imports {package}, which no submission may need; allowed are {allowed}")


def squeeze(tree: ast.Module) -> str:
    """The text of a module in few characters, all of them ASCII; its names are left alone."""
    text = minify(
        ast.unparse(tree),
        remove_annotations=False,  # those that nobody reads are gone already
        remove_literal_statements=False,  # likewise
        hoist_literals=False,  # a repeated literal costs the compressor less than a name for it
        rename_locals=False,
        rename_globals=False,
        remove_asserts=False,
        remove_debug=False,
    )
    return text.encode("ascii", "backslashreplace").decode()  # beyond ASCII there are only characters of texts
