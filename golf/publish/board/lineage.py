"""What one recipe changes against another, from their plain values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

ABSENT = "(absent)"


class Change(NamedTuple):
    """A recipe's field, by its path, with its value in the parent and in the child, as texts."""

    path: str
    before: str
    after: str


def changes(parent: dict[str, Any], child: dict[str, Any]) -> list[Change]:
    """Fields that differ, in the child's order; a field one of them does not have is `(absent)` there."""
    old, new = dict(flat(parent)), dict(flat(child))
    paths = [*new, *(path for path in old if path not in new)]
    return [
        Change(path, old.get(path, ABSENT), new.get(path, ABSENT))
        for path in paths
        if old.get(path, ABSENT) != new.get(path, ABSENT)
    ]


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(dotted path, text) of every leaf. A list of plain values is one leaf; a specification's class is its own."""
    if isinstance(value, dict):
        if path:
            yield path, str(value.get("type", "{}"))
        for name, below in value.items():
            if name != "type":
                yield from flat(below, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for place, item in enumerate(value):
            yield from flat(item, f"{path}.{place}")
    else:
        yield path, spell(value)


def spell(value: Any) -> str:
    """A leaf as `--set` would take it."""
    if isinstance(value, list):
        return ",".join(map(spell, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)


def caption(spec: Any) -> str:
    """A specification in one line: `GPTQ(bits=7, k=15.0)`."""
    if isinstance(spec, dict):
        inner = ", ".join(f"{name}={caption(below)}" for name, below in spec.items() if name != "type")
        return f"{spec.get('type', 'dict')}({inner})"
    if isinstance(spec, list):
        return f"({', '.join(map(caption, spec))})"
    return spell(spec)
