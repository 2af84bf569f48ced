"""One file to submit: the corridor, the recipe and all they reach, minified, compressed and self-serving."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from python_minifier import minify

from golf import recipe as recipes
from golf.contracts import SpecError
from golf.publish.bundle import coder, merge, rename, spell
from golf.publish.bundle.reach import Reach

RECORD = "golf_record"  # the recipe's module name inside the bundle
SCRIPT = "train_gpt.py"
SOURCE = Path(__file__).resolve().parents[3]  # the folder that holds the package golf
OUTER = ("golf.publish", "golf.cli", "golf.__main__")  # rooms that no submission runs
# What a submission may import besides the standard library. Their bytes are free, so the list is short.
PACKAGES = frozenset("huggingface_hub numpy safetensors scipy sentencepiece tokenizers torch triton zstandard".split())

# The last module of all.
_MAIN = """\
import sys
from pathlib import Path
from {entry} import main
from {record} import RECIPE
if __name__=="__main__":main(RECIPE,sys.argv[1:],Path(__file__))
"""
# The text gets a file name that looks like a path, because `inspect` takes <names> for interactive input and Triton
# reads its kernels through `inspect`.
_RUN = """\
import linecache
F="{script}/{package}.py";linecache.cache[F]=len(T),None,T.splitlines(True),F
exec(compile(T,F,"exec"))
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
    package = entry.partition(".")[0]
    main = ast.parse(_MAIN.format(entry=entry, record=RECORD))
    trees = merge.merge(reach.trees() | {"__main__": main}, package)
    whole = ast.Module(body=[node for tree in trees.values() for node in tree.body], type_ignores=[])
    rename.shorten({package: whole})
    texts = {name: squeeze(tree) for name, tree in trees.items()}
    text = "\n".join(filter(None, texts.values()))
    code = WRITTEN[written](text) + _RUN.format(script=SCRIPT, package=package)
    needed = {*reach.externals, *(["numpy"] if written == "dense" else [])}  # its decoder computes with that
    sizes = {name: len(texts[name].encode()) for name in sorted(texts) if texts[name] and name in reach.modules}
    return Bundle(code=code.encode(), sizes=sizes, packages=tuple(sorted(needed)))


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
