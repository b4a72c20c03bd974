"""A user's own recipe file -> what the recipe in it returns, or the line at which it failed, and why."""

import dataclasses
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from infra.config_validation import shown
from infra.errors import ConfigError, nearest

_NO_SUCH_FIELD = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


def call(recipe: str, kinds: Iterable[type]) -> Any:
    """What `path/to/file.py:function` returns, unchecked. kinds: classes of configs whose rules are not checked yet.

    Raises ConfigError, in plain words, when there is no such function or it fails.
    """
    path, _, name = recipe.rpartition(":")
    if not Path(path).exists():
        raise ConfigError(f"There is no recipe file {path!r} on this machine. Write path/to/file.py:function")
    spec = importlib.util.spec_from_file_location("user_recipe", path)
    if not Path(path).is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"Recipe file {path!r} is not a Python file. Write path/to/file.py:function")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass in it looks its annotations up there
    try:
        with _without_post_init(kinds):
            spec.loader.exec_module(module)
            function = getattr(module, name, None)
            if callable(function) and not _required(function):
                return function()
    except (Exception, SystemExit) as error:  # a recipe that calls sys.exit would end us silently
        raise ConfigError(f"{recipe}: {_where(error, path)}{_why(error)}") from error
    if function is None:
        known = [name for name, each in vars(module).items() if inspect.isfunction(each) and name[0] != "_"]
        raise ConfigError(f"{path} has no function {name!r}.{nearest(name, known)}")
    if not callable(function):
        raise ConfigError(f"{recipe} is {shown(function)}, and has to be a function that returns a recipe")
    raise ConfigError(
        f"{recipe} asks for {', '.join(_required(function))}, and a recipe is called with nothing: give defaults"
    )


def _required(function: Any) -> list[str]:
    """Names of the function's arguments without a default."""
    given = inspect.signature(function).parameters.values()
    kinds = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    return [each.name for each in given if each.default is inspect.Parameter.empty and each.kind not in kinds]


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    return traceback.walk_tb(error.__traceback__)


def _where(error: BaseException, path: str) -> str:
    """The last line of the user's own file in the error's traceback."""
    lines = [line for frame, line in _frames(error) if Path(frame.f_code.co_filename) == Path(path).absolute()]
    if isinstance(error, SyntaxError) and error.lineno is not None:
        lines.append(error.lineno)
    return f"line {lines[-1]}: " if lines else ""


def _why(error: BaseException) -> str:
    """A ConfigError, or an unknown field of a config, in words; any other error with its class."""
    if isinstance(error, ConfigError):
        return str(error)
    if found := _NO_SUCH_FIELD.search(str(error)):
        name, field = found.groups()
        known = [each.name for kind in _classes(error, name) for each in dataclasses.fields(kind)]
        return f"{name} has no field {field!r}.{nearest(field, known) if known else ''}"
    return f"{type(error).__name__}: {error}".replace(".__init__()", "")


@contextmanager
def _without_post_init(kinds: Iterable[type]) -> Iterator[None]:
    """Switch `__post_init__` of these classes off, so that a recipe can make configs that break its rules: all that is
    wrong is found afterwards, and a rule that compares numbers would fail on a text with an error of Python's own."""
    rules: dict[Any, Any] = {kind: vars(kind)["__post_init__"] for kind in kinds if "__post_init__" in vars(kind)}
    try:
        for kind in rules:
            kind.__post_init__ = lambda _: None
        yield
    finally:
        for kind, rule in rules.items():
            kind.__post_init__ = rule


def _classes(error: BaseException, name: str) -> list[Any]:
    """The dataclass of this name in the frames of an error, by its name or as the class of a local object."""
    for frame, _ in _frames(error):
        for each in (frame.f_globals.get(name), *map(type, frame.f_locals.values())):
            if isinstance(each, type) and each.__name__ == name and dataclasses.is_dataclass(each):
                return [each]
    return []
