"""The annotated types of configs: the configs inside a config, the type at a path, and what a type allows in words."""

import dataclasses
import enum
import json
import types
import typing
from collections.abc import Iterator
from typing import Any

from annotated_types import BaseMetadata

Path = tuple[str | int, ...]

NUMBERS = {int: "a whole number", float: "a number"}
_PLAIN = NUMBERS | {bool: "true or false", str: "text"}
_BOUNDS = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}


def config_class(hint: Any) -> Any:
    """The dataclass that a type is, with or without None beside it; None where the type is something else."""
    kind = bare(hint)
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def config_classes(hint: Any) -> Iterator[type]:
    """The dataclasses that a type is made of, itself included."""
    if config := config_class(hint):
        yield config
        for kind in typing.get_type_hints(config, include_extras=True).values():
            yield from config_classes(kind)
    for argument in typing.get_args(hint):
        yield from config_classes(argument)


def field_paths(hint: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every field of a config, and of the configs in it; nothing where the type is no config."""
    config = config_class(hint)
    for field in dataclasses.fields(config) if config is not None else ():
        yield (*path, field.name)
        yield from field_paths(type_at(config, (field.name,)), (*path, field.name))


def type_at(hint: Any, path: Path) -> Any:
    """The type of what stands at a path below a type, where a number means an element of a list; Any if the type does
    not tell."""
    for part in path:
        config = config_class(hint)
        if isinstance(part, int):
            hint = (typing.get_args(bare(hint)) or (Any,))[0]
        elif config is not None:
            hint = typing.get_type_hints(config, include_extras=True).get(part, Any)
        else:
            return Any
    return hint


def bare(hint: Any) -> Any:
    """A type without its bounds, and without None beside it."""
    return _taken_apart(hint)[0]


def _taken_apart(hint: Any) -> tuple[Any, dict[str, Any], bool]:
    """A type's kind, the bounds that annotate it by their names, and whether None is allowed in its place."""
    if hasattr(hint, "__metadata__"):
        kind, bounds, may_be_none = _taken_apart(hint.__origin__)
        said = [dataclasses.asdict(each) for each in hint.__metadata__ if isinstance(each, BaseMetadata)]  # type: ignore[call-overload]
        return kind, {name: value for each in said for name, value in each.items()} | bounds, may_be_none
    if typing.get_origin(hint) in {types.UnionType, typing.Union}:
        kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
        if len(kinds) == 1:
            return *_taken_apart(kinds[0])[:2], True
    return hint, {}, False


def in_words(hint: Any) -> str:
    """What a type allows: `a whole number above 0, or None (--set: null)`."""
    kind, bounds, may_be_none = _taken_apart(hint)
    return f"{_kind_in_words(kind)}{_bounds_in_words(bounds)}{', or None (--set: null)' if may_be_none else ''}"


def _kind_in_words(kind: Any) -> str:
    arguments = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if values := _values(kind):
        return f"one of {', '.join(map(str, values))}" if len(values) > 1 else str(values[0])
    if origin in {tuple, list}:
        return f"a list such as {_example(arguments[0])}, each {in_words(arguments[0])}"
    if config := config_class(kind):
        return (
            f"{config.__name__}(...), with the fields {', '.join(field.name for field in dataclasses.fields(config))}"
        )
    if origin is not None:
        return " or ".join(in_words(each) for each in arguments)
    return _PLAIN.get(kind) or str(getattr(kind, "__name__", kind))


def _values(kind: Any) -> list[Any]:
    """The values that a type lists; none where it does not."""
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return [each.value for each in kind]
    return list(typing.get_args(kind)) if typing.get_origin(kind) is typing.Literal else []


def _example(kind: Any) -> str:
    """A list of such values, as JSON and Python write it."""
    if kind is str:
        return '["...", "..."]'
    return json.dumps(_values(kind)[:2]) if _values(kind) else "[..., ...]"


def _bounds_in_words(bounds: dict[str, Any]) -> str:
    if {"ge", "le"} <= bounds.keys():
        return f" from {bounds['ge']} to {bounds['le']}"
    said = [f"{words} {bounds[name]}" for name, words in _BOUNDS.items() if name in bounds]
    return f" {' and '.join(said)}" if said else ""
