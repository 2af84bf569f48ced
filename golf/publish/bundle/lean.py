"""What a finished program can do without, cut from the syntax tree of each module.

Docstrings, `if TYPE_CHECKING`, annotations that nobody reads, and prose: where the library raises one of its
errors with a sentence, the bundle raises it with the line where the sentence stands in its module of golf:
`DataError: 48` is line 48 of a module that raises DataError there.
"""

from __future__ import annotations

import ast
import builtins
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from torch import nn

# Decorators that neither register what they decorate nor read its annotations. Under any other one (a custom
# operator, a Triton kernel) a function keeps its annotations and is never left out.
PLAIN_DECORATORS = frozenset(
    "cache cached_property classmethod compile contextmanager dataclass inference_mode lru_cache no_grad "
    "property runtime_checkable setter staticmethod total_ordering".split()
)
# In an annotation these change what the field is; all others only say something about it.
MARKERS = frozenset(("ClassVar", "InitVar", "KW_ONLY"))

# A constant is written out where it is read when that takes no more characters than this, all places together.
INLINE = 24

Function = ast.FunctionDef | ast.AsyncFunctionDef


def strip(tree: ast.Module) -> ast.Module:
    """The tree without prose and without annotations of functions and variables. Those of class attributes stay
    for `shorten_fields`: fields and protocols are made of them."""
    return plain_class_variables(_Strip().visit(tree))


def shorten_fields(tree: ast.Module) -> ast.Module:
    """The tree of a module whose field types nobody looks up: an annotation only says that there is a field."""
    return ast.fix_missing_locations(_ShortenFields().visit(tree))


def without_future(tree: ast.Module) -> ast.Module:
    """The tree without `from __future__ import annotations`, unless an annotation is left that may need it."""
    known = set(dir(builtins))
    for statement in tree.body:
        for node in ast.walk(statement):
            for note in (getattr(node, "annotation", None), getattr(node, "returns", None)):
                if note and any(isinstance(each, ast.Name) and each.id not in known for each in ast.walk(note)):
                    return tree
        known |= {name for child in ast.walk(statement) for name in _bound(child)}
    body = [node for node in tree.body if not (isinstance(node, ast.ImportFrom) and node.module == "__future__")]
    return ast.Module(body=body, type_ignores=[])


def inline_constants(tree: ast.Module, keep: Collection[str]) -> ast.Module:
    """The tree with numbers and short texts in the place of the names that its top level gives them.

    keep: names that other modules ask for.
    """
    reads = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    stores = Counter(
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    )
    shadowed = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    values: dict[str, ast.expr] = {}
    body: list[ast.stmt] = []
    for statement in split_assignments(tree.body):
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if (
                is_literal(value)
                and name not in keep
                and stores[name] == 1
                and name not in shadowed
                and reads[name] * len(ast.unparse(value)) <= INLINE
            ):
                values[name] = value
            case _:
                body.append(statement)
    tree = ast.Module(body=body, type_ignores=[])
    return ast.fix_missing_locations(_Inline(values).visit(tree))


class _Inline(ast.NodeTransformer):
    def __init__(self, values: Mapping[str, ast.expr]) -> None:
        self._values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.visit(self._values[node.id]) if node.id in self._values else node


def is_literal(value: ast.expr) -> bool:
    """Whether an expression is a number or a text, or computed of such: immutable and the same each time."""
    parts = (ast.Constant, ast.UnaryOp, ast.BinOp, ast.operator, ast.unaryop)
    return all(isinstance(node, parts) for node in ast.walk(value))


def split_assignments(statements: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """`A = 1` and `B = 2` instead of `A, B = 1, 2`, where the values are literals."""
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)) if len(names) == len(
                values
            ) and all(map(is_literal, values)):
                yield from (ast.Assign(targets=[name], value=value) for name, value in zip(names, values))
            case _:
                yield statement


def has_plain_decorators(node: Function | ast.ClassDef) -> bool:
    return {last_name(decorator) for decorator in node.decorator_list} <= PLAIN_DECORATORS


def is_frozen(node: ast.ClassDef) -> bool:
    """Whether a class is decorated `@dataclass(frozen=True)`."""
    frozen = (ast.unparse(option) for each in node.decorator_list for option in getattr(each, "keywords", ()))
    return "dataclass" in map(last_name, node.decorator_list) and "frozen=True" in frozen


def spare_methods(node: ast.ClassDef, bases: Collection[str]) -> list[ast.stmt]:
    """Methods that a class can do without unless somebody spells their names.

    bases: what it inherits from outside the program, in the end. Those may call its methods, except where one is
    known: `nn.Module`. A `__post_init__` that sets nothing only checks what is no longer in question: the values of a
    finished recipe.
    """
    own = set(bases) <= {"Protocol", "nn.Module"}
    called = dir(nn.Module) if "nn.Module" in bases else ()

    def is_spare(method: Function) -> bool:
        if is_frozen(node) and only_checks(method):
            return True
        return own and not method.name.startswith("__") and method.name not in called

    return [item for item in node.body if isinstance(item, Function) and has_plain_decorators(item) and is_spare(item)]


def only_checks(method: Function) -> bool:
    """Whether a method of a frozen dataclass is a `__post_init__` that sets no field."""
    setters = (isinstance(node, ast.Attribute) and node.attr == "__setattr__" for node in ast.walk(method))
    return method.name == "__post_init__" and not any(setters)


def last_name(node: ast.expr) -> str:
    """`dataclass` of `@dataclasses.dataclass(frozen=True)`, `ClassVar` of `ClassVar[int]`."""
    match node:
        case ast.Call(func=func):
            return last_name(func)
        case ast.Attribute(attr=attr):
            return attr
        case ast.Name(id=name):
            return name
        case ast.Subscript(value=value):
            return last_name(value)
    return ""


def _is_prose(node: ast.expr) -> bool:
    """Whether an expression has words for people in it."""
    texts = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))
    return any(isinstance(text, str) and " " in text for text in texts)


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
        self.generic_visit(node)
        return _drop_unread(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node in self._fields:
            return self.generic_visit(node)
        return ast.Assign(targets=[node.target], value=self.visit(node.value)) if node.value else ast.Pass()

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        match node.exc:
            case ast.Call(func=ast.Name(id=name), args=[message], keywords=[]) if name.endswith("Error") and _is_prose(
                message
            ):
                node.exc.args = [ast.Constant(node.lineno)]
        return node


def _drop_unread(function: Function) -> Function:
    """A function without assignments that only a message has read: those right before a `raise`."""
    for node in ast.walk(function):
        for block in (getattr(node, "body", None), getattr(node, "orelse", None)):
            while isinstance(block, list) and len(block) > 1 and isinstance(block[-1], ast.Raise):
                match block[-2]:
                    case ast.Assign(targets=[ast.Name(id=name)]) if not is_read(name, function):
                        del block[-2]
                    case _:
                        break
    return function


def is_read(name: str, function: Function) -> bool:
    """Whether a function reads a variable, or shares it with another scope."""
    for node in ast.walk(function):
        if isinstance(node, (ast.Global, ast.Nonlocal)) and name in node.names:
            return True
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load):
            return True
    return False


def _bound(node: ast.AST) -> Iterator[str]:
    """Names that one node binds."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.alias(name=name, asname=alias):
            yield alias or name.partition(".")[0]
        case ast.Name(id=name, ctx=ast.Store()):
            yield name


class _ShortenFields(ast.NodeTransformer):
    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        bases = {last_name(base) for base in node.bases}
        if "dataclass" in map(last_name, node.decorator_list) or "Protocol" in bases:
            note: ast.expr = ast.Constant(0)
        elif bases == {"NamedTuple"}:
            note = ast.Name("int", ast.Load())  # it wants a type
        else:
            return node
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and not spells_marker(item.annotation):
                item.annotation = note
        return node


def plain_class_variables(tree: ast.Module) -> ast.Module:
    """The tree with `x = 1` for `x: ClassVar[int] = 1`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.body = [_without_class_variable(item) for item in node.body]
    return ast.fix_missing_locations(tree)


def _without_class_variable(item: ast.stmt) -> ast.stmt:
    if isinstance(item, ast.AnnAssign) and item.value and last_name(item.annotation) == "ClassVar":
        return ast.Assign(targets=[item.target], value=item.value)
    return item


def spells_marker(annotation: ast.expr) -> bool:
    return bool(MARKERS & {last_name(node) for node in ast.walk(annotation) if isinstance(node, ast.expr)})


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
