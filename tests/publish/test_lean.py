"""What the bundler leaves out of a program, and that the rest does what it did."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from golf.publish.bundle import lean
from golf.publish.bundle.one_file import build
from golf.publish.bundle.reach import Reach

# Each name is used in a way that a careless renaming or pruning would break.
TRICKY = """
from __future__ import annotations
import enum, functools, inspect, math
from collections import namedtuple
from dataclasses import InitVar, dataclass, field, fields, replace
from typing import ClassVar, NamedTuple
from mini import other
from mini.other import Base, scale as enlarge

WIDTH = 3
SHIFT, NAME = 1 << 2, "text with words"
total_count = 0

class Color(enum.Enum):
    RED = "red"

class Pair(NamedTuple):
    first: int
    second: int = 5

@dataclass(frozen=True, kw_only=True)
class Spec:
    width: int = WIDTH
    inner: tuple[int, ...] = ()
    made: InitVar[int] = 2
    shared: ClassVar[int] = 11
    late: list[int] = field(default_factory=lambda: [WIDTH])

    def __post_init__(self, made: int) -> None:
        object.__setattr__(self, "width", self.width + made)

@dataclass(frozen=True)
class Checked:
    value: int
    def __post_init__(self) -> None:
        if self.value < 0:
            raise ValueError(f"{self.value} is below zero; give another")

class Heir(Base):
    def __init__(self, *, gain: float, **options) -> None:
        super().__init__(gain=gain, offset=1, **options)
        self._cached_value = None

    @property
    def level(self) -> float:
        return self._level

    @level.setter
    def level(self, value: float) -> None:
        self._level = value * 2

    def hook(self, value):
        return ("heir", value)

    @staticmethod
    def helper(value, *, times=2):
        return value * times

def closure(start):
    count = start
    def advance(by=1):
        nonlocal count
        count += by
        return count
    return advance

def global_counter(step):
    global total_count
    total_count += step
    return total_count

def shape_of(value):
    match value:
        case {"kind": str(kind), **rest}:
            return kind, rest
        case [first, *others] if others:
            return first, others
        case Pair(first=one):
            return one
        case _ as anything:
            return anything

def with_defaults(a, b=WIDTH, /, *arguments, key=SHIFT, **keywords):
    return a, b, arguments, key, sorted(keywords.items())

def refuse(value):
    message_width = len(str(value))
    raise other.Refused(f"{value} of {message_width} is refused; take another")

def unused_function(x):
    return unknown_name(x)

def report(spec):
    found = []
    heir = Heir(gain=2.0, extra=4)
    heir.level = 21
    found += [heir.level, heir.run(value=3), heir.helper(3, times=3), heir.gain, heir.options]
    found += [Spec(inner=(1, 2)), replace(Spec(), width=7), [each.name for each in fields(Spec)], Spec.shared]
    found += [Pair(1), Pair(second=2, first=9)._asdict(), Color("red").name, getattr(heir, "hook")(1)]
    step = closure(5)
    found += [step(), step(by=3), global_counter(2), global_counter(step=4)]
    found += [shape_of({"kind": "k", "size": 1}), shape_of([1, 2, 3]), shape_of(Pair(8)), shape_of(None)]
    found += [with_defaults(1), with_defaults(1, 2, 3, key=4, other=5), enlarge(value=2, factor=3)]
    found += [functools.partial(enlarge, factor=10)(value=4), list(inspect.signature(enlarge).parameters)]
    found += [other.scale(2, factor=5), other.apply(enlarge, value=1, factor=6), (lambda q, *, w=2: q * w)(3, w=4)]
    chosen = Heir.helper if spec else heir.run
    found += [chosen(3, **{"times": 5}), other.choose(True)(1, **dict(factor=3))]
    found += [[y := x * WIDTH for x in range(3)], {key: value for key, value in zip("ab", (SHIFT, NAME))}, y]
    try:
        refuse(12)
    except other.Refused as error:
        found.append(type(error).__name__)
    finally:
        found.append(math.floor(1.5))
    try:
        [][0]
    except (IndexError, KeyError) as error:
        found.append(str(error))
    with other.opened("file") as handle:
        found.append(handle)
    heir.extra_attribute = sum(value for value in (1, 2) if value)
    del step
    found += [heir.__dict__, namedtuple("P", "x y")(1, 2), Checked(4).value, f"{WIDTH=} {spec['value']!r:>6}"]
    return found
"""
OTHER = """
import contextlib

class Refused(ValueError):
    pass

class Base:
    limit: int = 4
    def __init__(self, gain, offset, **options):
        self.gain = gain + offset
        self.options = options
        self._level = 0.0
    def run(self, value):
        return self.hook(value) + (self._shift(value),)
    def hook(self, value):
        return ("base", value)
    def _shift(self, value):
        return value + self.limit
    def never_spelled(self):
        return missing

def scale(value, factor):
    return value * factor

def apply(function, **keywords):
    return function(**keywords)

def choose(wide):
    return scale if wide else apply

@contextlib.contextmanager
def opened(name):
    yield name * 2
"""
ENTRY = "from mini.work import report\ndef main(recipe, argv, source):\n    print(report(recipe))\n"


@pytest.fixture
def package(tmp_path):
    (tmp_path / "mini").mkdir()
    for name, text in {"__init__": "", "work": TRICKY, "other": OTHER, "entry": ENTRY}.items():
        (tmp_path / "mini" / f"{name}.py").write_text(text)
    return tmp_path


def printed(folder, *words):
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_bundled_program_prints_what_the_plain_one_does(package, tmp_path):
    plain = printed(package, "-c", "from mini.entry import main; main({'value': 7}, [], '')")
    made = build("RECIPE = {'value': 7}\n", entry="mini.entry", source=package)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "train_gpt.py").write_bytes(made.code)
    assert printed(tmp_path / "alone", "-I", "train_gpt.py") == plain
    assert "('heir', 3, 7)" in plain and "Refused" in plain  # it got to where it should


def test_what_nothing_names_is_left_out(package):
    def find(name):
        file = package.joinpath(*name.split("."))
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        return file.read_text() if file.is_file() else None

    reach = Reach([("mini.entry", "main")], find, lambda name: package.joinpath(*name.split(".")).is_dir())
    text = "\n".join(ast.unparse(tree) for tree in reach.trees().values())
    assert "unused_function" not in text and "never_spelled" not in text
    assert "below zero" not in text  # a finished recipe has been checked
    assert "def hook" in text and "def helper" in text


def lean_text(source):
    return ast.unparse(ast.fix_missing_locations(lean.strip(ast.parse(source))))


def test_sentences_of_errors_become_lines():
    source = (
        "def f(x):\n    text = str(x)\n    if x:\n        size = len(text)\n"
        '        raise SpecError(f"{size} is {x}")\n    return text'
    )
    assert lean_text(source) == "def f(x):\n    text = str(x)\n    if x:\n        raise SpecError(5)\n    return text"


@pytest.mark.parametrize(
    "source",
    [
        "raise SpecError(code)",
        "raise SystemExit(f'{x} is')",  # what the process answers with
        "def f():\n    global last\n    last = 1\n    raise SpecError('a b')",
        "def f():\n    x = 1\n    raise SpecError('a b') from x",
    ],
)
def test_what_a_raise_may_need_stays(source):
    wanted = ast.unparse(ast.parse(source)).replace("'a b'", str(source.count("\n") + 1))
    assert lean_text(source) == wanted


def test_docstrings_annotations_and_type_checking_go():
    source = (
        '"""Doc."""\nif TYPE_CHECKING:\n    import x\nelse:\n    import y\n'
        'def f(a: int = 1) -> str:\n    """Doc."""\n    b: int = 2\n    c: str\n    return b\n'
    )
    assert lean_text(source) == "pass\nimport y\n\ndef f(a=1):\n    pass\n    b = 2\n    pass\n    return b"


def test_functions_under_unknown_decorators_keep_everything():
    source = "@triton.jit\ndef kernel(pointer, SIZE: tl.constexpr) -> int:\n    return SIZE"
    assert lean_text(source) == source


def test_constants_are_written_out_where_that_is_shorter():
    tree = ast.parse("A = 3\nB = 1 << 20\nC = [1]\nD = 5\ndef f(D):\n    return A + D + B + B + B + B + C[0]")
    assert ast.unparse(lean.inline_constants(tree, keep=())) == (
        "B = 1 << 20\nC = [1]\nD = 5\n\ndef f(D):\n    return 3 + D + B + B + B + B + C[0]"
    )
    assert "A = 3" in ast.unparse(lean.inline_constants(ast.parse("A = 3\nprint(A)"), keep=("A",)))
