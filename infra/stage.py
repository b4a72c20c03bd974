"""What a stage is: sealed artifacts in, one or more sealed artifacts out. `infra.runner` runs it.

A stage's module holds `run(task) -> Tally`. Its config class says what the stage reads and makes, so that a flow finds
what is up to date without importing an engine.
"""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from infra import privacy, process_environment
from infra.imports import pause_garbage_collection, skip_optional_imports
from infra.manifest import Artifact
from infra.progress import Progress
from infra.resources import ClusterShape, Workers

privacy.silence()  # before any engine is imported
process_environment.set_up()


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig:
    """The settings of a stage and its place in the flow. Subclasses are plain data and import no engine.

    stage: its name in recipes and on command lines. module: the module that has `run(task)`. estimator: the module that
    has `estimate(config, run_dir, makes, cluster)`, if any; both are named and not imported, so that settings stay
    light. contract: raised by hand
    when the meaning of the stage's output changes, so that artifacts of the older code are made again. digests_itself:
    folders inside its inputs whose files the stage itself checks against their digests when it reads them.
    hub_materials: names of the materials that may be a model id of a hub. listed_materials: names of those whose digest
    covers the list of files, not their content. service: the stage leaves something running.
    """

    stage: ClassVar[str]
    module: ClassVar[str]
    estimator: ClassVar[str] = ""
    contract: ClassVar[int] = 1
    digests_itself: ClassVar[tuple[str, ...]] = ()
    hub_materials: ClassVar[tuple[str, ...]] = ()
    listed_materials: ClassVar[tuple[str, ...]] = ()
    service: ClassVar[bool] = False

    @property
    def command(self) -> str:
        """What `python -m` is given to run the stage alone: its package, or its module where it has no package."""
        return self.module.removesuffix(".stage")

    def outputs(self) -> "dict[str, StageConfig]":
        """Artifact name -> the settings that this artifact depends on."""
        raise NotImplementedError

    def inputs(self) -> tuple[str, ...]:
        """Names of the artifacts that the stage reads."""
        return ()

    def materials(self) -> dict[str, str]:
        """Name -> path of the files and model folders from outside the run that the stage reads."""
        return {}

    def check(self) -> None:
        """Raise ConfigError for what the environment lacks, as far as that is known before anything runs."""

    def revisions(self) -> dict[str, str | None]:
        """Name of a material -> the revision of the hub's model, or None if no revision is named."""
        return {}

    def prompt_digests(self) -> dict[str, str]:
        """Name -> digest of a prompt in the code: another prompt makes another output."""
        return {}

    def resources(self) -> tuple[Workers, ...]:
        """The workers that the stage asks the cluster for, all of them at the same time."""
        return ()

    def rehearsed(self, models: Path, num_questions: int) -> "StageConfig":
        """The same settings, with small models, and reduced to what a machine without a GPU does in a minute.

        models: folder of the small `teacher` and `base`. num_questions: of each split.
        """
        return self

    def estimate(
        self, run_dir: Path | None, makes: Sequence[str] = (), cluster: ClusterShape | None = None
    ) -> dict[str, Any]:
        """What it costs to make these outputs, or all of them, for a dry run.

        `tokens`, `hours` and `disk_gib` as Figures if the stage has better estimates than the last run, `notes` as
        sentences for people, and anything else as JSON. cluster: the one that the recipe is made for.
        """
        if not self.estimator:
            return {}
        with skip_optional_imports(), pause_garbage_collection():
            estimator = importlib.import_module(self.estimator)
        estimate: dict[str, Any] = estimator.estimate(self, run_dir, makes, cluster)
        return estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What `run` is given: settings, sealed inputs by name, a draft folder to write into, and a way to report progress.

    metric: a function of name, value and step that logs a number while the stage runs.
    """

    config: Any
    run_dir: Path
    inputs: Mapping[str, Artifact]
    draft: Path
    progress: Progress
    metric: Any
