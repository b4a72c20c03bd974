"""Recipes: a named function that returns one complete, frozen, typed config; `--set` changes a field of it.

A package's part of a recipe is a function in its `recipes.py`. A user's own file names all parts: `mine.py:recipe`
returns a dict from package name to that package's part.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import math
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra.errors import ConfigError, nearest
from infra.redaction import redacted


def resolve(recipe: str, packages: Sequence[str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Stage name -> config, for all stages of these packages, with `path.to.field=value` overrides applied.

    Raises ConfigError for an unknown recipe or field, or a value that the field's type does not allow.
    """
    parts = _parts_of_file(recipe, packages) if ":" in recipe else _parts_of_packages(recipe, packages)
    stages = {f.name: getattr(part, f.name) for part in parts for f in dataclasses.fields(part)}
    for override in overrides:
        stages = _apply(stages, override)
    _refuse_credentials(stages, "")
    return stages


def changed(config: Any, stage: str, overrides: Sequence[str]) -> Any:
    """One stage's config with `path.to.field=value` overrides applied; raises ConfigError as `resolve` does."""
    stages = {stage: config}
    for override in overrides:
        stages = _apply(stages, f"{stage}.{override}")
    _refuse_credentials(stages, "")
    return stages[stage]


def _refuse_credentials(value: Any, path: str) -> None:
    """Raise ConfigError for credentials in a URI: manifests, MLflow and Ray's logs would keep them."""
    if isinstance(value, str) and "://" in value and (shown := redacted(value)) != value:
        instead = (
            "Export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, in their place"
            if value.startswith("s3:")
            else "Export PRECEPTOR_API_KEY, the key of an endpoint, in their place"
        )
        raise ConfigError(
            f"{path}={shown} has credentials in it, which whatever keeps the config would keep. {instead}."
        )
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        value = {str(number): each for number, each in enumerate(value)}
    if isinstance(value, dict):
        for name, each in value.items():
            _refuse_credentials(each, f"{path}.{name}".lstrip("."))


def known_recipes(package: str) -> dict[str, Any]:
    """Name -> function, for the recipes that a package defines."""
    module = importlib.import_module(f"{package}.recipes")
    functions = inspect.getmembers(module, inspect.isfunction)
    return {name: f for name, f in functions if f.__module__ == module.__name__ and not name.startswith("_")}


def _parts_of_packages(recipe: str, packages: Sequence[str]) -> list[Any]:
    functions = [known_recipes(package) for package in packages]
    known = set.intersection(*(set(named) for named in functions))
    if recipe not in known:
        raise ConfigError(
            f"No recipe is named {recipe!r}.{nearest(recipe, known)} Or name your own: path/to/file.py:function"
        )
    return [named[recipe]() for named in functions]


def _parts_of_file(recipe: str, packages: Sequence[str]) -> list[Any]:
    path, _, function = recipe.rpartition(":")
    spec = importlib.util.spec_from_file_location("user_recipe", path)
    if not Path(path).is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"Recipe file {path!r} is not a Python file. Write path/to/file.py:function")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise ConfigError(
            f"{path} has no function {function!r}.{nearest(function, [n for n in vars(module) if n[0] != '_'])}"
        )
    parts = getattr(module, function)()
    if missing := [package for package in packages if package not in parts]:
        raise ConfigError(f"{recipe} returns no part for {', '.join(missing)}; it returns {', '.join(sorted(parts))}")
    return [parts[package] for package in packages]


def _apply(stages: dict[str, Any], override: str) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override!r} has no '='. Write --set path.to.field=value")
    stage, *fields = path.split(".")
    if stage not in stages or stages[stage] is None:
        known = [name for name, config in stages.items() if config is not None]
        raise ConfigError(f"--set {path}: {stage!r} is no stage of this recipe.{nearest(stage, known)}")
    if not fields:
        raise ConfigError(f"--set {path}: name a field, for example {path}.{dataclasses.fields(stages[stage])[0].name}")
    return stages | {stage: _replaced(stages[stage], fields, path, text)}


def _replaced(config: Any, fields: list[str], path: str, text: str) -> Any:
    name, *rest = fields
    known = {f.name for f in dataclasses.fields(config)}
    if name not in known:
        raise ConfigError(f"--set {path}: {type(config).__name__} has no field {name!r}.{nearest(name, known)}")
    current = getattr(config, name)
    if rest and not dataclasses.is_dataclass(current):
        raise ConfigError(f"--set {path}: {name} is a single value, not a group of fields")
    value = _replaced(current, rest, path, text) if rest else _parsed(config, name, path, text)
    try:
        return dataclasses.replace(config, **{name: value})
    except ValueError as error:
        raise ConfigError(f"--set {path}={text}: {error}") from error


def _parsed(config: Any, name: str, path: str, text: str) -> Any:
    """The text as a value of the field's annotated type; numbers, tuples and None are written as in JSON."""
    import pydantic  # only when something is overridden: it costs more than all of our light modules together

    hint = typing.get_type_hints(type(config), include_extras=True)[name]
    adapter = pydantic.TypeAdapter(hint)
    try:
        value = adapter.validate_json(text)
    except pydantic.ValidationError as error_of_json:
        try:
            value = adapter.validate_python(text)
        except pydantic.ValidationError as error_of_text:
            is_json = all(detail["type"] != "json_invalid" for detail in error_of_json.errors())
            error = error_of_json if is_json else error_of_text
            allowed = "; ".join(str(detail["msg"]) for detail in error.errors())
            raise ConfigError(f"--set {path}={text}: allowed is {_written(hint)} ({allowed})") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"--set {path}={text}: allowed is a finite number")
    return value


def _written(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
