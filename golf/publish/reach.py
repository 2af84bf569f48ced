"""Which statements of a program can run: static imports followed, and definitions nobody spells left out.

A definition at a module's top level is kept when its name is spelled by something that is kept: as a name in
its own module, in a `from module import name`, or in any module as an attribute or a lone string (getattr,
phone books: "golf.arch.unet:UNetSpec"). That errs on the side of keeping. Statements that bind no name stay.
Modules named in strings are not followed: what a program looks up at run time it has to import somewhere.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from golf.contracts import SpecError

# Decorators that neither register what they decorate nor read its annotations. Under any other one (a custom
# operator, a Triton kernel) a function keeps its annotations and is never left out.
PLAIN_DECORATORS = frozenset(
    "cache cached_property classmethod compile contextmanager dataclass inference_mode lru_cache no_grad "
    "property runtime_checkable setter staticmethod total_ordering".split()
)
EVERYTHING = "*"
_LONE = re.compile(r"[\w.:]+")

Find = Callable[[str], str | None]  # the source of a module of the program; None when it is not one


@dataclass
class Module:
    """Top-level statements of one module, the kept ones and those nobody has needed yet, by position."""

    name: str
    is_package: bool
    kept: dict[int, ast.stmt] = field(default_factory=dict)
    waiting: dict[int, ast.stmt] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)  # spelled by what is kept here

    def source(self) -> str:
        body = [statement for _, statement in sorted(self.kept.items())]
        return ast.unparse(ast.Module(body=body, type_ignores=[]))


class Reach:
    """What can be reached from `needs`, pairs of a module and a name in it (or EVERYTHING).

    find: the source of a module inside the program, or None.
    packages: whether a module is a folder of others.
    Raises SpecError for an import of a module inside the program that does not exist.
    """

    def __init__(self, needs: Sequence[tuple[str, str]], find: Find, packages: Callable[[str], bool]) -> None:
        self.modules: dict[str, Module] = {}
        self.importers: dict[str, str] = {}  # module of the program -> what imports it first
        self.externals: dict[str, str] = {}  # top-level package outside the program -> what imports it first
        self._find, self._packages = find, packages
        self._exports: dict[str, set[str]] = defaultdict(set)
        self._spelled: set[str] = set()  # as attributes or lone strings, anywhere
        self._tops = {module.partition(".")[0] for module, _ in needs}
        for module, name in needs:
            self._open(module, "the entry")
            self._exports[module].add(name)
        while any([self._keep_needed(module) for module in list(self.modules.values())]):
            pass

    def _open(self, name: str, importer: str) -> None:
        """Read a module and the packages it lies in, once."""
        parent = name.rpartition(".")[0]
        if name in self.modules:
            return
        if parent:
            self._open(parent, importer)
        source = self._find(name)
        if source is None:
            raise SpecError(f"{importer} imports {name}, and there is no such module; mend that import")
        module = self.modules[name] = Module(name, self._packages(name))
        self.importers[name] = importer
        statements = split_imports(strip(ast.parse(source, name)).body)
        module.waiting = dict(enumerate(statements))

    def _keep_needed(self, module: Module) -> bool:
        """Keep what is needed by now; whether that was anything."""
        needed = [place for place, statement in module.waiting.items() if self._is_needed(module, statement)]
        for place in needed:
            module.kept[place] = module.waiting.pop(place)
            self._read(module, module.kept[place])
        return bool(needed)

    def _is_needed(self, module: Module, statement: ast.stmt) -> bool:
        names = binds(statement)
        if names is None or EVERYTHING in self._exports[module.name]:
            return True
        wanted = module.names | self._exports[module.name]
        if not isinstance(statement, (ast.Import, ast.ImportFrom)) or self._is_inside(module, statement):
            wanted |= self._spelled
        return any(name in wanted or name.startswith("__") for name in names)

    def _read(self, module: Module, statement: ast.stmt) -> None:
        """Note every name a kept statement spells and follow its imports."""
        for node in ast.walk(statement):
            if isinstance(node, ast.Name):
                module.names.add(node.id)
            elif isinstance(node, ast.Attribute):
                self._spelled.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _LONE.fullmatch(node.value):
                self._spelled.update(re.split("[.:]", node.value))
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    self._follow(alias.name, module)
            elif isinstance(node, ast.ImportFrom):
                self._follow_from(base_of(module, node), [alias.name for alias in node.names], module)

    def _follow(self, name: str, importer: Module) -> None:
        top = name.partition(".")[0]
        if top in self._tops:
            self._open(name, importer.name)
        elif top not in sys.stdlib_module_names:
            self.externals.setdefault(top, importer.name)

    def _follow_from(self, base: str, names: list[str], importer: Module) -> None:
        self._follow(base, importer)
        if base.partition(".")[0] not in self._tops:
            return
        if "*" in names:
            raise SpecError(f"{importer.name} imports * from {base}; name what it needs, so that the rest can stay out")
        for name in names:
            if self._find(f"{base}.{name}") is None:
                self._exports[base].add(name)
            else:
                self._open(f"{base}.{name}", importer.name)

    def _is_inside(self, module: Module, statement: ast.Import | ast.ImportFrom) -> bool:
        """Whether an import (of one name, see split_imports) takes it from the program itself."""
        name = base_of(module, statement) if isinstance(statement, ast.ImportFrom) else statement.names[0].name
        return name.partition(".")[0] in self._tops


def base_of(module: Module, node: ast.ImportFrom) -> str:
    """The absolute name of the module a `from` import names."""
    package = module.name if module.is_package else module.name.rpartition(".")[0]
    return importlib.util.resolve_name("." * node.level + (node.module or ""), package)


def binds(statement: ast.stmt) -> set[str] | None:
    """The names a top-level statement does nothing but bind; None when it may do more than that."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {statement.name} if has_plain_decorators(statement) else None
        case ast.Assign(targets=[ast.Name(id=name)]):
            return {name}
        case ast.Assign(targets=[ast.Tuple(elts=elements)]) if all(isinstance(e, ast.Name) for e in elements):
            return {element.id for element in elements}
        case ast.ImportFrom(module="__future__"):
            return None
        case ast.Import(names=[ast.alias(name=name, asname=None)]) if "." in name:
            return None  # `import a.b` binds a, but is there to load b
        case ast.Import(names=[alias]) | ast.ImportFrom(names=[alias]):
            return {alias.asname or alias.name}
    return None


def split_imports(statements: Sequence[ast.stmt]) -> list[ast.stmt]:
    """The same statements with one import for each imported name, so that each can be left out."""
    split: list[ast.stmt] = []
    for statement in statements:
        match statement:
            case ast.Import(names=names):
                split += [ast.Import(names=[name]) for name in names]
            case ast.ImportFrom(module=module, names=names, level=level):
                split += [ast.ImportFrom(module=module, names=[name], level=level) for name in names]
            case _:
                split.append(statement)
    return split


def has_plain_decorators(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    return {last_name(decorator) for decorator in node.decorator_list} <= PLAIN_DECORATORS


def last_name(node: ast.expr) -> str:
    """`dataclass` of `@dataclasses.dataclass(frozen=True)`."""
    match node:
        case ast.Call(func=func):
            return last_name(func)
        case ast.Attribute(attr=attr):
            return attr
        case ast.Name(id=name):
            return name
    return ""


def strip(tree: ast.Module) -> ast.Module:
    """The tree without docstrings, `if TYPE_CHECKING` and annotations nobody reads. Those of class attributes
    stay: dataclass fields and protocols are made of them, and `--set` parses by them."""
    return ast.fix_missing_locations(_Strip().visit(tree))


class _Strip(ast.NodeTransformer):
    """What goes becomes `pass`, so that no body is left empty; the minifier removes those it can."""

    def __init__(self) -> None:
        self._fields: set[ast.AnnAssign] = set()

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.Pass() if is_text else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return (node.orelse or ast.Pass()) if last_name(node.test) == "TYPE_CHECKING" else node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self._fields.update(item for item in node.body if isinstance(item, ast.AnnAssign))
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if has_plain_decorators(node):
            node.returns = None
            for argument in ast.walk(node.args):
                if isinstance(argument, ast.arg):
                    argument.annotation = None
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node in self._fields:
            return self.generic_visit(node)
        return ast.Assign(targets=[node.target], value=self.visit(node.value)) if node.value else ast.Pass()
