"""What a program can leave unchecked about a file it has just written.

A bundle reads one artifact, its own, a second after it wrote it, and verifies the checksum (`ChecksumError`). The
library's other questions about an artifact (`ArtifactError`) are answered by that, and those about what a model says of
its own parameters (`RoleError`) when the library first trains it, so the bundle does not ask them:
`if ...: raise ArtifactError(...)` goes, and so do handlers that turn other errors into one, loops and functions
that did nothing else, and values that nothing else read. A condition stays when asking it may change something.
"""

from __future__ import annotations

import ast

from golf.publish.bundle.lean import Function, is_read, last_name

TRUSTED = ("ArtifactError", "RoleError")
# Calls that only look.
HARMLESS = frozenset(
    "all any dict get int isinstance issubdtype items keys len list max min product prod set sorted startswith str "
    "sum tuple type values zip".split()
)


def trusting(tree: ast.Module) -> ast.Module:
    """The tree without questions about artifacts. What goes becomes `pass`."""
    tree = _Trust().visit(tree)
    empty = {node.name for node in tree.body if isinstance(node, Function) and getattr(node, "emptied", False)}
    return ast.fix_missing_locations(_WithoutCalls(empty).visit(tree))


def is_harmless(expression: ast.AST) -> bool:
    """Whether computing an expression changes nothing."""
    for node in ast.walk(expression):
        if isinstance(node, (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)):
            return False
        if isinstance(node, ast.Call) and last_name(node.func) not in HARMLESS:
            return False
    return True


def _is_refusal(body: list[ast.stmt]) -> bool:
    match body:
        case [ast.Raise(exc=ast.Call(func=func))]:
            return last_name(func) in TRUSTED
    return False


def _is_nothing(body: list[ast.stmt]) -> bool:
    return all(isinstance(statement, ast.Pass) for statement in body)


class _Trust(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        return ast.Pass() if _is_refusal(node.body) and not node.orelse and is_harmless(node.test) else node

    def visit_For(self, node: ast.For) -> ast.AST:
        self.generic_visit(node)
        return ast.Pass() if _is_nothing(node.body + node.orelse) and is_harmless(node.iter) else node

    def visit_Try(self, node: ast.Try) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        node.handlers = [handler for handler in node.handlers if not _is_refusal(handler.body)]
        while node.handlers and ast.unparse(node.handlers[-1].body) == "raise":  # has nobody behind it to pass over
            node.handlers.pop()
        return node if node.handlers or node.finalbody else node.body + node.orelse

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        was_nothing = _is_nothing(node.body)
        self.generic_visit(node)
        for child in ast.walk(node):
            body = getattr(child, "body", None)
            for place, statement in enumerate(body if isinstance(body, list) else ()):
                match statement:
                    case ast.Assign(targets=[ast.Name(id=name)], value=value) if not is_read(
                        name, node
                    ) and is_harmless(value):
                        child.body[place] = ast.Pass()
        node.emptied = _is_nothing(node.body) and not was_nothing
        return node


class _WithoutCalls(ast.NodeTransformer):
    """Takes out calls of functions that have nothing left to do."""

    def __init__(self, functions: set[str]) -> None:
        self._functions = functions

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        match node.value:
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in self._functions and all(
                map(is_harmless, arguments)
            ):
                return ast.Pass()
        return node
