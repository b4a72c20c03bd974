"""A file of the user's -> what the recipe in it returns, or the line at which it failed and why."""

import dataclasses
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from infra import allowed
from infra.allowed import NotAllowedError
from infra.errors import ConfigError, nearest

_NO_SUCH_FIELD = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


def call(recipe: str) -> Any:
    """What `path/to/file.py:function` returns. Raises ConfigError in a person's words, whatever is wrong with it."""
    path, _, name = recipe.rpartition(":")
    spec = importlib.util.spec_from_file_location("user_recipe", path)
    if not Path(path).is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"Recipe file {path!r} is not a Python file. Write path/to/file.py:function")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass of the user's looks its annotations up
    try:
        spec.loader.exec_module(module)
        function = getattr(module, name, None)
        if callable(function) and not _required(function):
            return function()
    except Exception as error:
        raise ConfigError(f"{recipe}: {_where(error, path)}{_why(error)}") from error
    if function is None:
        known = [name for name, each in vars(module).items() if inspect.isfunction(each) and name[0] != "_"]
        raise ConfigError(f"{path} has no function {name!r}.{nearest(name, known)}")
    if not callable(function):
        raise ConfigError(f"{recipe} is {allowed.shown(function)}, and has to be a function that returns a recipe")
    raise ConfigError(
        f"{recipe} asks for {', '.join(_required(function))}, and a recipe is called with nothing: give defaults"
    )


def _required(function: Any) -> list[str]:
    """Arguments that a call has to give."""
    given = inspect.signature(function).parameters.values()
    kinds = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    return [each.name for each in given if each.default is inspect.Parameter.empty and each.kind not in kinds]


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    return traceback.walk_tb(error.__traceback__)


def _where(error: Exception, path: str) -> str:
    """The last line of the user's own file that was at work."""
    lines = [line for frame, line in _frames(error) if Path(frame.f_code.co_filename) == Path(path).absolute()]
    if isinstance(error, SyntaxError) and error.lineno is not None:
        lines.append(error.lineno)
    return f"line {lines[-1]}: " if lines else ""


def _why(error: Exception) -> str:
    """An error of ours, or of a config that refuses itself, in words; any other with its kind."""
    if isinstance(error, ConfigError):
        return str(error)
    for frame, _ in _frames(error):
        if frame.f_code.co_name == "__post_init__" and dataclasses.is_dataclass(config := frame.f_locals.get("self")):
            return _refused(config, error)
    if found := _NO_SUCH_FIELD.search(str(error)):
        name, field = found.groups()
        known = [each.name for kind in _classes(error, name) for each in dataclasses.fields(kind)]
        return f"{name} has no field {field!r}.{nearest(field, known) if known else ''}"
    return f"{type(error).__name__}: {error}".replace(".__init__()", "")


def _refused(config: Any, error: Exception) -> str:
    """Why a config refused itself: fields of the wrong type come first, since rules between fields trip over them."""
    root = getattr(config, "stage", type(config).__name__)
    try:
        allowed.validated(type(config), config)
    except NotAllowedError as refusal:
        return "; ".join(wrong.told(root) for wrong in refusal.wrongs)
    return f"{root}: {error}"


def _classes(error: Exception, name: str) -> list[Any]:
    """The dataclass of a name, where it was called or one of its objects was replaced."""
    for frame, _ in _frames(error):
        for each in (frame.f_globals.get(name), *map(type, frame.f_locals.values())):
            if isinstance(each, type) and each.__name__ == name and dataclasses.is_dataclass(each):
                return [each]
    return []
