"""What one namespace can do without, once it is known who reads what: branches that are never taken, functions that
give back what they are given, definitions that nobody names."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Mapping

from golf.publish.bundle import lean


def tidied(trees: Mapping[str, ast.Module], private: Collection[str]) -> dict[str, ast.Module]:
    """The modules of one namespace with less in them.

    private: names of the namespace that nothing looks up by their spelling.
    """
    functions = [node for tree in trees.values() for node in tree.body if isinstance(node, ast.FunctionDef)]
    same = {node.name for node in functions if node.name in private and gives_back(node)}
    found = {name: ast.fix_missing_locations(_Simplify(same).visit(tree)) for name, tree in trees.items()}
    while _drop_unread(found, private):
        pass
    return found


def gives_back(node: ast.FunctionDef) -> bool:
    """Whether a function does nothing but return its one argument."""
    match [each for each in node.body if not isinstance(each, ast.Pass)]:
        case [ast.Return(value=ast.Name(id=name))]:
            return ast.unparse(node.args) == name and not node.decorator_list
    return False


class _Simplify(ast.NodeTransformer):
    def __init__(self, same: Collection[str]) -> None:
        self._same = same

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        match node:
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if (
                name in self._same and not isinstance(argument, ast.Starred)
            ):
                return argument
        return node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        match node.test:
            case ast.Constant(value=value):
                return (node.body if value else node.orelse) or ast.Pass()
        return node


def _drop_unread(trees: Mapping[str, ast.Module], private: Collection[str]) -> bool:
    """Take out private functions and classes that only their own bodies name, if any."""
    spelled = Counter(node.id for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.Name))

    def is_unread(node: ast.stmt) -> bool:
        if not isinstance(node, (*lean.Function.__args__, ast.ClassDef)) or node.name not in private:
            return False
        inside = sum(isinstance(each, ast.Name) and each.id == node.name for each in ast.walk(node))
        return lean.has_plain_decorators(node) and spelled[node.name] == inside

    before = sum(len(tree.body) for tree in trees.values())
    for tree in trees.values():
        tree.body = [node for node in tree.body if not is_unread(node)]
    return sum(len(tree.body) for tree in trees.values()) < before
