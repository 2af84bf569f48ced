"""A finished recipe as the text of a Python module: the imports it needs and the expression that makes it anew."""

from __future__ import annotations

import ast
import tempfile
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from golf import recipe as recipes
from golf.contracts import SpecError
from golf.recipe import Recipe

NAME = "RECIPE"
PLAIN = (bool, int, float, str, type(None))


def module_text(recipe: Recipe, source: str, module: str) -> str:
    """`source`, the text of the record's `module`, with its `RECIPE` spelled out as a value.

    Fields that have their defaults are left out. The record's other statements stay in front, because classes of
    the recipe may be among them. Raises SpecError for a value that cannot be spelled or does not come out equal.
    """
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not _assigns(node, NAME)]
    speller = _Speller(module, taken={name for node in ast.walk(tree) for name in _names(node)})
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            speller.aliases |= {(node.module, each.name): each.asname or each.name for each in node.names}
    value = speller.spell(recipe)
    text = "\n".join([ast.unparse(tree), *speller.imports, f"{NAME} = {value}\n"])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.py"
        file.write_text(text, encoding="utf-8")
        again = recipes.load(file)
    if repr(again) != repr(recipe) or again.digest != recipe.digest:
        raise SpecError(f"{value} is another recipe than {recipe!r}; keep to plain values and frozen dataclasses")
    return text


@dataclass
class _Speller:
    """home: the module that spells.  taken: names it uses already.  aliases: what it calls (module, class)."""

    home: str
    taken: set[str]
    aliases: dict[tuple[str, str], str] = field(default_factory=dict)
    imports: list[str] = field(default_factory=list)

    def spell(self, value: Any) -> str:
        """An expression for `value`."""
        if is_dataclass(value) and not isinstance(value, type):
            given = [each for each in fields(value) if each.init and not _is_default(value, each)]
            texts = [f"{each.name}={self.spell(getattr(value, each.name))}" for each in given]
            return f"{self._class(type(value).__module__, type(value).__qualname__)}({', '.join(texts)})"
        if isinstance(value, Path):
            return f"{self._class('pathlib', 'Path')}({str(value)!r})"
        match value:
            case tuple():
                return f"({''.join(self.spell(item) + ', ' for item in value)})"
            case list():
                return f"[{', '.join(map(self.spell, value))}]"
            case dict():
                return f"{{{', '.join(f'{self.spell(key)}: {self.spell(item)}' for key, item in value.items())}}}"
            case float() if repr(value)[-1] in "fn":  # inf and nan are no literals
                return f"float({str(value)!r})"
        if type(value) in PLAIN:
            return repr(value)
        raise SpecError(f"a bundle cannot spell {value!r} of a recipe; use plain values and frozen dataclasses")

    def _class(self, module: str, name: str) -> str:
        """What the class is called here; imports it the first time."""
        top, *inner = name.split(".")
        if module == self.home:
            return name
        if (module, top) not in self.aliases:
            alias = top
            while alias in self.taken:
                alias += "_"
            self.taken.add(alias)
            self.aliases[module, top] = alias
            self.imports.append(f"from {module} import {top} as {alias}")
        return ".".join([self.aliases[module, top], *inner])


def _is_default(value: Any, each: Field) -> bool:
    """Whether a field holds its default, the type included: a digest tells 1 from 1.0."""
    default = each.default if each.default_factory is MISSING else each.default_factory()
    return default is not MISSING and repr(default) == repr(getattr(value, each.name))


def _assigns(node: ast.stmt, name: str) -> bool:
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _names(node: ast.AST) -> set[str]:
    """Names that one node binds or reads."""
    spelled = (getattr(node, kind, None) for kind in ("id", "name", "asname"))
    return {name for name in spelled if isinstance(name, str)}
