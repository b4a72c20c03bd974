"""A config and its annotated types -> the config as its types have it, or all that is wrong with it, in plain words.

pydantic checks; this module puts what it finds into words. pydantic is imported only when something is checked: that
takes longer than importing all of our light modules together.
"""

import dataclasses
import enum
import functools
import reprlib
import types
from collections.abc import Iterator, Sequence
from typing import Any

from infra.config_types import NUMBERS, Path, bare, config_class, in_words, type_at
from infra.errors import ConfigError, nearest
from infra.redaction import redacted

_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 80


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a value. path: of fields and list positions below it; given: the value there."""

    path: Path
    given: str
    why: str

    def line(self, root: str, text: str | None = None) -> str:
        """`root.field=value: what is allowed`. text: how the whole value was written, where it was written as text."""
        place = root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)
        given = self.given if text is None or self.path else f"={text}"
        return f"{place}{given}: {self.why}"


class InvalidConfigError(ValueError):
    """A value is not what its type allows. problems: all that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = problems


def validated(hint: Any, value: Any, *, is_text: bool = False) -> Any:
    """The value as the type has it: a config in it may be given as a dict, and a tuple as a list.

    is_text: the value is a text that stands for another value. Raises InvalidConfigError with all that is wrong, down
    to the last field. The rules between the fields of a config (`__post_init__`) are asked once each field is right.
    """
    import pydantic

    config = config_class(hint)
    if config is not None and isinstance(value, config):
        hint = type(value)  # the user's own class, which extends ours
    problems = {} if is_text else {path: _problem(hint, path, given) for path, given in _converted(hint, value, ())}
    try:
        (made,) = _adapter(hint).validate_python((value,))
    except pydantic.ValidationError as error:
        for detail in error.errors(include_url=False):
            path = detail["loc"][1:]
            problems.setdefault(path, _explained(hint, path, detail))
    if problems:
        raise InvalidConfigError(list(problems.values()))
    return made


@functools.cache
def _adapter(hint: Any) -> Any:
    import pydantic

    config = pydantic.ConfigDict(
        extra="forbid", allow_inf_nan=False, revalidate_instances="always", arbitrary_types_allowed=True
    )
    return pydantic.TypeAdapter(tuple[hint], config=config)  # a dataclass alone takes no config


def _explained(hint: Any, path: Path, detail: Any) -> Problem:
    """What pydantic found, in plain words."""
    match detail["type"]:
        case "missing":
            return Problem(path, "", f"it is missing; allowed is {in_words(type_at(hint, path))}")
        case "unexpected_keyword_argument":
            known = [field.name for field in dataclasses.fields(config_class(type_at(hint, path[:-1])))]
            return Problem(path, "", f"there is no such field.{nearest(str(path[-1]), known)}")
        case "value_error":
            return Problem(path, "", str(detail["ctx"]["error"]))
        case "finite_number":
            return Problem(path, f"={detail['input']}", "allowed is a finite number")
    return _problem(hint, path, detail["input"])


def _problem(hint: Any, path: Path, given: Any) -> Problem:
    return Problem(path, f"={shown(given)}", f"allowed is {in_words(type_at(hint, path))}")


def shown(value: Any) -> str:
    """A value, short enough for an error's line."""
    if isinstance(value, types.FunctionType):
        return f"the function {value.__name__}, which was not called"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}(...)"
    value = value.value if isinstance(value, enum.Enum) else value
    return _SHOWN.repr(redacted(value) if isinstance(value, str) else value)  # a part of a secret is not known as one


def _converted(hint: Any, value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Where pydantic would silently convert a value, and so hide a mistake: text and truth values to numbers, text to
    truth values, bytes to text, sets to lists. Its strict mode also refuses what is meant to be allowed: a list for a
    tuple, a text for an enum, a dict for a config."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _converted(hint, each, (*path, name))
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _converted(hint, each, (*path, number))
    elif isinstance(value, set | frozenset | bytes | bytearray):
        yield path, value  # a set has another order in each process, so that nothing would ever be up to date
    elif isinstance(value, bool | str):
        kind = bare(type_at(hint, path))
        if kind in NUMBERS or (kind is bool and isinstance(value, str)):
            yield path, value


def raise_if_any(wrong: Sequence[str], of: str = "") -> None:
    """Raise ConfigError with all that is wrong: in one line, or one below the other."""
    if len(wrong) == 1:
        raise ConfigError(f"{of}{wrong[0]}")
    if wrong:
        raise ConfigError("\n  ".join([f"{of}{len(wrong)} settings are wrong", *wrong]))
