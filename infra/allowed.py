"""A value and its annotated type -> the value as that type has it, or what is allowed, in a person's words.

pydantic is imported only when something is checked: it costs more than all of our light modules together.
"""

import dataclasses
import enum
import functools
import json
import reprlib
import types
import typing
from collections.abc import Iterator
from typing import Any

from annotated_types import Ge, Gt, Le, Lt

from infra.errors import nearest
from infra.redaction import redacted

Path = tuple[str | int, ...]

_NUMBERS = {int: "a whole number", float: "a number"}
_PLAIN = _NUMBERS | {bool: "true or false", str: "text"}
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 80


@dataclasses.dataclass(frozen=True)
class Wrong:
    """One thing that is wrong with a value. path: of fields and places below it; given: what stands there."""

    path: Path
    given: str
    why: str

    def told(self, root: str, text: str | None = None) -> str:
        """In one line: `root.field=value: what is allowed`. text: how the whole value was written, where it was."""
        place = root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)
        given = self.given if text is None or self.path else f"={text}"
        return f"{place}{given}: {self.why}"


class NotAllowedError(ValueError):
    """A value is not what its type allows: all that is wrong with it."""

    def __init__(self, wrongs: list[Wrong]) -> None:
        super().__init__(wrongs)
        self.wrongs = wrongs


def validated(hint: Any, value: Any, *, is_text: bool = False) -> Any:
    """The value as the type has it: groups of fields may be given as dicts, and tuples as lists.

    is_text: the value is a text that stands for another value. Raises NotAllowedError with all that is wrong, down to
    the last field; rules between the fields of a group (`__post_init__`) are asked where each of them is right.
    """
    import pydantic

    group = _group(hint)
    if group is not None and isinstance(value, group):
        hint = type(value)  # it may extend ours
    wrongs = {} if is_text else {path: _wrong(hint, path, given) for path, given in _converted(hint, value, ())}
    try:
        (made,) = _adapter(hint).validate_python((value,))
    except pydantic.ValidationError as error:
        for detail in error.errors(include_url=False):
            path = detail["loc"][1:]
            wrongs.setdefault(path, _explained(hint, path, detail))
    if wrongs:
        raise NotAllowedError(list(wrongs.values()))
    return made


@functools.cache
def _adapter(hint: Any) -> Any:
    import pydantic

    config = pydantic.ConfigDict(
        extra="forbid", allow_inf_nan=False, revalidate_instances="always", arbitrary_types_allowed=True
    )
    return pydantic.TypeAdapter(tuple[hint], config=config)  # a dataclass alone takes no config


def _explained(hint: Any, path: Path, detail: Any) -> Wrong:
    """What pydantic found, in a person's words."""
    match detail["type"]:
        case "missing":
            return Wrong(path, "", f"it is missing; allowed is {in_words(_at(hint, path))}")
        case "unexpected_keyword_argument":
            known = [field.name for field in dataclasses.fields(_group(_at(hint, path[:-1])))]
            return Wrong(path, "", f"there is no such field.{nearest(str(path[-1]), known)}")
        case "value_error":
            return Wrong(path, "", str(detail["ctx"]["error"]))
        case "finite_number":
            return Wrong(path, f"={detail['input']}", "allowed is a finite number")
    return _wrong(hint, path, detail["input"])


def _wrong(hint: Any, path: Path, given: Any) -> Wrong:
    return Wrong(path, f"={shown(given)}", f"allowed is {in_words(_at(hint, path))}")


def shown(value: Any) -> str:
    """A value, short enough for an error's line."""
    if isinstance(value, types.FunctionType):
        return f"the function {value.__name__}, which was not called"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}(...)"
    value = value.value if isinstance(value, enum.Enum) else value
    return _SHOWN.repr(redacted(value) if isinstance(value, str) else value)  # a part of a secret is not known as one


def _converted(hint: Any, value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """What pydantic would make something else of: texts and truth values in the place of numbers, sets in that of
    lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _converted(hint, each, (*path, name))
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _converted(hint, each, (*path, number))
    elif isinstance(value, set | frozenset):
        yield path, value  # in another order in each process, so that nothing would ever be up to date
    elif isinstance(value, bool | str):
        kind = _without_none(_at(hint, path))[0]
        if kind in _NUMBERS or (kind is bool and isinstance(value, str)):
            yield path, value


def _at(hint: Any, path: Path) -> Any:
    """The type of what stands at a path below a type; Any where the type says nothing."""
    for part in path:
        group = _group(hint)
        if isinstance(part, int):
            hint = (typing.get_args(_without_none(hint)[0]) or (Any,))[0]
        elif group is not None:
            hint = typing.get_type_hints(group, include_extras=True).get(part, Any)
        else:
            return Any
    return hint


def is_group(hint: Any, attribute: str) -> bool:
    """Whether a type is a dataclass that has this attribute."""
    return hasattr(_group(hint), attribute)


def fields_below(hint: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every field of a group, and of the groups in it."""
    for field in dataclasses.fields(_group(hint)) if _group(hint) is not None else ():
        yield (*path, field.name)
        yield from fields_below(field_type(_group(hint), field.name), (*path, field.name))


def groups_below(hint: Any) -> Iterator[type]:
    """The dataclasses that a type is made of, itself included."""
    if group := _group(hint):
        yield group
        for kind in typing.get_type_hints(group, include_extras=True).values():
            yield from groups_below(kind)
    for argument in typing.get_args(hint):
        yield from groups_below(argument)


def field_type(group: type, name: str) -> Any:
    """The annotated type of a dataclass's field."""
    return _at(group, (name,))


def _group(hint: Any) -> Any:
    """The dataclass that a type is, or None."""
    kind = _without_none(hint)[0]
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def _without_none(hint: Any) -> tuple[Any, tuple[Any, ...], bool]:
    """A type's kind, the bounds that annotate it, and whether None is allowed in its place."""
    may_be_none = False
    bounds: tuple[Any, ...] = ()
    while True:
        if typing.get_origin(hint) in {types.UnionType, typing.Union}:
            kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
            if len(kinds) > 1:
                return hint, bounds, False
            may_be_none, hint = True, kinds[0]
        elif hasattr(hint, "__metadata__"):
            bounds, hint = (*bounds, *hint.__metadata__), hint.__origin__
        else:
            return hint, bounds, may_be_none


def in_words(hint: Any) -> str:
    """What a type allows: `a whole number above 0, or none`."""
    kind, bounds, may_be_none = _without_none(hint)
    return f"{_kind_in_words(kind)}{_bounds_in_words(bounds)}{', or None (--set: null)' if may_be_none else ''}"


def _kind_in_words(kind: Any) -> str:
    arguments = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if values := _values(kind):
        return f"one of {', '.join(map(str, values))}" if len(values) > 1 else str(values[0])
    if origin in {tuple, list}:
        return f"a list such as {_example(arguments[0])}, each {in_words(arguments[0])}"
    if group := _group(kind):
        return f"{group.__name__}(...), with the fields {', '.join(field.name for field in dataclasses.fields(group))}"
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


def _bounds_in_words(bounds: tuple[Any, ...]) -> str:
    said = {type(bound): bound for bound in bounds}
    if Ge in said and Le in said:
        return f" from {said[Ge].ge} to {said[Le].le}"
    words = {
        Gt: lambda bound: f"above {bound.gt}",
        Ge: lambda bound: f"of at least {bound.ge}",
        Lt: lambda bound: f"below {bound.lt}",
        Le: lambda bound: f"of at most {bound.le}",
    }
    told = [say(said[kind]) for kind, say in words.items() if kind in said]
    return f" {' and '.join(told)}" if told else ""
