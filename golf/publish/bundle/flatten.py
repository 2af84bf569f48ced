"""Several modules of golf as one that stands alone: the definitions a few names need, as they are written.

Names are followed as Python resolves them, not as text: a definition is taken when code that is taken reads it, or an
import of it. Comments of definitions, docstrings and line breaks stay; what a name needs from outside of golf becomes
imports at the top.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from golf.contracts import SpecError

SOURCE = Path(__file__).resolve().parents[3]
PACKAGE = "golf"


@dataclass
class Module:
    """lines: its source.  definitions: top-level statements by the name they bind.  imports: how names come in, as
    (module, name) or (module, None) for the module itself."""

    name: str
    lines: list[str]
    definitions: dict[str, ast.stmt]
    imports: dict[str, tuple[str, str | None]]
    taken: set[str] = field(default_factory=set)


def flatten(needs: Sequence[tuple[str, str]], source: Path = SOURCE, *, extra: Sequence[str] = ()) -> str:
    """One source text that defines each (module, name) of `needs` under its name, and all they read.

    extra: further imports.
    Raises SpecError when two different definitions have one name, or a name is nowhere defined.
    """
    return Flat(source, needs).text(extra)


class Flat:
    def __init__(self, source: Path, needs: Sequence[tuple[str, str]]) -> None:
        self._source = source
        self._modules: dict[str, Module] = {}
        self._order: list[str] = []  # a module comes after those it imports
        self._outside: set[tuple[str, str | None, str]] = set()  # module, name in it, name here
        self._owners: dict[str, str] = {}
        for module, name in needs:
            self._take(module, name)

    def text(self, extra: Sequence[str]) -> str:
        """The whole module."""
        parts = [self._cleaned(self._modules[name]) for name in self._order]
        return "\n\n\n".join(["\n".join([*self._imports(), *extra]), *filter(None, parts)]) + "\n"

    def _open(self, name: str) -> Module:
        if name in self._modules:
            return self._modules[name]
        file = self._source.joinpath(*name.split(".")).with_suffix(".py")
        if not file.is_file():
            raise SpecError(f"{name} is no module of {PACKAGE}")
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
        module = self._modules[name] = Module(name, text.splitlines(), {}, {})
        only_typed = [each for node in tree.body if is_type_checking(node) for each in node.body]
        for statement in [*tree.body, *only_typed]:
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                module.imports |= dict(imported(statement))
            for bound in binds(statement):
                module.definitions[bound] = statement
        for inside in dict.fromkeys(module.imports[name][0] for name in module.imports):
            if inside.startswith(f"{PACKAGE}."):
                self._open(inside)
        self._order.append(name)
        return module

    def _take(self, name: str, wanted: str) -> None:
        module = self._open(name)
        if wanted in module.definitions:
            if wanted in module.taken:
                return
            if self._owners.setdefault(wanted, name) != name:
                raise SpecError(f"{wanted} is defined in {self._owners[wanted]} and in {name}; rename one of them")
            module.taken.add(wanted)
            self._follow(module, module.definitions[wanted])
        elif wanted in module.imports:
            self._bring(wanted, *module.imports[wanted])

    def _bring(self, here: str, module: str, name: str | None) -> None:
        if not module.startswith(PACKAGE + "."):
            self._outside.add((module, name, here))
        elif name is None or here != name:
            raise SpecError(f"{module} is imported as {here}; import the names it defines instead")
        else:
            self._take(module, name)

    def _follow(self, module: Module, statement: ast.stmt) -> None:
        """Take all that a statement reads when it is executed or called."""
        inner = {here: target for node in inner_imports(statement) for here, target in imported(node)}
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in inner:
                self._take(module.name, node.id)
        for node in ast.walk(statement):
            alias = node.value.id if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) else None
            if alias in inner and inner[alias][1] is None:
                self._take(inner[alias][0], node.attr)

    def _cleaned(self, module: Module) -> str:
        statements = {id(module.definitions[name]): module.definitions[name] for name in module.taken}
        ordered = sorted(statements.values(), key=lambda statement: statement.lineno)
        texts, before = [], None
        for statement in ordered:
            text = "\n".join(self._lines(module, statement))
            small = all(isinstance(each, ast.Assign) for each in (statement, before) if each is not None)
            texts.append(text if before is None else ("\n" if small else "\n\n\n") + text)
            before = statement
        return "".join(texts)

    def _lines(self, module: Module, statement: ast.stmt) -> list[str]:
        """A statement's lines with comments right above it, without its imports of golf's modules."""
        first = min([statement.lineno, *(each.lineno for each in getattr(statement, "decorator_list", []))])
        above = first
        while above > 1 and module.lines[above - 2].startswith("#"):
            above -= 1
        lines = module.lines[above - 1 : statement.end_lineno]
        gone: set[int] = set()
        for node in inner_imports(statement):
            gone |= set(range(node.lineno, node.end_lineno + 1))
            if node.end_lineno < len(module.lines) and not module.lines[node.end_lineno].strip():
                gone.add(node.end_lineno + 1)
            for here, (_, name) in imported(node):
                if name is None:  # names of that module stand beside this one now
                    lines = [line.replace(f"{here}.", "") for line in lines]
        return [line for number, line in enumerate(lines, above) if number not in gone]

    def _imports(self) -> list[str]:
        found = ["from __future__ import annotations", ""]
        whole = sorted((module, here) for module, name, here in self._outside if name is None)
        found += [f"import {module}" + (f" as {here}" if here != module else "") for module, here in whole]
        by_module: dict[str, list[str]] = {}
        for module, name, here in self._outside:
            if name is not None:
                by_module.setdefault(module, []).append(name if here == name else f"{name} as {here}")
        found += [f"from {module} import {', '.join(sorted(by_module[module]))}" for module in sorted(by_module)]
        return found


def binds(statement: ast.stmt) -> list[str]:
    """Names that a top-level statement defines, other than by importing them."""
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Assign(targets=[ast.Name(id=name)]):
            return [name]
        case ast.Assign(targets=[ast.Tuple(elts=elements)]):
            return [element.id for element in elements if isinstance(element, ast.Name)]
    return []


def imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """(name here, (module, name there)) of an import; None there stands for the module itself."""
    for alias in node.names:
        here = alias.asname or alias.name
        if isinstance(node, ast.Import):
            yield here, (alias.name, None)
        elif node.module is not None and is_package(node.module):
            yield here, (f"{node.module}.{alias.name}", None)
        elif node.module != "__future__":
            yield here, (node.module, alias.name)


def is_package(name: str) -> bool:
    return name.split(".")[0] == PACKAGE and (SOURCE.joinpath(*name.split(".")) / "__init__.py").is_file()


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def inner_imports(statement: ast.stmt) -> list[ast.Import | ast.ImportFrom]:
    """Imports of golf's modules inside a definition."""
    found = [node for node in ast.walk(statement) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return [node for node in found if any(to[0].startswith(f"{PACKAGE}.") for _, to in imported(node))]

