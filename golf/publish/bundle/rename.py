"""Shorter names, the same in every module of a program.

Renaming every occurrence of a spelling keeps a program what it is, as long as nobody outside it knows that
spelling. Two steps, each of which leaves a name alone when in doubt:

- local names: variables of functions, and parameters that nobody gives by keyword, in order of appearance, so that
  a compressor foresees the next one;
- private names: what modules define at their top, parameters that are given by keyword, and members with a leading
  underscore. Fields of dataclasses stay, because they reach files, and so do members of classes with a foreign base.
"""

from __future__ import annotations

import ast
import builtins
import itertools
import keyword
import re
import string
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

from golf.publish.bundle import lean

_LONE = re.compile(r"[\w.:]+")
RESERVED = frozenset([*keyword.kwlist, *keyword.softkwlist, *dir(builtins)])
_SHARING = (ast.Import, ast.ImportFrom, ast.Global)
# Foreign functions that hand keyword arguments on to one of ours.
CARRIERS = frozenset(("partial", "partialmethod"))


def shorten(trees: Mapping[str, ast.Module]) -> None:
    """Rename in place. trees: every module of the program, by name."""
    facts = _Facts(trees)
    for tree in trees.values():
        _ShortenLocals(facts, {name for node in tree.body for name in _binds(node)}).visit(tree)
    private = facts.private_names()
    spelled = [name for tree in trees.values() for node in _in_order(tree) for name in _spells(node)]
    fresh = _names(string.ascii_lowercase, {*spelled, *RESERVED} - private)
    mapping = {name: next(fresh) for name in dict.fromkeys(spelled) if name in private}
    for tree in trees.values():
        for node in ast.walk(tree):
            _respell(node, mapping, ("id", "arg", "attr", "name", "asname", "rest"))


class _Facts:
    """What the modules of a program say about the names in them.

    functions: names of functions and methods.  classes: their bases.  members: what objects have, or are asked for.
     private: candidates for a short name.  foreign: what other code knows, or what is written to files.
    words: strings that may be names.  looked_up: those in modules that look at signatures.
    keywords: called name to what its calls give by keyword; "" stands for calls of anything, and None for any name.
    handed: names read without being called, so that a call of anything may mean them.
    """

    def __init__(self, trees: Mapping[str, ast.Module]) -> None:
        self._modules, self._tops = frozenset(trees), {name.partition(".")[0] for name in trees}
        self.functions, self.members, self.private = set[str](), set[str](), set[str]()
        self.classes: dict[str, set[str]] = {}
        self.words, self.looked_up, self.foreign = set[str](), set[str](), set(RESERVED)
        self.keywords: dict[str, set[str | None]] = defaultdict(set)
        self._takes_any: set[str] = set()
        self.handed: set[str] = set()
        for tree in trees.values():
            self.private.update(name for node in tree.body for name in _binds(node))
            for node in ast.walk(tree):
                self._note(node)
        for tree in trees.values():
            self._note_uses(tree)

    def private_names(self) -> set[str]:
        own = {name for name in self.private if name not in self.members or name.startswith("_")}
        return {name for name in own - self.foreign - self.words if len(name) > 1 and not name.startswith("__")}

    def _note(self, node: ast.AST) -> None:
        match node:
            case ast.Constant(value=str(text)):
                self.words.update(re.split("[.:]", text) if _LONE.fullmatch(text) else ())
            case ast.Import(names=names):
                for alias in names:
                    self.foreign.update(alias.name.split("."), [alias.asname or ""])
            case ast.ImportFrom(module=module, names=names):
                self.foreign.update(module.split("."))
                for alias in names:
                    if not self._is_ours(module) or f"{module}.{alias.name}" in self._modules:
                        self.foreign.update((alias.name, alias.asname or ""))
            case ast.ClassDef():
                self.classes[node.name] = {lean.last_name(base) for base in node.bases}
                self._note_class(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self.functions.add(node.name)
                self.private.update(each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg))
                if node.args.kwarg:
                    self._takes_any.add(node.name)
                if not lean.has_plain_decorators(node):
                    self.foreign.update(name for each in ast.walk(node) for name in _spells(each))
            case ast.Attribute(attr=name, ctx=ast.Store()):
                self.private.add(name)

    def _note_class(self, node: ast.ClassDef) -> None:
        members = {name for item in node.body for name in _binds(item)}
        self.private |= members
        if "dataclass" in map(lean.last_name, node.decorator_list):
            self.foreign.update((node.name, *(name for item in node.body for name in _fields(item))))
        if node.bases:
            stored = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute) and _is_stored(each)}
            self.foreign |= {node.name} | members | stored

    def _note_uses(self, tree: ast.Module) -> None:
        modules, outside = self._imported(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and not _is_named(node.value, modules):
                self.members.add(node.attr)
            elif isinstance(node, ast.ClassDef):
                self.members.update(name for item in node.body for name in _binds(item))
        if "inspect" in outside:
            texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
            self.looked_up.update(text for text in texts if isinstance(text, str))
        functions = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if isinstance(node, (ast.Name, ast.Attribute)) and id(node) not in functions:
                self.handed.add(lean.last_name(node))
            if isinstance(node, ast.Call):
                given = {each.arg for each in node.keywords}
                if self._may_be_ours(node.func, outside):
                    called = lean.last_name(node.func)
                    self.keywords[called if called in self.functions | self.classes.keys() else ""] |= given
                if not self._is_surely_ours(node.func, modules, outside):
                    self.foreign |= given - {None}

    def given(self, function: str, owner: str) -> set[str | None]:
        """What calls may give by keyword to a function of the class `owner` (or of none); with None, anything."""
        given = self.keywords[""] - {None} | self.keywords[function]
        if None in self.keywords[""] and function in self.handed:
            # A mapping may be given to it. Its keys come from somewhere: strings or other calls' keywords.
            given = given.union(self.words, *self.keywords.values()) - {None}
        if function == "__init__":
            heirs = {name for name, bases in self.classes.items() if owner in bases}
            given = given.union(self.keywords[owner], *(self.given(function, heir) for heir in heirs))
        return given

    def _imported(self, tree: ast.Module) -> tuple[set[str], set[str]]:
        """Names in a module of modules of the program, and of everything that is not of the program."""
        modules, outside = set(), set(RESERVED)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                outside |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if f"{node.module}.{alias.name}" in self._modules:
                        modules.add(alias.asname or alias.name)
                    elif not self._is_ours(node.module):
                        outside.add(alias.asname or alias.name)
        shadowed = {name for node in ast.walk(tree) for name in _variables(node)}
        return modules - shadowed, outside - shadowed - self._tops - CARRIERS

    def _is_ours(self, module: str) -> bool:
        return module.partition(".")[0] in self._tops

    def _may_be_ours(self, called: ast.expr, outside: set[str]) -> bool:
        """Whether a call may reach a function of the program."""
        match called:
            case ast.Name(id=name):
                return name not in outside
            case ast.Attribute(attr=name):
                known = self.functions | self.classes.keys() | self.private | CARRIERS
                return name in known and not _is_named(_root(called), outside)
        return True

    def _is_surely_ours(self, called: ast.expr, modules: set[str], outside: set[str]) -> bool:
        """Whether a call reaches nothing else, and nothing that makes use of the names it is given."""
        match called:
            case ast.Name(id=name):
                ours = name not in outside
            case ast.Attribute(value=owner, attr=name):
                ours = _is_named(owner, modules) or name.startswith("_")
            case _:
                return False
        return ours and name in (self.functions | self.classes.keys()) - self._takes_any


class _ShortenLocals(ast.NodeTransformer):
    """Renames in each outermost function, whose inner functions and comprehensions share its spellings.

    top: names that the module itself binds.
    """

    def __init__(self, facts: _Facts, top: set[str]) -> None:
        self._facts, self._top = facts, top
        self._owner = ""

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self._owner = node.name
        self.generic_visit(node)
        self._owner = ""
        return node

    def visit_FunctionDef(self, node: lean.Function) -> ast.AST:
        inner = list(_in_order(node))[1:]
        if not lean.has_plain_decorators(node) or any(isinstance(each, ast.ClassDef) for each in inner):
            return node
        functions = [each for each in (node, *inner) if isinstance(each, lean.Function)]
        given = self._facts.looked_up.union(*(self._facts.given(each.name, self._owner) for each in functions))
        parameters = {each.arg for each in inner if isinstance(each, ast.arg)}
        shared = {name for each in inner if isinstance(each, _SHARING) for name in _binds(each)}
        top = self._top & getattr(node, "reads", self._top)
        kept = top | shared | RESERVED | (parameters if None in given else parameters & given)
        variables = dict.fromkeys(name for each in inner for name in sorted(_variables(each)))
        local = [name for name in variables if name not in kept and not name.startswith("__")]
        used = {name for each in inner for name in _spells(each)} - set(local)
        fresh = _names(string.ascii_uppercase, used)
        mapping = {name: next(fresh) for name in local}
        for each in inner:
            if not isinstance(each, (ast.keyword, ast.alias)):
                _respell(each, mapping, ("id", "arg", "name", "rest"))
        return node

    visit_AsyncFunctionDef = visit_FunctionDef


def _spells(node: ast.AST) -> Iterator[str]:
    """Names in one node."""
    for kind in ("id", "arg", "attr", "name", "asname", "rest"):
        if isinstance(name := getattr(node, kind, None), str):
            yield name
    if isinstance(node, (ast.Global, ast.Nonlocal)):
        yield from node.names


def _respell(node: ast.AST, mapping: Mapping[str, str], kinds: Collection[str]) -> None:
    for kind in kinds:
        if isinstance(name := getattr(node, kind, None), str):
            setattr(node, kind, mapping.get(name, name))
    if isinstance(node, (ast.Global, ast.Nonlocal)):
        node.names = [mapping.get(name, name) for name in node.names]


def _variables(node: ast.AST) -> set[str]:
    """Names that one node makes variables of a function."""
    match node:
        case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            return {name}
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return {name}
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            return {name}
        case ast.MatchMapping(rest=str(name)):
            return {name}
    return set()


def _binds(statement: ast.AST) -> set[str]:
    """Names that a statement of a module or class binds in it, at any depth but inside functions and classes."""
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return {alias.asname or alias.name.partition(".")[0] for alias in names}
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            return set(names)
    return _variables(statement) | {name for child in ast.iter_child_nodes(statement) for name in _binds(child)}


def _fields(statement: ast.stmt) -> set[str]:
    return _binds(statement.target) if isinstance(statement, ast.AnnAssign) else set()


def _is_stored(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store)


def _is_named(node: ast.AST, names: set[str]) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def _root(node: ast.expr) -> ast.expr:
    """`torch` of `torch.nn.init`."""
    return _root(node.value) if isinstance(node, ast.Attribute) else node


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, in the order of the text."""
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _in_order(child)


def _names(letters: str, taken: Collection[str]) -> Iterator[str]:
    """Short names in order of length: a, b, ..., aa, ab, ..."""
    for length in itertools.count(1):
        for name in map("".join, itertools.product(letters, repeat=length)):
            if name not in taken:
                yield name
