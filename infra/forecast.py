"""Settings and a run folder -> what would run, why, and what it would cost. Nothing is run or written.

A stage `runs` when an output is missing or was made from something else than now. A stage that reads the output of such
a stage `follows`; it will be skipped if that output comes out the same as before. A stage by itself `waits` for inputs
that another stage has to make first. All others are `up to date` or `not needed`. No engine is imported, except where a
stage's own estimate needs a model's shapes.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra import ancestry, manifest, resources, runner
from infra.digests import digest_json
from infra.errors import ConfigError
from infra.figures import GIB, SECONDS_PER_HOUR, Figure, figure, total
from infra.manifest import Artifact
from infra.resources import ClusterShape
from infra.stage import StageConfig

FORMAT = 1  # of `--json`: raised when a name is removed or changes its meaning
RUNS, FOLLOWS, WAITS = "runs", "follows", "waits"
UP_TO_DATE, NOT_NEEDED = "up to date", "not needed"
FIGURES = ("tokens", "hours", "gpu_hours", "disk_gib", "price")

NOT_MADE = "not made yet"  # the reason that needs no explanation
_NOT_YET = "not run in this folder yet, so nothing is measured"
_NO_PRICE = "no price of a GPU-hour is given: --gpu-hour-price PRICE"


@dataclasses.dataclass(frozen=True)
class State:
    """The status of a stage, and why. makes: the settings of each output that would be made."""

    status: str
    why: str
    makes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def is_pending(self) -> bool:
        """Whether it would run, now or because of what runs before it."""
        return self.status in {RUNS, FOLLOWS, WAITS}


def forecast(
    recipe: str,
    run_dir: Path,
    stages: Mapping[str, Any],
    cluster: ClusterShape | None = None,
    gpu_hour_price: float | None = None,
) -> dict[str, Any]:
    """The report of a dry run, as `--json` prints it. stages: in their order, None for one that is not needed.

    format: version of these names. recipe, run_dir, config, config_digest: what was asked for, resolved. cluster: the
    one that the recipe is made for, in words. gpu_hour_price: as given. pending: the stages that run, follow or wait.
    writes: every folder that the stages make.
    stages: the status of each, why, and the outputs that it makes; its resources in words, and the sums of their cpus
    and gpus; tokens that a model reads or writes, hours, gpu_hours, disk_gib and price, each with a value and why, or
    null if the stage has none; notes for people, and details of its own. total: the sums of those.

    Raises ArtifactError or InputError, as the run would, for an artifact that was changed, inputs that do not belong
    together, or a material that is gone.
    """
    if gpu_hour_price is not None and not 0 <= gpu_hour_price < float("inf"):
        raise ConfigError(f"--gpu-hour-price {gpu_hour_price}: allowed is a number of at least 0")
    settings = {name: dataclasses.asdict(config) for name, config in stages.items() if config is not None}
    settings = json.loads(json.dumps(settings))
    states = _states(stages, run_dir)
    rows: dict[str, dict[str, Any]] = {}
    for name in reversed(list(stages)):  # a service runs as long as the stage after it, which uses it
        rows[name] = _row(stages[name], states[name], run_dir, cluster, gpu_hour_price, rows.get(_next(name, stages)))
    rows = {name: rows[name] for name in stages}
    return {
        "format": FORMAT,
        "recipe": recipe,
        "run_dir": str(run_dir),
        "config": settings,
        "config_digest": digest_json(settings),
        "cluster": str(cluster) if cluster else None,
        "gpu_hour_price": gpu_hour_price,
        "pending": [name for name, state in states.items() if state.is_pending],
        "stages": {name: _as_json(row) for name, row in rows.items()},
        "total": {
            name: total(row[name] for row in rows.values() if row[name] is not None).as_json() for name in FIGURES
        },
        "writes": [str(run_dir / output) for config in stages.values() if config for output in config.outputs()],
    }


def _as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.as_json() if isinstance(value, Figure) else value for name, value in row.items()}


def _next(name: str, stages: Mapping[str, Any]) -> str:
    """The stage that comes after this one; nothing after the last."""
    names = [*stages, ""]
    return names[names.index(name) + 1]


def _states(stages: Mapping[str, Any], run_dir: Path) -> dict[str, State]:
    """The state of each stage, in their order."""
    remade: set[str] = set()
    states: dict[str, State] = {}
    for name, config in stages.items():
        if config is None:
            states[name] = State(NOT_NEEDED, "")
        elif not config.service:
            states[name] = _state(config, run_dir, remade)
            remade |= set(states[name].makes)
    for name, config in stages.items():
        if config is not None and config.service:
            asking = states.get(_next(name, stages))
            states[name] = _state_of_service(config, _next(name, stages), asking)
    return {name: states[name] for name in stages}


def _state_of_service(config: StageConfig, asks: str, asking: State | None) -> State:
    """The state of a service: it is needed while the stage after it runs."""
    if asking is None:
        return State(RUNS, "it is started each time", config.outputs())
    if not asking.is_pending:
        return State(NOT_NEEDED, f"{asks} has nothing to ask")
    return State(asking.status, f"{asks} asks it", config.outputs())


def _state(config: StageConfig, run_dir: Path, remade: set[str]) -> State:
    """The state of a stage, from the states of its outputs, some of which may be up to date."""
    outputs = config.outputs()
    lacks = [name for name in config.inputs() if name not in remade and manifest.find(run_dir / name) is None]
    if lacks:
        return State(WAITS, f"it needs {', '.join(lacks)}, which no stage has made yet", outputs)
    whys = {output: _why_now(own, output, run_dir, remade) for output, own in outputs.items()}
    follows = {
        output: f"rests on {', '.join(sorted(set(own.inputs()) & remade))}"
        for output, own in outputs.items()
        if whys[output] is None and remade & set(own.inputs())
    }
    now = {output: why for output, why in whys.items() if why is not None}
    makes = {output: outputs[output] for output in outputs if output in now or output in follows}
    if not makes:
        return State(UP_TO_DATE, "")
    if now and not remade & set(config.inputs()):  # the run would check the same
        found = {name: manifest.find(run_dir / name) for name in config.inputs()}
        inputs = {name: each for name, each in found.items() if each is not None}
        ancestry.check(inputs, run_dir, inputs_only=config.service)
    reasons = now or follows
    same = set(reasons.values())
    why = same.pop() if len(same) == 1 and len(makes) == len(outputs) else _each(reasons)
    return State(RUNS if now else FOLLOWS, why, makes)


def _each(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{output}: {why}" for output, why in reasons.items())


def _why_now(own: StageConfig, output: str, run_dir: Path, remade: set[str]) -> str | None:
    """Why an output would be made even if no stage before it ran; None when it is current."""
    artifact = manifest.find(run_dir / output)
    found = {name: manifest.find(run_dir / name) for name in own.inputs()}
    if artifact is None:
        return NOT_MADE
    inputs = {name: each for name, each in found.items() if each is not None}
    if len(inputs) < len(found):
        return None  # its missing inputs are made by other stages, which it follows
    if runner.current_outputs(own, run_dir) is not None:
        return None
    return _difference(artifact, runner.made_from(own, output, inputs))


def _difference(artifact: Artifact, now: Mapping[str, Any]) -> str:
    """What has changed since an artifact was made, in words."""
    then = artifact.made_from
    said = []
    before, after = then.get("config", {}), now["config"]
    said += [
        f"{name} is {json.dumps(after[name])}" for name in after if name not in before or before[name] != after[name]
    ]
    said += [f"{name} was made again" for name in _changed(then, now, "inputs")]
    said += [f"another {name}" for name in _changed(then, now, "materials")]
    said += [f"the prompt {name} changed" for name in _changed(then, now, "prompts")]
    if then.get("contract") != now["contract"]:
        said.append("this version makes it otherwise")
    if not said and then.get("paths") != now.get("paths"):
        said.append("what it reads lies elsewhere")
    return ", ".join(said) or "made otherwise"


def _changed(then: Mapping[str, Any], now: Mapping[str, Any], part: str) -> list[str]:
    before = then.get(part) or {}
    return [name for name, digest in (now.get(part) or {}).items() if before.get(name) != digest]


def _row(
    config: StageConfig | None,
    state: State,
    run_dir: Path,
    cluster: ClusterShape | None,
    gpu_hour_price: float | None,
    asks: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """One stage of the forecast. asks: the row of the stage after it, which uses it if it is a service."""
    row: dict[str, Any] = {"status": state.status, "why": state.why, "makes": list(state.makes)}
    if config is None:
        return row | {"resources": "", "cpus": 0, "gpus": 0} | dict.fromkeys(FIGURES) | {"notes": [], "details": {}}
    asked = config.resources()
    cpus = sum((each.count or 1) * each.cpus for each in asked)
    gpus = sum((each.count or 1) * each.gpus for each in asked)
    row |= {"resources": resources.words(asked), "cpus": cpus, "gpus": gpus}
    if not state.is_pending:
        return row | dict.fromkeys(FIGURES) | {"notes": [], "details": {}}
    estimate = config.estimate(run_dir, list(state.makes), cluster)
    tokens = estimate.pop("tokens", None) or figure(0, "no model reads or writes")
    hours = during = estimate.pop("hours", None) or _last_time(state, run_dir, "hours")
    if config.service:  # its hours are those of the stage that uses it, and are counted there
        hours, during = None, asks["hours"] if asks else Figure(None, "it is up until it is stopped")
    gpu_hours = _times(during, gpus, f"{gpus} GPUs for {_during(config)}") if gpus else figure(0, "it asks for no GPU")
    price = Figure(None, _NO_PRICE)
    if gpu_hour_price is not None:
        price = _times(gpu_hours, gpu_hour_price, f"{gpu_hour_price:g} a GPU-hour")
    disk = estimate.pop("disk_gib", None) or _last_time(state, run_dir, "disk_gib")
    figures = dict(zip(FIGURES, (tokens, hours, gpu_hours, disk, price), strict=True))
    return row | figures | {"notes": estimate.pop("notes", []), "details": estimate}


def _during(config: StageConfig) -> str:
    return "as long as it is asked, its start not counted" if config.service else "so many hours"


def _times(of: Figure, factor: float, why: str) -> Figure:
    return of if of.value is None else figure(of.value * factor, why)


def _last_time(state: State, run_dir: Path, name: str) -> Figure:
    """The hours or size of the outputs that are there now, as an estimate of those that will be made."""
    found = [manifest.find(run_dir / output) for output in state.makes]
    made = [each.manifest for each in found if each is not None]
    if not made or len(made) < len(found):
        return Figure(None, _NOT_YET)
    if name == "hours":
        return figure(sum(each.seconds for each in made) / SECONDS_PER_HOUR, "as long as the last time")
    held = sum(file["bytes"] for each in made for file in each.files.values())
    return figure(held / GIB, "as much as the last time")
