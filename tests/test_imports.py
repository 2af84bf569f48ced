"""The walls of the house, read off the syntax trees of golf. Each rule also meets trees that break it."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("data", "arch", "train", "quant", "pack", "eval")
CORE_PACKAGES = frozenset(("torch", "triton", "numpy", "scipy", "safetensors", "sentencepiece", "zstandard"))
# Downloads are never inside a bundle; a tokenizer.json is read in that of a record that names one.
OPTIONAL = {Path("golf/data/fetch.py"): "huggingface_hub", Path("golf/data/tokenizer_json.py"): "tokenizers"}
BROAD = {Path("golf/data/tokenizer_json.py")}
OUTER = ("publish", "cli", "__main__")

# Who may import which parts of golf, besides its own files. "specs": the rooms, but only classes from them.
ALLOWED: dict[str, frozenset[str]] = {
    "contracts": frozenset(),
    "host": frozenset(),
    **dict.fromkeys(ROOMS, frozenset(("contracts", "host"))),
    "track": frozenset(("contracts",)),
    "events": frozenset(("contracts", "host")),
    "recipe": frozenset(("contracts", "specs")),
    "run": frozenset(("contracts", "host", "track", "events", "recipe", *ROOMS)),
    "entry": frozenset(("contracts", "host", "track", "events", "recipe", "run")),
    "records": frozenset(("recipe", "specs")),
}
# What the corridor may not know by name: model families, quantization methods, codecs, kinds of corpora.
PARTS = frozenset("arch.unet quant.gptq quant.nearest pack.zstd data.fineweb data.builtin data.local".split())


def arrows(tree: ast.AST) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each import of a tree as (module, names taken from it), those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), tuple(alias.name for alias in node.names)


def room_of(path: Path) -> str:
    """`quant` of golf/quant/grid.py, `run` of golf/run.py, `records` of a recipe; paths start at the root."""
    if path.parts[0] == "records":
        return "records"
    return path.parts[1].removesuffix(".py")


def modules_of(module: str, names: tuple[str, ...]) -> list[str]:
    """The golf modules an import may load, without the leading `golf.`: host of `from golf import host`."""
    if module == "golf":
        return list(names)
    return [module.removeprefix("golf.")] if module.startswith("golf.") else []


def wrong_arrows(path: Path, tree: ast.AST) -> list[str]:
    """Imports of golf by golf or a record that the table does not allow."""
    room, found = room_of(path), []
    for module, names in arrows(tree):
        if module.startswith("."):
            found.append(f"{path}: relative import of {module}; the bundle and the reader want whole names")
        for target in modules_of(module, names):
            top = target.partition(".")[0]
            if room in OUTER or top == room:
                continue
            allowed = ALLOWED[room]
            is_spec = (
                "specs" in allowed and top in ROOMS and all(name[:1].isupper() for name in names) and names
            )
            if top not in allowed and not is_spec:
                found.append(f"{path}: {room} may not import golf.{target}")
            if room == "run":
                taken = {target, *(f"{target}.{name}" for name in names)}
                found += [f"{path}: the corridor names {part}" for part in sorted(taken & PARTS)]
    return found


def wrong_packages(path: Path, tree: ast.Module) -> list[str]:
    """Packages outside the standard library that a file inside the bundle may not need."""
    if room_of(path) in OUTER:
        return []
    outside = {
        module.partition(".")[0]
        for module, _ in arrows(tree)
        if module and not module.startswith(".")
    } - sys.stdlib_module_names - {"golf", "__future__"}  # fmt: skip
    if path in OPTIONAL:  # imported where it is used
        at_top = ast.Module(
            body=[s for s in tree.body if isinstance(s, (ast.Import, ast.ImportFrom))], type_ignores=[]
        )
        if not any(module.startswith(OPTIONAL[path]) for module, _ in arrows(at_top)):
            outside.discard(OPTIONAL[path])
    return [f"{path}: {package} is not a package of the core" for package in sorted(outside - CORE_PACKAGES)]


def wrong_torch(path: Path, tree: ast.Module) -> list[str]:
    """Packing is plain bytes: it starts without torch, and so does whatever needs only the container."""
    if room_of(path) != "pack":
        return []
    return [
        f"{path}: pack imports {module}" for module, _ in arrows(tree) if module.partition(".")[0] == "torch"
    ]


def wrong_environment(path: Path, tree: ast.AST) -> list[str]:
    """Environment variables are read in golf/host.py only; the worker of `golf verify` watches who else would."""
    if path in (Path("golf/host.py"), Path("golf/publish/verify/worker.py")):
        return []
    names = {"environ", "environb", "getenv", "putenv", "getenvb", "unsetenv"}
    spelled = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in names]
    taken = [name for module, taken in arrows(tree) if module == "os" for name in taken if name in names]
    return [f"{path}: reads the environment ({name})" for name in spelled + taken]


def wrong_calls(path: Path, tree: ast.AST) -> list[str]:
    """Nothing that runs what it reads from a file. The coder runs the text it puts into every bundle, its own."""
    found = [
        f"{path}: imports {module}"
        for module, _ in arrows(tree)
        if module in ("pickle", "marshal", "shelve", "dill")
    ]
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="eval" | "exec" as name)) if path != Path("golf/publish/bundle/coder.py"):
                found.append(f"{path}:{node.lineno}: {name}")
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load"), keywords=options) if any(
                option.arg == "weights_only" and getattr(option.value, "value", None) is True for option in options
            ) and room_of(path) in OUTER:
                continue  # unpickles tensors and plain values only, and only where checkpoints are imported
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load" | "save" as name)):
                found.append(f"{path}:{node.lineno}: torch.{name} is pickle")
            case ast.keyword(arg="allow_pickle", value=ast.Constant(value=True)):
                found.append(f"{path}:{node.value.lineno}: allow_pickle")
    return found


def wrong_excepts(path: Path, tree: ast.AST) -> list[str]:
    """No handler that swallows what nobody thought of. Fine are one that raises again when it has cleaned up,
    a thread's that hands the error over, whole, to be raised by the one who waits, and one that says in a sentence what
    a library said that raises nothing narrower."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        broad = [
            kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException"))
            for kind in kinds
        ]
        match node.body[-1]:
            case ast.Raise(exc=None):
                continue
            case ast.Expr(ast.Call(func=ast.Attribute(attr="put"), args=[ast.Name(id=name)])) if (
                name == node.name
            ):
                continue
            case ast.Raise(cause=ast.Name(id=name)) if name == node.name and path in BROAD:
                continue
        if any(broad):
            found.append(f"{path}:{node.lineno}: a handler for everything")
    return found


RULES = (wrong_arrows, wrong_packages, wrong_torch, wrong_environment, wrong_calls, wrong_excepts)
BROKEN = {
    wrong_arrows: [
        ("golf/quant/x.py", "from golf.pack import container"),
        ("golf/arch/x.py", "def late():\n    import golf.train.engine"),
        ("golf/train/x.py", "from golf import recipe"),
        ("golf/contracts.py", "from golf.host import Host"),
        ("golf/recipe.py", "from golf.quant.apply import dequantize"),
        ("golf/run.py", "from golf.arch.unet import UNetSpec"),
        ("golf/run.py", "from golf.pack import zstd"),
        ("golf/run.py", "from golf.publish import bundle"),
        ("golf/entry.py", "from golf.quant.gptq import GPTQ"),
        ("golf/eval/x.py", "from . import spans"),
        ("records/a/b/recipe.py", "from golf.train.engine import fit"),
        ("records/a/b/recipe.py", "from golf import run"),
    ],
    wrong_packages: [
        ("golf/data/x.py", "import rich"),
        ("golf/data/fetch.py", "import huggingface_hub"),
        ("golf/data/corpus.py", "def late():\n    import huggingface_hub"),
        ("golf/entry.py", "import click"),
    ],
    wrong_torch: [("golf/pack/x.py", "from torch import Tensor")],
    wrong_environment: [
        ("golf/run.py", "import os\nrank = os.environ['RANK']"),
        ("golf/cli.py", "from os import getenv"),
    ],
    wrong_calls: [
        ("golf/train/x.py", "import torch\ntorch.load('x')"),
        ("golf/train/x.py", "import torch\ntorch.load('x', weights_only=True)"),
        ("golf/publish/x.py", "import torch\ntorch.load('x', weights_only=False)"),
        ("golf/pack/x.py", "from pickle import loads"),
        ("golf/pack/x.py", "import numpy as np\nnp.load('x', allow_pickle=True)"),
        ("golf/cli.py", "eval('1')"),
        ("golf/publish/bundle/one_file.py", "exec('1')"),
    ],
    wrong_excepts: [
        ("golf/x.py", "try:\n    x\nexcept:\n    pass"),
        ("golf/x.py", "try:\n    x\nexcept (ValueError, Exception):\n    pass"),
        ("golf/x.py", "try:\n    x\nexcept BaseException as e:\n    raise ValueError from e"),
    ],
}  # fmt: skip
FINE = [
    ("golf/quant/x.py", "from golf.quant.grid import Grid\nfrom golf.contracts import QTensor\nimport torch"),
    ("golf/recipe.py", "from golf.train.spec import TrainSpec"),
    ("golf/run.py", "from golf.pack import container\nfrom golf.arch import families"),
    ("golf/data/fetch.py", "def late():\n    from huggingface_hub import snapshot_download"),
    (
        "golf/host.py",
        "import os\nos.environ.get('RANK')\ntry:\n    x\nexcept BaseException:\n    y\n    raise",
    ),
    ("golf/data/stream.py", "try:\n    x\nexcept Exception as error:\n    ready.put(error)"),
    ("golf/publish/x.py", "import rich\nfrom golf.train import engine"),
    ("golf/publish/x.py", "import torch\ntorch.load('x', weights_only=True)"),
]


@functools.cache
def sources() -> list[tuple[Path, ast.Module]]:
    files = [*ROOT.glob("golf/**/*.py"), *ROOT.glob("records/**/recipe.py")]
    return [(file.relative_to(ROOT), ast.parse(file.read_text(encoding="utf-8"))) for file in sorted(files)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule):
    assert [complaint for path, tree in sources() for complaint in rule(path, tree)] == []


@pytest.mark.parametrize(
    ("rule", "path", "text"), [(rule, *broken) for rule, texts in BROKEN.items() for broken in texts]
)
def test_the_rule_sees_what_breaks_it(rule, path, text):
    assert rule(Path(path), ast.parse(text))


@pytest.mark.parametrize(("path", "text"), FINE)
def test_the_rules_allow_what_is_fine(path, text):
    assert [complaint for rule in RULES for complaint in rule(Path(path), ast.parse(text))] == []


def test_every_room_is_in_the_table():
    rooms = {room_of(path) for path, _ in sources()} - {"__init__", *OUTER}
    assert rooms <= set(ALLOWED)
    assert {"contracts", "host", "recipe", "run", *ROOMS} <= rooms


def test_packages_export_nothing():
    assert [path for path, tree in sources() if path.name == "__init__.py" and tree.body] == []


def test_the_corridor_stays_short():
    assert len((ROOT / "golf" / "run.py").read_text().splitlines()) <= 200


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("from golf.cli import cli; cli(['--help'], standalone_mode=False)", id="golf --help"),
        pytest.param("import golf.pack.container", id="golf.pack"),
        pytest.param("import golf.contracts, golf.track, golf.events", id="light modules"),
    ],
)
def test_starts_without_torch(code):
    check = f"{code}; import sys; assert 'torch' not in sys.modules, 'torch was imported'"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
