"""Which statements of a program can run: static imports followed, and definitions nobody spells left out.

A definition at a module's top level is kept when its name is spelled by something that is kept: as a name in
its own module, in a `from module import name`, as `module.name`, or in any module as a lone string (getattr). That
errs on the side of keeping. What a phone book offers ("golf.arch.unet:UNetSpec") is kept when something else names it.
Statements that bind no name stay.
A method is kept when its name is spelled as an attribute or a lone string, or when its class has foreign bases
besides `nn.Module`.
Modules named in strings are not followed: what a program looks up at run time it has to import somewhere.
A module keeps the types of its fields when a phone book names it and the phone book's module calls get_type_hints:
classes found there are made from outside data.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from golf.contracts import SpecError
from golf.publish.bundle import lean, trust

EVERYTHING = "*"
_LONE = re.compile(r"[\w.:]+")
_ENTRY = re.compile(r"([\w.]+):(\w+)")  # of a phone book

Find = Callable[[str], str | None]  # the source of a module of the program; None when it is not one


@dataclass
class Module:
    """Top-level statements of one module, the kept ones and those nobody has needed yet, by position."""

    name: str
    is_package: bool
    kept: dict[int, ast.stmt] = field(default_factory=dict)
    waiting: dict[int, ast.stmt] = field(default_factory=dict)
    spare: list[tuple[ast.ClassDef, ast.stmt]] = field(default_factory=list)  # methods nobody has needed yet
    names: set[str] = field(default_factory=set)  # spelled by what is kept here
    aliases: dict[str, str] = field(default_factory=dict)  # names of other modules of the program in this one
    given: dict[str, tuple[str, str]] = field(default_factory=dict)  # names imported: from which module, which name
    typed: bool = False  # whether somebody looks up the types of fields
    looks_up: bool = False  # whether this module looks up such types

    def tree(self) -> ast.Module:
        return ast.Module(body=[statement for _, statement in sorted(self.kept.items())], type_ignores=[])


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
        self._attributes: set[str] = set()  # spelled anywhere
        self._texts: set[str] = set()  # lone strings and their parts
        self._handed: set[str] = set()  # modules that may be in variables, where any attribute may mean them
        self._typed: set[str] = set()  # modules that phone books name
        self._tops = {module.partition(".")[0] for module, _ in needs}
        for module, name in needs:
            self._open(module, "the entry")
            self._exports[module].add(name)
        while any([self._keep_needed(module) for module in list(self.modules.values())]):
            pass

    def trees(self) -> dict[str, ast.Module]:
        """What is left of each module, in fewer words, by name."""
        return {name: self._finish(module) for name, module in sorted(self.modules.items())}

    def _finish(self, module: Module) -> ast.Module:
        tree = module.tree() if module.typed else lean.shorten_fields(module.tree())
        if module.name not in self._handed and EVERYTHING not in self._exports[module.name]:
            tree = lean.inline_constants(tree, self._exports[module.name])
        return lean.without_future(tree)

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
        module = self.modules[name] = Module(name, self._packages(name), typed=name in self._typed)
        self.importers[name] = importer
        statements = lean.split_imports(trust.trusting(lean.strip(ast.parse(source, name))).body)
        module.waiting = dict(enumerate(statements))
        for node in (each for statement in statements for each in ast.walk(statement)):
            if isinstance(node, (ast.Name, ast.Attribute)) and lean.last_name(node) == "get_type_hints":
                module.looks_up = True
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    module.given[alias.asname or alias.name] = base_of(module, node), alias.name
                    target = f"{base_of(module, node)}.{alias.name}"
                    if target.partition(".")[0] in self._tops and self._find(target) is not None:
                        module.aliases[alias.asname or alias.name] = target

    def _keep_needed(self, module: Module) -> bool:
        """Keep what is needed by now; whether that was anything."""
        needed = [place for place, statement in module.waiting.items() if self._is_needed(module, statement)]
        for place in needed:
            statement = module.kept[place] = module.waiting.pop(place)
            if isinstance(statement, ast.ClassDef) and EVERYTHING not in self._exports[module.name]:
                spare = lean.spare_methods(statement, self._foreign_bases(module, statement))
                statement.body = [item for item in statement.body if item not in spare] or [ast.Pass()]
                module.spare += [(statement, method) for method in spare]
            self._read(module, statement)
        spelled = self._attributes | self._texts
        methods = [pair for pair in module.spare if pair[1].name in spelled]
        for owner, method in methods:
            module.spare.remove((owner, method))
            owner.body = sorted([*owner.body, method], key=lambda item: getattr(item, "lineno", 0))
            self._read(module, method)
        return bool(needed or methods)

    def _foreign_bases(self, module: Module, node: ast.ClassDef) -> set[str]:
        """What a class inherits from outside the program, directly or by classes of the program."""
        found = set()
        for base in node.bases:
            owner, name = module, ast.unparse(base)
            if name in module.given and module.given[name][0].partition(".")[0] in self._tops:
                source, name = module.given[name]
                self._open(source, module.name)
                owner = self.modules[source]
            here = [*owner.kept.values(), *owner.waiting.values()]
            classes = [each for each in here if isinstance(each, ast.ClassDef) and each.name == name]
            found |= set().union(*(self._foreign_bases(owner, each) for each in classes)) if classes else {name}
        return found

    def _is_needed(self, module: Module, statement: ast.stmt) -> bool:
        names = binds(statement)
        if names is None or EVERYTHING in self._exports[module.name]:
            return True
        wanted = module.names | self._exports[module.name]
        is_import = isinstance(statement, (ast.Import, ast.ImportFrom))
        if module.name in self._handed and not (is_import and not self._is_inside(module, statement)):
            wanted |= self._attributes | self._texts
        return any(name in wanted or name.startswith("__") for name in names)

    def _read(self, module: Module, statement: ast.stmt) -> None:
        """Note every name a kept statement spells and follow its imports."""
        nodes = list(walk(statement, module.typed))
        owners = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
        for node in nodes:
            match node:
                case ast.Name(id=name):
                    module.names.add(name)
                    if name in module.aliases and id(node) not in owners:
                        self._handed.add(module.aliases[name])
                case ast.Attribute(value=value, attr=name):
                    self._attributes.add(name)
                    if isinstance(value, ast.Name) and value.id in module.aliases:
                        self._exports[module.aliases[value.id]].add(name)
                case ast.Constant(value=str(text)) if _LONE.fullmatch(text):
                    self._handed.add(text)
                    self._texts.update(re.split("[.:]", text))
                    if entry := _ENTRY.fullmatch(text):
                        if module.looks_up:
                            self._look_up_types(entry[1])
                case ast.Import(names=names):
                    for alias in names:
                        self._handed.add(alias.name)
                        self._follow(alias.name, module)
                case ast.ImportFrom(names=names):
                    self._follow_from(base_of(module, node), names, module)

    def _look_up_types(self, name: str) -> None:
        """From now on the annotations of that module's fields are read, also of those kept already."""
        self._typed.add(name)
        module = self.modules.get(name)
        if module and not module.typed:
            module.typed = True
            for statement in list(module.kept.values()):
                self._read(module, statement)

    def _follow(self, name: str, importer: Module) -> None:
        top = name.partition(".")[0]
        if top in self._tops:
            self._open(name, importer.name)
        elif top not in sys.stdlib_module_names:
            self.externals.setdefault(top, importer.name)

    def _follow_from(self, base: str, names: list[ast.alias], importer: Module) -> None:
        self._follow(base, importer)
        if base.partition(".")[0] not in self._tops:
            return
        if names[0].name == "*":
            raise SpecError(f"{importer.name} imports * from {base}; name what it needs, so that the rest can stay out")
        for alias in names:
            if self._find(f"{base}.{alias.name}") is None:
                self._exports[base].add(alias.name)
            else:
                self._open(f"{base}.{alias.name}", importer.name)

    def _is_inside(self, module: Module, statement: ast.Import | ast.ImportFrom) -> bool:
        """Whether an import (of one name, see split_imports) takes it from the program itself."""
        name = base_of(module, statement) if isinstance(statement, ast.ImportFrom) else statement.names[0].name
        return name.partition(".")[0] in self._tops


def walk(statement: ast.stmt, types: bool) -> Iterator[ast.AST]:
    """Every node of a statement; annotations of fields that nobody looks up are passed over."""
    yield statement
    for child in ast.iter_child_nodes(statement):
        is_note = isinstance(statement, ast.AnnAssign) and child is statement.annotation
        if types or not is_note or lean.spells_marker(child):
            yield from walk(child, types)


def base_of(module: Module, node: ast.ImportFrom) -> str:
    """The absolute name of the module a `from` import names."""
    package = module.name if module.is_package else module.name.rpartition(".")[0]
    return importlib.util.resolve_name("." * node.level + (node.module or ""), package)


def binds(statement: ast.stmt) -> set[str] | None:
    """The names a top-level statement does nothing but bind; None when it may do more than that."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {statement.name} if lean.has_plain_decorators(statement) else None
        case ast.Assign(targets=[ast.Name(id=name)]):
            return {name}
        case ast.Assign(targets=[ast.Tuple(elts=elements)]) if all(isinstance(e, ast.Name) for e in elements):
            return {element.id for element in elements}
        case ast.ImportFrom(module="__future__") | ast.ImportFrom(names=[ast.alias(name="*")]):
            return None
        case ast.Import(names=[ast.alias(name=name, asname=None)]) if "." in name:
            return None  # `import a.b` binds a, but is there to load b
        case ast.Import(names=[alias]) | ast.ImportFrom(names=[alias]):
            return {alias.asname or alias.name}
    return None
