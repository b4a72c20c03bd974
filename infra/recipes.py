"""Recipes: a named function that returns one complete, frozen, typed config; `--set` changes a field of it.

A package's part of a recipe is a function in its `recipes.py`. A user's own file names all parts: `mine.py:recipe`
returns a dict from package name to that package's part.
"""

import dataclasses
import importlib
import inspect
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra import recipe_file
from infra.config_types import config_classes, in_words
from infra.config_validation import InvalidConfigError, raise_if_any, shown, validated
from infra.digests import digest_json
from infra.errors import ConfigError, nearest
from infra.overrides import overridden, refuse_other_stages
from infra.redaction import redacted

_PROJECT = Path(__file__).parents[1]


def resolve(
    recipe: str, packages: Sequence[str], overrides: Sequence[str] = (), *, only: str | None = None
) -> dict[str, Any]:
    """Stage name -> config, for all stages of these packages, with `path.to.field=value` overrides applied.

    only: the one stage that is run; an override of another stage is refused, since it would change nothing.

    A recipe of the user's own, and each stage that is overridden, is checked as a whole: types, bounds, and rules
    between fields. Raises ConfigError with all that is wrong, or for an unknown recipe.
    """
    if ":" in recipe:
        stages = _stages_of_file(recipe, packages)
    else:
        parts = _parts_of_packages(recipe, packages)
        stages = {field.name: getattr(part, field.name) for part in parts for field in dataclasses.fields(part)}
    if only is not None and overrides:
        refuse_other_stages(only, overrides, _known_stages())
    if overrides:
        stages = overridden(stages, overrides, _known_stages())
    _refuse_credentials(stages, "")
    return stages


def changed(config: Any, stage: str, overrides: Sequence[str]) -> Any:
    """One stage's config with `path.to.field=value` overrides applied; raises ConfigError as `resolve` does."""
    stages = overridden({stage: config}, [f"{stage}.{override}" for override in overrides], {stage: type(config)})
    _refuse_credentials(stages, "")
    return stages[stage]


def run_name(recipe: str) -> str:
    """The name of a recipe's run folder; for a recipe file, made of the file's name and the function's. Two files never
    share one."""
    file, _, function = recipe.rpartition(":")
    if not file:
        return function
    path = Path(file).resolve()
    name = re.sub(r"[^\w.-]", "_", f"{path.stem}-{function}")
    is_unique = path == Path.cwd() / f"{path.stem}.py" and name == f"{path.stem}-{function}"
    return name if is_unique else f"{name}-{digest_json(str(path))[:8]}"


def _refuse_credentials(value: Any, path: str) -> None:
    """Raise ConfigError for credentials in a URI: manifests, MLflow and Ray's logs would keep them."""
    if isinstance(value, str) and "://" in value and (without := redacted(value)) != value:
        instead = (
            "Export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, in their place"
            if value.startswith("s3:")
            else "Export PRECEPTOR_API_KEY, the key of an endpoint, in their place"
        )
        raise ConfigError(
            f"{path}={without} has credentials in it, which whatever keeps the config would keep. {instead}."
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


def _stages_of_file(recipe: str, packages: Sequence[str]) -> dict[str, Any]:
    """The stages of a recipe of the user's own, checked as a whole."""
    kinds = {kind for package in _packages() for kind in config_classes(_part_type(package))}
    parts = recipe_file.call(recipe, kinds)
    if not isinstance(parts, dict):
        raise ConfigError(f"{recipe} returns {shown(parts)}. {_what_is_wanted()}")
    wrong = []
    if unknown := {str(name) for name in parts} - set(_packages()):
        wrong.append(f"no package is named {', '.join(map(repr, sorted(unknown)))}. {_what_is_wanted()}")
    if missing := [package for package in packages if package not in parts]:
        wrong.append(f"it returns no part for {', '.join(missing)}. {_what_is_wanted()}")
    stages: dict[str, Any] = {}
    for package in packages:
        if package in parts:
            stages |= _stages_of_part(package, parts[package], wrong)
    raise_if_any(wrong, f"{recipe}: ")
    return stages


def _packages() -> list[str]:
    return sorted(path.parent.name for path in _PROJECT.glob("*/recipes.py") if path != Path(__file__))


def _what_is_wanted() -> str:
    parts = ", ".join(f'"{package}": {_part_type(package).__name__}(...)' for package in _packages())
    return f"A recipe returns {{{parts}}}, of which {_packages()[0]}.recipes.pocket() makes the first"


def _known_stages() -> dict[str, Any]:
    """Every stage of every package, with its type."""
    return {
        stage: hint for package in _packages() for stage, hint in typing.get_type_hints(_part_type(package)).items()
    }


def _part_type(package: str) -> type[Any]:
    """What the recipes of a package return: a dataclass with a field for each stage."""
    made: type[Any] = typing.get_type_hints(next(iter(known_recipes(package).values())))["return"]
    return made


def _stages_of_part(package: str, part: Any, wrong: list[str]) -> dict[str, Any]:
    """The stages of a package's part, each as its own type has it; what is wrong is added to the list."""
    kind = _part_type(package)
    hints = typing.get_type_hints(kind)
    if isinstance(part, kind):
        part = {name: getattr(part, name) for name in hints}
    if not isinstance(part, dict):
        called = f", as {package}.recipes.{part.__name__}() makes it" if inspect.isfunction(part) else ""
        wrong.append(f"its part {package!r} is {shown(part)}, and has to be a {kind.__name__}{called}")
        return {}
    wrong += [f"{package} has no stage {name!r}.{nearest(str(name), hints)}" for name in part if name not in hints]
    defaults = {field.name: field.default for field in dataclasses.fields(kind) if field.default != dataclasses.MISSING}
    stages = {}
    for name, own in (defaults | part).items():
        try:
            stages[name] = validated(hints.get(name, Any), own)
        except InvalidConfigError as error:
            wrong += [each.line(name) for each in error.problems]
    wrong += [f"{name} is missing: {in_words(hints[name])}" for name in hints if name not in defaults | part]
    return stages
