"""A stage: sealed artifacts in, one or more sealed artifacts out, run by the same few words everywhere.

A stage's module holds `run(task) -> Tally`; its config class says what it reads and makes, so that a flow can tell what
is up to date without importing an engine.
"""

import dataclasses
import functools
import importlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from infra import ancestry, journal, manifest, privacy, storage, surroundings
from infra.digests import digest_json, digest_material
from infra.errors import ArtifactError, InputError
from infra.journal import Recorder
from infra.manifest import Artifact, Tally
from infra.progress import Progress
from infra.resources import ClusterShape, Workers

privacy.silence()  # before any engine is imported
surroundings.settle()

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig:
    """The settings of a stage and its place in the flow. Subclasses are plain data and import no engine.

    stage: the verb. module: where `run(task)` is. contract: raised by hand when the code's output changes in meaning,
    so that artifacts of the older code are made again. digests_itself: folders in its inputs of which it reads nothing
    without digesting that. hub_materials: which may be a hub's model id. service: it leaves something running.
    """

    stage: ClassVar[str]
    module: ClassVar[str]
    contract: ClassVar[int] = 1
    digests_itself: ClassVar[tuple[str, ...]] = ()
    hub_materials: ClassVar[tuple[str, ...]] = ()
    listed_materials: ClassVar[tuple[str, ...]] = ()
    service: ClassVar[bool] = False

    def outputs(self) -> "dict[str, StageConfig]":
        """Artifact name -> the settings that this artifact depends on."""
        raise NotImplementedError

    def inputs(self) -> tuple[str, ...]:
        """Names of the artifacts that the stage reads."""
        return ()

    def materials(self) -> dict[str, str]:
        """Name -> path of the files or model folders of the world that the stage reads."""
        return {}

    def check(self) -> None:
        """Raise ConfigError for what the environment lacks, as far as that can be told before anything runs."""

    def revisions(self) -> dict[str, str | None]:
        """Name of a material -> the revision of the hub's model that is meant, where one is named."""
        return {}

    def wording(self) -> dict[str, str]:
        """Name -> digest of words in the code that decide the output, such as a prompt."""
        return {}

    def resources(self) -> tuple[Workers, ...]:
        """The workers that the stage asks the cluster for, all of them at the same time."""
        return ()

    def rehearsed(self, models: Path, num_questions: int) -> "StageConfig":
        """The same settings as far as a machine without a GPU can follow them in a minute, with small models.

        models: folder of the small `teacher` and `base`. num_questions: of each split.
        """
        return self

    def estimate(
        self, run_dir: Path | None, makes: Sequence[str] = (), cluster: ClusterShape | None = None
    ) -> dict[str, Any]:
        """What it costs to make these outputs, or all, for a dry run.

        `tokens`, `hours` and `disk_gib` as Figures where the stage can tell them better than by the last time,
        `notes` as sentences for people, and whatever else there is to know, as JSON. cluster: which the recipe is for.
        """
        return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What `run` is given: settings, sealed inputs by name, a draft folder to write into, and a way to say how far it
    is.

    metric: logs a number under a name at a step while the stage runs.
    """

    config: Any
    run_dir: Path
    inputs: Mapping[str, Artifact]
    draft: Path
    progress: Progress
    metric: Any


def made_from(config: StageConfig, output: str, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """All that decides an output: stage, contract, settings, digests of inputs and materials."""
    own = config.outputs()[output]
    return {
        "stage": config.stage,
        "contract": config.contract,
        "config": json.loads(json.dumps(dataclasses.asdict(own))),
        "inputs": {name: inputs[name].digest for name in own.inputs()},
        "materials": {name: material_digest(own, name) for name in own.materials()},
        "wording": own.wording(),
        "paths": dict(own.materials()),
    }


def current_outputs(config: StageConfig, run_dir: Path) -> dict[str, Artifact] | None:
    """The stage's sealed outputs if all of them are what it would make now, else None."""
    found = {name: manifest.find(run_dir / name) for name in (*config.inputs(), *config.outputs())}
    inputs = {name: artifact for name, artifact in found.items() if artifact is not None}
    if len(inputs) < len(found):
        return None
    for output in config.outputs():
        if inputs[output].manifest.key != manifest.key(made_from(config, output, inputs)):
            return None
    return {output: inputs[output] for output in config.outputs()}


def check_materials(config: StageConfig) -> None:
    """Raise InputError when a file or model folder that the stage will read is not there, or ConfigError for what else
    the stage lacks."""
    config.check()
    for name in config.materials():
        _is_there(config, name)


def sealed_inputs(config: StageConfig, run_dir: Path) -> dict[str, Artifact]:
    """The artifacts that the stage reads; raises ArtifactError when one is not sealed yet, or they do not rest on one
    another."""
    inputs = {}
    for name in config.inputs():
        artifact = manifest.find(run_dir / name, every_byte=True, but_below=config.digests_itself)
        if artifact is None:
            raise ArtifactError(
                f"{run_dir / name} is not there yet. Run the stage that makes it first, or the whole flow."
            )
        inputs[name] = artifact
    ancestry.check(inputs, run_dir, among_themselves=config.service)
    return inputs


def carry_out(config: StageConfig, run_dir: Path, progress: Progress) -> dict[str, Artifact]:
    """Run a stage: reuse what is current, make and seal the rest, record it. Returns the sealed outputs by name."""
    inputs = sealed_inputs(config, run_dir)
    with journal.recorder(run_dir, run_dir / journal.FOLDER, progress) as recorder:
        return {output: _make(config, output, run_dir / output, inputs, recorder) for output in config.outputs()}


def make(
    config: StageConfig,
    output: str,
    place: Path,
    run_dir: Path,
    inputs: Mapping[str, Artifact],
    progress: Progress,
    *,
    run: Callable[[Task], Tally] | None = None,
    afresh: bool = False,
) -> Artifact:
    """Seal one output of a stage at `place`, or reuse what is there and current, unless it is to be made afresh.

    run: in the place of the one that the stage's module has.
    """
    with journal.recorder(run_dir, journal.folder(run_dir, place), progress) as recorder:
        return _make(config, output, place, inputs, recorder, run=run, afresh=afresh)


def _make(
    config: StageConfig,
    output: str,
    place: Path,
    inputs: Mapping[str, Artifact],
    recorder: Recorder,
    *,
    run: Callable[[Task], Tally] | None = None,
    afresh: bool = False,
) -> Artifact:
    progress = recorder.progress
    origin = made_from(config, output, inputs)
    own = config.outputs()[output]
    artifact = None if config.service or afresh else _current(place, origin)
    if artifact is not None:
        progress.say(f"{output} is up to date")
        return artifact
    own_inputs = {name: inputs[name] for name in own.inputs()}
    with (
        recorder.journal(config.stage, output, place, manifest.key(origin)) as lines,
        manifest.draft(place) as draft,
    ):
        started = time.monotonic()
        task = Task(
            config=own,
            run_dir=recorder.run_dir,
            inputs=own_inputs,
            draft=draft,
            progress=progress,
            metric=lines.metric,
        )
        tally = (run or importlib.import_module(config.module).run)(task)
        artifact = manifest.seal(
            draft, place, stage=config.stage, made_from=origin, tally=tally, seconds=time.monotonic() - started
        )
        lines.sealed(artifact)
    progress.say(f"sealed {output} {artifact.counts()}")
    return artifact


def _current(place: Path, origin: Mapping[str, Any]) -> Artifact | None:
    artifact = manifest.find(place)
    return artifact if artifact is not None and artifact.manifest.key == manifest.key(origin) else None


def material_digest(config: StageConfig, name: str) -> str:
    """Digest of a material; a hub's model id, which nothing here can read, counts by its name and revision."""
    path = config.materials()[name]
    if not _is_there(config, name):
        digest, revision = digest_json({"id": path}), config.revisions().get(name)
        return digest_json([digest, revision]) if revision else digest
    try:
        return _digest_of(path, listed=name in config.listed_materials)
    except OSError as error:
        raise InputError(f"{config.stage}.{name}: {error}") from error


def _is_there(config: StageConfig, name: str) -> bool:
    """Whether a material is there to be read; False for a hub's model id. Raises InputError for anything else."""
    path = config.materials()[name]
    if storage.exists(path):
        return True
    if name in config.hub_materials and _HUB_ID.fullmatch(path):
        return False
    field = f"{config.stage}.{name}"
    raise InputError(f"{field}: there is nothing at {path!r}. Name what is there: --set {field}=PATH")


@functools.cache
def _digest_of(path: str, *, listed: bool) -> str:
    return storage.digest_listing(path) if listed else digest_material(Path(path))
