"""`--set path.to.field=value`: configs with some fields changed, or all that is wrong, in plain words."""

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from infra.config_types import config_class, field_paths, type_at
from infra.config_validation import InvalidConfigError, raise_if_any, validated
from infra.errors import ConfigError, nearest


def overridden(stages: Mapping[str, Any], overrides: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """The stages with all overrides applied together, so that their order does not matter.

    stages: the recipe's configs by stage; None for a stage that it leaves out. known: every stage there is, with its
    type. Raises ConfigError with all that is wrong.
    """
    changed, wrong = dict(stages), list[str]()
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
            changed[stage] = validated(type(changed[stage]), changed[stage])
        except InvalidConfigError as error:
            wrong += [f"{' '.join(settings)}: {each.line(stage)}" for each in error.problems]
    raise_if_any(wrong)
    return changed


def refuse_other_stages(only: str, overrides: Sequence[str], known: Mapping[str, Any]) -> None:
    """Raise ConfigError for an override of another stage than the only one that is run: it would change nothing."""
    others = {name for name, hint in known.items() if name != only and _is_stage(hint)}
    for path in (override.partition("=")[0] for override in overrides):
        if (other := path.partition(".")[0]) in others:
            raise ConfigError(
                f"--set {path}: {other} is another stage, and this command runs {only} alone. Leave it out"
            )


def _check_place(stages: dict[str, Any], stage: str, fields: list[str], text: str, known: Mapping[str, Any]) -> None:
    """Raise ConfigError when there is no such field, with the stage that has it, or the nearest name."""
    path = ".".join([stage, *fields])
    config = stages.get(stage)
    if config is None:
        if stage in known and not _is_stage(known[stage]):
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
    paths = [path for stage, hint in known.items() for path in field_paths(hint, (stage,))]
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
    hint = type_at(kind, (name,))
    try:
        return validated(hint, json.loads(text))
    except (ValueError, RecursionError) as error:
        try:
            return validated(hint, text, is_text=True)
        except InvalidConfigError as refusal:
            problems = (error if isinstance(error, InvalidConfigError) else refusal).problems
            raise ConfigError("; ".join(f"--set {each.line(path, text)}" for each in problems)) from error


def _is_stage(hint: Any) -> bool:
    """Whether this is a stage's config; `cluster`, which a recipe has beside its stages, is none."""
    return hasattr(config_class(hint), "stage")
