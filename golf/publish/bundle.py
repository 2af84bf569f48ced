"""One file to submit: the corridor, the recipe and all they reach, minified, compressed and self-serving."""

from __future__ import annotations

import ast
import base64
import bz2
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from python_minifier import minify

from golf.contracts import SpecError
from golf.publish.reach import EVERYTHING, Reach

RECORD = "golf_record"  # the recipe's module name inside the bundle
SCRIPT = "train_gpt.py"
SOURCE = Path(__file__).resolve().parents[2]  # the folder that holds the package golf
OUTER = ("golf.publish", "golf.cli", "golf.__main__")  # rooms that no submission runs
# What a submission may import besides the standard library. Their bytes are free, so the list is short.
PACKAGES = frozenset("huggingface_hub numpy safetensors scipy sentencepiece torch triton zstandard".split())

# A module's file name looks like a path, because `inspect` takes <names> for interactive input and Triton
# reads its kernels through `inspect`. A module of the package that is not inside raises, so that another
# version that happens to be installed never fills in.
_BOOTSTRAP = """\
import base64,bz2,importlib.abc,importlib.util,linecache,pathlib,sys
D="{data}"
M=dict(m.split("\\n",1)for m in bz2.decompress(base64.b85decode(D)).decode().split("\\0"))
class B(importlib.abc.MetaPathFinder,importlib.abc.ExecutionLoader):
 def is_package(s,n):return any(m.startswith(n+".")for m in M)
 def find_spec(s,n,*_):
  if n in M or s.is_package(n):return importlib.util.spec_from_loader(n,s)
  if n.startswith("{package}."):raise ImportError(n+" is not in this bundle; import it in the recipe")
 def get_filename(s,n):return"{script}/"+n+".py"
 def get_source(s,n):return M.get(n,"")
sys.meta_path.insert(0,B())
for n,t in M.items():f=B().get_filename(n);linecache.cache[f]=len(t),None,t.splitlines(True),f
if __name__=="__main__":
 from {entry} import main;from {record} import RECIPE
 main(RECIPE,[*{flags!r},*sys.argv[1:]],pathlib.Path(__file__))
"""


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


def bundle(recipe: Path, *, entry: str = "golf.entry", overrides: Sequence[str] = (), source: Path = SOURCE) -> Bundle:
    """The script that runs a recipe (a record folder or its `recipe.py`) without golf being installed.

    It calls `main(RECIPE, arguments, path of the script)` of the module `entry`.
    overrides: `path=value` texts that come before its own arguments.
    source: the folder that holds the entry's package. The same sources give the same bytes, on any machine.
    Raises SpecError when a module is missing, or belongs to golf's outer rooms or to a package that no
    submission may need.
    """
    recipe = recipe / "recipe.py" if recipe.is_dir() else recipe
    if not recipe.is_file():
        raise SpecError(f"no recipe at {recipe}; name a record folder such as records/<track>/<date>_<name>")

    def is_package(name: str) -> bool:
        return name != RECORD and source.joinpath(*name.split(".")).is_dir()

    def find(name: str) -> str | None:
        path = source.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        file = recipe if name == RECORD else file
        return file.read_text(encoding="utf-8") if file.is_file() else None

    reach = Reach([(entry, "main"), (RECORD, EVERYTHING)], find, is_package)
    refuse_outer(reach)
    texts = {name: squeeze(module.source()) for name, module in sorted(reach.modules.items())}
    texts = {name: text for name, text in texts.items() if text}  # an empty package is known by its modules
    code = _BOOTSTRAP.format(
        data=compress("\0".join(f"{name}\n{text}" for name, text in texts.items()).encode()),
        package=entry.partition(".")[0],
        script=SCRIPT,
        entry=entry,
        record=RECORD,
        flags=[word for text in overrides for word in ("--set", text)],
    )
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


def squeeze(source: str) -> str:
    """The same program in fewer bytes. Names that other modules, keyword arguments or `--set` spell stay."""
    # Triton compiles a kernel's source, where an argument bound to another name is no longer a constant.
    has_kernels = "triton" in imported(source)
    return minify(
        source,
        remove_annotations=False,  # those that nobody reads are gone already
        remove_literal_statements=False,  # likewise
        hoist_literals=False,  # a repeated literal costs the compressor less than a name for it
        rename_locals=not has_kernels,
        rename_globals=False,
        remove_asserts=False,
        remove_debug=False,
    )


def imported(source: str) -> set[str]:
    """Top-level packages a source imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def compress(data: bytes) -> str:
    """In 85 characters that need no escape. On minified Python bzip2 beats LZMA at its best by 3 percent."""
    return base64.b85encode(bz2.compress(data, 9)).decode()
