"""No dead knobs: every field of a specification is read by code that acts on it, not just by validation."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def specs(tree: ast.AST) -> list[ast.ClassDef]:
    """Classes decorated `@dataclass(frozen=True, kw_only=True)`: values spelled field by field."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            options = [
                {
                    keyword.arg
                    for keyword in decorator.keywords
                    if getattr(keyword.value, "value", None) is True
                }
                for decorator in node.decorator_list
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("dataclass")
            ]
            found += [node for each in options if {"frozen", "kw_only"} <= each]
    return found


def fields(node: ast.ClassDef) -> list[str]:
    """Names of the dataclass fields a class spells itself."""
    return [
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and "ClassVar" not in ast.unparse(item)
    ]


def reads(tree: ast.AST) -> Counter[str]:
    """How often each name is read as an attribute of something, or spelled as a string (getattr, a table)."""
    return Counter(
        node.attr if isinstance(node, ast.Attribute) else node.value
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load))
        or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    )


def walked(tree: ast.AST) -> set[str]:
    """Classes all of whose fields are taken by `fields(Class)`: results, which are read and written whole."""
    return {
        node.args[0].id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("fields")
        and isinstance(node.args[0], ast.Name)
    }


def unread(trees: list[ast.AST]) -> list[str]:
    """`Class.field` of each field that nothing but its own class's `__post_init__` reads."""
    total = sum((reads(tree) for tree in trees), Counter())
    whole = set().union(*map(walked, trees))
    dead = []
    for node in (node for tree in trees for node in specs(tree) if node.name not in whole):
        checks = [
            item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__post_init__"
        ]
        own = sum((reads(check) for check in checks), Counter())
        dead += [f"{node.name}.{name}" for name in fields(node) if total[name] <= own[name]]
    return dead


def test_every_field_is_read():
    files = sorted((ROOT / "golf").rglob("*.py"))
    assert unread([ast.parse(file.read_text(encoding="utf-8")) for file in files]) == []


SPEC = """
@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    width: int = 3
    depth: int = 2
    beta2: float = 0.9

    def __post_init__(self):
        if self.beta2 > 1 or self.width < 1:
            raise ValueError(self.beta2)

    def build(self):
        return Model(self.width)
"""


def test_a_field_that_only_its_validation_reads_is_found():
    assert unread([ast.parse(SPEC)]) == ["Spec.depth", "Spec.beta2"]


def test_a_read_anywhere_else_is_enough_and_a_write_is_not():
    assert unread([ast.parse(SPEC), ast.parse("print(spec.depth)\noptimizer.beta2 = 1")]) == ["Spec.beta2"]
    assert unread([ast.parse(SPEC), ast.parse("print(spec.depth, getattr(spec, 'beta2'))")]) == []


def test_results_are_read_whole():
    assert unread([ast.parse(SPEC), ast.parse("known = {field.name for field in fields(Spec)}")]) == []
