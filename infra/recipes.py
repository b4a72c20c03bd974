"""Recipes: a named function that returns one complete, frozen, typed config; `--set` changes a field of it.

A package's part of a recipe is a function in its `recipes.py`. A user's own file names all parts: `mine.py:recipe`
returns a dict from package name to that package's part.
"""

import copy
import dataclasses
import importlib
import inspect
import json
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra import allowed, own_recipes
from infra.allowed import NotAllowedError
from infra.digests import digest_json
from infra.errors import ConfigError, nearest
from infra.redaction import redacted

_PROJECT = Path(__file__).parents[1]


def resolve(
    recipe: str, packages: Sequence[str], overrides: Sequence[str] = (), *, only: str | None = None
) -> dict[str, Any]:
    """Stage name -> config, for all stages of these packages, with `path.to.field=value` overrides applied.

    only: the one stage that is run, so that an override of another would change nothing.

    A recipe of the user's own and whatever is overridden are checked as a whole: types, bounds, and rules between
    fields. Raises ConfigError with all that is wrong, or for an unknown recipe.
    """
    if ":" in recipe:
        stages = _stages_of_file(recipe, packages)
    else:
        parts = _parts_of_packages(recipe, packages)
        stages = {field.name: getattr(part, field.name) for part in parts for field in dataclasses.fields(part)}
    if only is not None and overrides:
        _refuse_other_stages(only, overrides)
    if overrides:
        stages = _overridden(stages, overrides, _known_stages())
    _refuse_credentials(stages, "")
    return stages


def _refuse_other_stages(only: str, overrides: Sequence[str]) -> None:
    """Raise ConfigError for an override of another stage, which would change nothing."""
    others = {name for name, hint in _known_stages().items() if name != only and allowed.is_group(hint, "stage")}
    for path in (override.partition("=")[0] for override in overrides):
        if (other := path.partition(".")[0]) in others:
            raise ConfigError(
                f"--set {path}: {other} is another stage, and this command runs {only} alone. Leave it out"
            )


def changed(config: Any, stage: str, overrides: Sequence[str]) -> Any:
    """One stage's config with `path.to.field=value` overrides applied; raises ConfigError as `resolve` does."""
    stages = _overridden({stage: config}, [f"{stage}.{override}" for override in overrides], {stage: type(config)})
    _refuse_credentials(stages, "")
    return stages[stage]


def run_name(recipe: str) -> str:
    """The name of a recipe's run folder: of a file, its own and the function's. Two files never share one."""
    file, _, function = recipe.rpartition(":")
    if not file:
        return function
    path = Path(file).resolve()
    name = re.sub(r"[^\w.-]", "_", f"{path.stem}-{function}")
    is_told = path == Path.cwd() / f"{path.stem}.py" and name == f"{path.stem}-{function}"
    return name if is_told else f"{name}-{digest_json(str(path))[:8]}"


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


def _stages_of_file(recipe: str, packages: Sequence[str]) -> dict[str, Any]:
    """The stages of a recipe of the user's own, checked as a whole."""
    kinds = {kind for package in _packages() for kind in allowed.groups_below(_part_type(package))}
    parts = own_recipes.call(recipe, kinds)
    if not isinstance(parts, dict):
        raise ConfigError(f"{recipe} returns {allowed.shown(parts)}. {_what_is_wanted()}")
    wrong = []
    if unknown := {str(name) for name in parts} - set(_packages()):
        wrong.append(f"no package is named {', '.join(map(repr, sorted(unknown)))}. {_what_is_wanted()}")
    if missing := [package for package in packages if package not in parts]:
        wrong.append(f"it returns no part for {', '.join(missing)}. {_what_is_wanted()}")
    stages: dict[str, Any] = {}
    for package in packages:
        if package in parts:
            stages |= _stages_of_part(package, parts[package], wrong)
    _raise_if_any(wrong, f"{recipe}: ")
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
        wrong.append(f"its part {package!r} is {allowed.shown(part)}, and has to be a {kind.__name__}{called}")
        return {}
    wrong += [f"{package} has no stage {name!r}.{nearest(str(name), hints)}" for name in part if name not in hints]
    defaults = {field.name: field.default for field in dataclasses.fields(kind) if field.default != dataclasses.MISSING}
    stages = {}
    for name, own in (defaults | part).items():
        try:
            stages[name] = allowed.validated(hints.get(name, Any), own)
        except NotAllowedError as error:
            wrong += [each.told(name) for each in error.wrongs]
    wrong += [f"{name} is missing: {allowed.in_words(hints[name])}" for name in hints if name not in defaults | part]
    return stages


def _raise_if_any(wrong: Sequence[str], of: str = "") -> None:
    """Raise ConfigError with all that is wrong: in one line, or one below the other."""
    if len(wrong) == 1:
        raise ConfigError(f"{of}{wrong[0]}")
    if wrong:
        raise ConfigError("\n  ".join([f"{of}{len(wrong)} settings are wrong", *wrong]))


def _overridden(stages: dict[str, Any], overrides: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """The stages with all overrides applied together, so that their order does not matter.

    known: every stage there is, with its type. Raises ConfigError with all that is wrong.
    """
    changed, wrong = dict(stages), []
    concerned: dict[str, list[str]] = {}
    for override in overrides:
        path, equals, text = override.partition("=")
        stage, *fields = path.split(".")
        try:
            if not equals:
                raise ConfigError(f"--set {override!r} has no '='. Write --set path.to.field=value")
            _check_place(changed, stage, fields, text, known)
            changed[stage] = _with(changed[stage], fields, path, text)
            concerned.setdefault(stage, []).append(f"--set {override}")
        except ConfigError as error:
            wrong.append(str(error))
    for stage, settings in concerned.items():
        try:
            changed[stage] = allowed.validated(type(changed[stage]), changed[stage])
        except NotAllowedError as error:
            wrong += [f"{' '.join(settings)}: {each.told(stage)}" for each in error.wrongs]
    _raise_if_any(wrong)
    return changed


def _check_place(stages: dict[str, Any], stage: str, fields: list[str], text: str, known: Mapping[str, Any]) -> None:
    """Raise ConfigError when there is no such field, with the stage that has it, or the nearest name."""
    path = ".".join([stage, *fields])
    config = stages.get(stage)
    if config is None:
        if stage in known and not allowed.is_group(known[stage], "stage"):
            raise ConfigError(f"--set {path}: this recipe names no {stage}; a recipe of your own can")
        if stage in known:
            is_run = "this recipe leaves it out" if stage in stages else "this command does not run it"
            raise ConfigError(f"--set {path}: {stage} is a stage, and {is_run}")
        instead = _elsewhere([stage, *fields], text, known) or _elsewhere(fields, text, known)
        named = [name for name, each in stages.items() if each is not None]
        raise ConfigError(f"--set {path}: {instead or f'{stage!r} is no stage of this recipe.{nearest(stage, named)}'}")
    if not fields:
        raise ConfigError(f"--set {path}: name a field, for example {path}.{dataclasses.fields(config)[0].name}")
    for number, name in enumerate(fields):
        if not dataclasses.is_dataclass(config):
            raise ConfigError(f"--set {path}: {fields[number - 1]} is a single value, not a group of fields")
        names = [field.name for field in dataclasses.fields(config)]
        if name not in names:
            group = ".".join([stage, *fields[:number]])
            instead = _elsewhere(fields[number:], text, known)
            raise ConfigError(f"--set {path}: {instead or f'{group} has no field {name!r}.{nearest(name, names)}'}")
        config = getattr(config, name)


def _elsewhere(fields: Sequence[str], text: str, known: Mapping[str, Any]) -> str:
    """Which stages have such a field, and what to type; nothing where none has."""
    paths = [path for stage, hint in known.items() for path in allowed.fields_below(hint, (stage,))]
    found = [path for path in paths if fields and path[-len(fields) :] == tuple(fields)]
    if not found:
        return ""
    owners = ", ".join(".".join(path[: -len(fields)]) for path in found)
    return f"{'.'.join(fields)} is a field of {owners}: --set {'.'.join(found[0])}={text}"


def _with(config: Any, fields: Sequence[str], path: str, text: str) -> Any:
    """A copy with one field changed; the rules between its fields are asked when all are."""
    name, *rest = fields
    value = _with(getattr(config, name), rest, path, text) if rest else _parsed(type(config), name, path, text)
    copied = copy.copy(config)
    object.__setattr__(copied, name, value)  # it is frozen for everybody else
    return copied


def _parsed(kind: type, name: str, path: str, text: str) -> Any:
    """The text as a value of a field's annotated type: as JSON, or else as the text that it is."""
    hint = allowed.field_type(kind, name)
    try:
        return allowed.validated(hint, json.loads(text))
    except (ValueError, RecursionError) as error:
        try:
            return allowed.validated(hint, text, is_text=True)
        except NotAllowedError as refusal:
            wrongs = (error if isinstance(error, NotAllowedError) else refusal).wrongs
            raise ConfigError("; ".join(f"--set {each.told(path, text)}" for each in wrongs)) from error
