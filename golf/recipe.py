"""A recipe: one frozen value that names data, model, training, quantization, packing and evaluation."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib.util
import json
import types
import typing
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from golf.contracts import DataSpec, Evaluation, Init, ModelSpec, SpecError
from golf.pack.container import PackSpec
from golf.quant.apply import Plan
from golf.train.spec import TrainSpec


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a run depends on besides its seed. A record is a file that spells one as `RECIPE`.

    init: weights to continue from; None: the family's own random ones.
    """

    track: str
    data: DataSpec
    model: ModelSpec
    train: TrainSpec
    quant: Plan
    pack: PackSpec
    eval: Evaluation
    init: Init | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe's values, independent of where its classes live."""
        return hashlib.sha256(json.dumps(to_json(self), sort_keys=True).encode()).hexdigest()

    def override(self, path: str, text: str) -> Recipe:
        """A copy with the field at a dotted path set from text, parsed by the field's own type.

        Raises SpecError for an unknown field (with the nearest one) or text of the wrong type.
        """
        return override(self, path, text)

    def tiny(self) -> Recipe:
        """The same features at a size that runs in seconds on a CPU; data and vocabulary stay as they are, weights of
        the full size are not continued from."""
        train, stages = self.train, self.train.stages
        stages = tuple(replace(s, seq_len=s.seq_len and 64 * s.seq_len // train.seq_len) for s in stages)
        schedule = train.schedule and train.schedule.tiny()
        sizes = {"steps": 6, "batch_tokens": 1024, "seq_len": 64, "rows": 8}
        train = replace(train, seconds=None, stages=stages, schedule=schedule, **sizes)
        calibration = replace(self.quant.calibration, sequences=8)
        return replace(
            self,
            model=self.model.tiny(),
            train=train,
            quant=replace(self.quant, calibration=calibration),
            eval=self.eval.tiny(),
            init=None,
        )


def load(record: Path) -> Recipe:
    """The `RECIPE` of a record folder or of a recipe file. Raises SpecError when there is none."""
    file = record / "recipe.py" if record.is_dir() else record
    if not file.is_file() or file.suffix != ".py":
        raise SpecError(f"no recipe at {file}; name a record folder such as records/<track>/<date>_<name>")
    spec = importlib.util.spec_from_file_location("golf_record", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SpecError:
        raise
    except (ImportError, SyntaxError, NameError, TypeError, AttributeError, ArithmeticError, LookupError,
            ValueError) as error:  # fmt: skip
        raise SpecError(f"{file} cannot be read as a recipe: {error}") from error
    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise SpecError(f"{file} must define RECIPE = Recipe(...), found {type(recipe).__name__}")
    return recipe


def assign(recipe: Any, assignments: typing.Iterable[str]) -> Any:
    """A recipe (or any frozen dataclass) with `path=value` texts applied, all at once: values that only make sense
    together may come in any order, and a later text for the same path wins.

    Raises SpecError when one has no equals sign, an unknown path or a value that does not fit.
    """
    tree: dict[str, Any] = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        if not equals:
            raise SpecError(f"--set {text!r} has no '='; write path=value, such as train.seconds=60")
        *owners, last = (name.strip() for name in path.split("."))
        place = tree
        for name in owners:
            place = place.setdefault(name, {})
            if isinstance(place, str):
                raise SpecError(f"--set {path.strip()}: {name!r} is set as a whole by another --set; drop one")
        if isinstance(place.get(last), dict):
            raise SpecError(f"--set {path.strip()}: another --set names a field of it; drop one")
        place[last] = value.strip()
    return _assign(recipe, tree, "")


def override(value: Any, path: str, text: str) -> Any:
    """`Recipe.override` for any frozen dataclass."""
    return assign(value, [f"{path}={text}"])


def to_json(value: Any) -> Any:
    """Plain JSON of a specification: a dataclass becomes its class name and its fields."""
    if is_dataclass(value):
        return {"type": type(value).__name__} | {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def _assign(owner: Any, tree: dict[str, Any], where: str) -> Any:
    """`owner` with every leaf of `tree` parsed and set; each dataclass is made anew, and so checked, once."""
    changed = {}
    for name, below in tree.items():
        path = f"{where}.{name}" if where else name
        hint = _hint(owner, name, path)
        if isinstance(below, str):
            changed[name] = parse(below, hint, f"{type(owner).__name__}.{name}")
        elif isinstance(owner, tuple):
            changed[name] = _assign(owner[int(name)], below, path)
        else:
            changed[name] = _assign(getattr(owner, name), below, path)
    if isinstance(owner, tuple):
        return tuple(changed.get(str(place), item) for place, item in enumerate(owner))
    return replace(owner, **changed)


def _hint(owner: Any, name: str, path: str) -> Any:
    """The type of the field `name` of a specification, or of an item of a tuple. Raises SpecError for none such."""
    if isinstance(owner, tuple):
        if not name.isdigit() or int(name) >= len(owner):
            raise SpecError(f"--set {path}: {name!r} is no index of a tuple of {len(owner)}")
        return type(owner[int(name)])
    if not is_dataclass(owner):
        raise SpecError(f"--set {path}: {type(owner).__name__} value {owner!r} has no field {name!r}")
    names = [field.name for field in fields(owner)]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}"
        raise SpecError(f"{type(owner).__name__} has no field {name!r}; {hint}")
    return typing.get_type_hints(type(owner))[name]


def parse(text: str, hint: Any, what: str) -> Any:
    """A value of type `hint` spelled by text: numbers, yes/no, names, `none`, comma-separated tuples.

    Raises SpecError that names the field, the text and what it takes.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    wrong = SpecError(f"{what} takes {describe(hint)}, not {text!r}")
    if origin in (typing.Union, types.UnionType):
        if type(None) in args and text.lower() == "none":
            return None
        for choice in args:
            if choice is not type(None):
                try:
                    return parse(text, choice, what)
                except SpecError:
                    continue  # the next member of the union may take it
        raise wrong
    if origin is typing.Literal:
        for choice in args:
            if text == str(choice):
                return choice
        raise wrong
    if origin is tuple:
        parts = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()]
        if args[-1] is not Ellipsis and len(parts) != len(args):
            raise wrong
        kinds = [args[0]] * len(parts) if args[-1] is Ellipsis else args
        return tuple(parse(part, kind, what) for part, kind in zip(parts, kinds))
    if hint is bool:
        if text.lower() not in _TRUTH:
            raise wrong
        return _TRUTH[text.lower()]
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise wrong from None
    if hint in (str, Path):
        return hint(text)
    field = what.split(".")[-1]
    raise SpecError(f"{what} is a {describe(hint)}; set one of its fields instead, as in {field}.<field>=...")


_TRUTH = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)


def describe(hint: Any) -> str:
    """A type in words a user can act on: "int or none", "one of 'auto', 'on', 'off'"."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if arg is type(None) else describe(arg) for arg in args)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(arg) for arg in args)
    if origin is tuple:
        return f"comma-separated {describe(args[0])} values"
    if dataclasses.is_dataclass(hint):
        return hint.__name__
    return {bool: "true or false"}.get(hint, getattr(hint, "__name__", str(hint)))
