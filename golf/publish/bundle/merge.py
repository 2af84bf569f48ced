"""Many modules of a program as one: what each defines at its top gets a name of its own, and imports of each other go.

Names are followed as Python resolves them. A module's top-level names keep their spelling where code may look them up
by it: those of a module that a lone string names, those a phone book names ("golf.arch.unet:UNetSpec"), classes that
errors, files or registries may name. The others are renamed apart, so that no two meet and no function's own
variable hides them. What a phone book offers besides what is there goes.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from golf.contracts import SpecError
from golf.publish.bundle import lean
from golf.publish.bundle.tidy import tidied

_ENTRY = re.compile(r"([\w.]+):(\w+)")  # of a phone book
WHOLE = "*"  # in the place of a name: the module itself
Target = tuple[str, str]  # a module and a name in it


@dataclass
class Part:
    """One module.  targets: what its names of other modules of the program stand for.  own: what it defines."""

    name: str
    tree: ast.Module
    targets: dict[str, Target] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)


def merge(trees: Mapping[str, ast.Module], top: str) -> dict[str, ast.Module]:
    """The modules in an order in which they can run one after the other in one namespace, the one of `__main__`. What
    they import from elsewhere comes first of all, under the name "", and makes that namespace known as `top`.

    Raises SpecError when two things have to have one name, or a module is used as a value.
    """
    parts = {name: Part(name, tree) for name, tree in trees.items()}
    outside: dict[str, ast.stmt] = {}
    for part in parts.values():
        part.tree.body = [each for each in part.tree.body if not _take_import(part, each, parts, outside)]
        part.own = {name for node in part.tree.body for name in binds(node)}
    kept = _phone_books(parts, top)
    texts = {node.value for part in parts.values() for node in ast.walk(part.tree) if isinstance(node, ast.Constant)}
    spoken = sorted(name for name in parts if name in texts and name not in (top, "__main__"))
    kept |= {(name, each) for name in spoken for each in parts[name].own}
    names = _unique(parts, kept, outside.keys())
    for part in parts.values():
        _Resolve(parts, part, names).visit(part.tree)
    known = ast.parse("".join(f"sys.modules[{name!r}]=" for name in (top, *spoken)) + "sys.modules[__name__]").body
    imports = sorted(outside.values(), key=ast.unparse)  # which puts __future__ in front
    found = {"": ast.Module(body=[*imports, *known], type_ignores=[])}
    private = {name for target, name in names.items() if target not in kept}
    return found | tidied({name: parts[name].tree for name in _in_order(parts)}, private)


def _phone_books(parts: Mapping[str, Part], top: str) -> set[Target]:
    """What phone books name of the program, which they find in `top` from now on. Other entries go."""
    found = set()
    for node in (node for part in parts.values() for node in ast.walk(part.tree)):
        if isinstance(node, ast.Dict):
            entries = [isinstance(each, ast.Constant) and _ENTRY.fullmatch(str(each.value)) for each in node.values]
            here = [place for place, entry in enumerate(entries) if not entry or _is_here(parts, *entry.groups())]
            node.keys, node.values = ([each[place] for place in here] for each in (node.keys, node.values))
    for node in (node for part in parts.values() for node in ast.walk(part.tree)):
        entry = isinstance(node, ast.Constant) and _ENTRY.fullmatch(str(node.value))
        if entry and _is_here(parts, *entry.groups()):
            found.add((entry[1], entry[2]))
            node.value = f"{top}:{entry[2]}"
    return found


def _is_here(parts: Mapping[str, Part], module: str, name: str) -> bool:
    return module in parts and name in parts[module].own


def _take_import(part: Part, node: ast.stmt, parts: Collection[str], outside: dict[str, ast.stmt]) -> bool:
    """Whether a statement is an import (of one name), which is noted and can go."""
    match node:
        case ast.ImportFrom(names=[alias]) if target := targets(node, parts):
            part.targets[alias.asname or alias.name] = target
        case ast.Import(names=[alias]) if alias.name in parts:
            if alias.asname or "." not in alias.name:
                part.targets[alias.asname or alias.name] = alias.name, WHOLE
        case ast.Import() | ast.ImportFrom():
            (name,) = binds(node)
            if isinstance(node, ast.Import) and "." in node.names[0].name and not node.names[0].asname:
                name = node.names[0].name  # `import a.b` and `import a` get along
            if ast.unparse(outside.setdefault(name, node)) != ast.unparse(node):
                raise SpecError(f"{name} is {ast.unparse(outside[name])!r} and {ast.unparse(node)!r}; say `as` to one")
        case _:
            return False
    return True


def targets(node: ast.ImportFrom, trees: Collection[str]) -> Target | None:
    """What the one name of a `from` import stands for, if that is in the program."""
    (alias,) = node.names
    if f"{node.module}.{alias.name}" in trees:
        return f"{node.module}.{alias.name}", WHOLE
    return (node.module, alias.name) if node.module in trees else None


def _unique(parts: Mapping[str, Part], kept: set[Target], outside: Collection[str]) -> dict[Target, str]:
    """A name of its own for everything that is defined."""
    for part in parts.values():
        for node in part.tree.body:
            match node:
                case ast.ClassDef(bases=bases, decorator_list=marks):
                    is_known = bases or "dataclass" in map(lean.last_name, marks)
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    is_known = not lean.has_plain_decorators(node)
                case _:
                    continue
            kept |= {(part.name, node.name)} if is_known else set()
    owners = dict.fromkeys(outside, "an import")
    names = {}
    for module, name in sorted(kept):
        if name in parts[module].own:
            if owners.setdefault(name, module) != module:
                raise SpecError(f"{name} is defined in {owners[name]} and in {module}; rename one of them")
            names[module, name] = name
    spelled = {name for part in parts.values() for node in ast.walk(part.tree) for name in _spelled(node)}
    fresh = (name for name in (f"_{number}_" for number in itertools.count()) if name not in spelled)
    others = ((module, name) for module, part in parts.items() for name in sorted(part.own))
    return names | {target: next(fresh) for target in others if target not in names}


def _in_order(parts: Mapping[str, Part]) -> list[str]:
    """Modules after those they import."""
    order: dict[str, None] = {}
    begun: set[str] = set()

    def visit(name: str) -> None:
        if name not in begun:
            begun.add(name)
            for module, _ in parts[name].targets.values():
                visit(module)
            order[name] = None

    for name in parts:
        visit(name)
    return list(order)


@dataclass
class _Scope:
    """names: bound here; those that stand for something of another module with what that is."""

    names: dict[str, Target | None]
    is_class: bool = False


class _Resolve(ast.NodeTransformer):
    """Puts the new names in their places, in one module. An outermost function is told in `reads` which names of the
    namespace it reads that still are called as they were."""

    def __init__(self, parts: Mapping[str, Part], part: Part, names: Mapping[Target, str]) -> None:
        self._parts, self._part, self._names = parts, part, names
        self._scopes: list[_Scope] = []
        self._globals: set[str] = set()
        self._shared: set[str] = set()  # names of modules' variables that the function at hand sets

    def visit_Name(self, node: ast.Name) -> ast.expr:
        target = self._target(node.id)
        if not target and not any(node.id in scope.names for scope in self._scopes):
            self._globals.add(node.id)
        return ast.Name(self._name(target), node.ctx) if target else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        target = self._target(node.value.id) if isinstance(node.value, ast.Name) else None
        if not target or target[1] != WHOLE:
            return self.generic_visit(node)
        found = self._follow(target[0], node.attr)
        if found is None:  # what that module itself imports from elsewhere
            return ast.Name(node.attr, node.ctx)
        if not isinstance(node.ctx, ast.Load):
            self._shared.add(self._name(found))
        return ast.Name(self._name(found), node.ctx)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        for kind in ("decorator_list", "bases", "keywords"):
            setattr(node, kind, [self.visit(each) for each in getattr(node, kind)])
        node.name = self._bound(node.name)
        bound = dict.fromkeys(name for each in node.body for name in binds(each))
        return self._inside(node, _Scope(bound, is_class=True))

    def visit_FunctionDef(self, node: lean.Function) -> ast.AST:
        node.decorator_list = [self.visit(each) for each in node.decorator_list]
        node.name = self._bound(node.name)
        if all(scope.is_class for scope in self._scopes):
            node.reads = self._globals = set()
        node.args = self._outside_of(node.args)
        node.returns = node.returns and self.visit(node.returns)
        inner = [each for statement in node.body for each in _shallow(statement)]
        shared = {name for each in inner if isinstance(each, (ast.Global, ast.Nonlocal)) for name in each.names}
        bound = _arguments(node.args).union(*map(binds, node.body))
        scope = _Scope(dict.fromkeys(sorted(bound - shared)))
        for each in inner:
            if isinstance(each, ast.ImportFrom):
                for alias in each.names:
                    one = ast.ImportFrom(each.module, [alias], each.level)
                    scope.names[alias.asname or alias.name] = targets(one, self._parts)
        before, self._shared = self._shared, set()
        self._inside(node, scope)
        if self._shared:
            node.body.insert(0, ast.Global(names=sorted(self._shared)))
        self._shared = before
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        node.args = self._outside_of(node.args)
        self._scopes.append(_Scope(dict.fromkeys(_arguments(node.args))))
        node.body = self.visit(node.body)
        self._scopes.pop()
        return node

    def _comprehension(self, node: ast.AST) -> ast.AST:
        first = node.generators[0]
        first.iter = self.visit(first.iter)
        iterable, first.iter = first.iter, ast.Constant(0)
        self._scopes.append(_Scope(dict.fromkeys(name for each in node.generators for name in binds(each.target))))
        self.generic_visit(node)
        self._scopes.pop()
        first.iter = iterable
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        """One inside a function: what is of the program is there already."""
        node.names = [each for each in node.names if not targets(ast.ImportFrom(node.module, [each]), self._parts)]
        return node if node.names else ast.Pass()

    def visit_Global(self, node: ast.Global) -> ast.AST:
        node.names = [self._names.get((self._part.name, name), name) for name in node.names]
        return node

    def _inside(self, node: ast.AST, scope: _Scope) -> ast.AST:
        self._scopes.append(scope)
        body = [self.visit(each) for each in node.body]
        node.body = body
        self._scopes.pop()
        return node

    def _outside_of(self, arguments: ast.arguments) -> ast.arguments:
        """Defaults and annotations, which are read where a function is defined."""
        return self.generic_visit(arguments)

    def _bound(self, name: str) -> str:
        """What a definition here is called."""
        return name if self._scopes else self._names[self._part.name, name]

    def _target(self, name: str) -> Target | None:
        """What a name means here, if that is something of the program's modules."""
        for place, scope in enumerate(reversed(self._scopes)):
            if name in scope.names and not (scope.is_class and place):
                return scope.names[name] and self._follow(*scope.names[name])
        return self._follow(self._part.name, name)

    def _name(self, target: Target) -> str:
        if target[1] == WHOLE:
            raise SpecError(f"{self._part.name} uses the module {target[0]} as a value; import what it needs of it")
        return self._names[target]

    def _follow(self, module: str, name: str) -> Target | None:
        """Where a module's name is defined. None for one that the module has from elsewhere."""
        if name == WHOLE or name in self._parts[module].own:
            return module, name
        if name in self._parts[module].targets:
            return self._follow(*self._parts[module].targets[name])
        return None


def binds(node: ast.AST) -> Iterator[str]:
    """Names that a statement binds in the scope it stands in."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
            return
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in names)
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.ExceptHandler(name=str(name)):
            yield name
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
            yield name
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp() | ast.Lambda():
            walrus = (each.target.id for each in ast.walk(node) if isinstance(each, ast.NamedExpr))
            yield from walrus
            return
    for child in ast.iter_child_nodes(node):
        yield from binds(child)


def _spelled(node: ast.AST) -> Iterator[str]:
    return (value for _, value in ast.iter_fields(node) if isinstance(value, str))


def _arguments(arguments: ast.arguments) -> set[str]:
    return {each.arg for each in ast.walk(arguments) if isinstance(each, ast.arg)}


def _shallow(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, but for what is inside functions and classes."""
    yield node
    if not isinstance(node, (*lean.Function.__args__, ast.ClassDef, ast.Lambda)):
        for child in ast.iter_child_nodes(node):
            yield from _shallow(child)
