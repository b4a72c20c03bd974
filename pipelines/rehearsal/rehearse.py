"""A recipe -> what would end its flow on the cluster, found on the machine at hand before a GPU is paid for.

The settings are compared with one another and with the cluster that the recipe names. Then all stages run, one after
the other, on a local Ray that has that cluster's CPUs and GPUs in name: each asks for its places there, what it would
send to vLLM and Ray Serve is shown to their own checks, and it does its work on a few questions with small models.
"""

import dataclasses
import functools
import importlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from infra import cluster, journal, run_lock, runner
from infra.digests import digest_json
from infra.errors import ConfigError, in_one_line, prerequisite
from infra.manifest import Artifact
from infra.progress import Progress
from infra.resources import ClusterShape, lacking, total, words
from infra.stage import StageConfig, Task
from pipelines import preflight
from pipelines.inference.backends import engine_config
from pipelines.records import Question, tables
from pipelines.rehearsal import standins, stub_endpoint
from pipelines.rehearsal.models import widened

FOLDER = "rehearsal"
_MARK = ".rehearsal"  # in a folder that the next rehearsal may empty
NUM_QUESTIONS = 16
Run = Callable[[Task], Any]


def rehearse(
    recipe: str,
    configs: Mapping[str, Any],
    shape: ClusterShape | None,
    run_dir: Path,
    num_questions: int = NUM_QUESTIONS,
    *,
    with_engines: bool = True,
) -> list[str]:
    """All findings, each of them one line that says what is wrong and what to type.

    configs: stage name -> config in the flow's order, None for a stage that is not needed. shape: of the recipe's
    cluster. run_dir: of the run; the rehearsal has a folder of its own in it, which no run reads. with_engines: whether
    students are fitted and served for real, or stand-ins answer in their place.
    """
    started = time.monotonic()
    stages = {name: config for name, config in configs.items() if config is not None}
    say = Progress("rehearse").say
    say(f"{recipe} in {run_dir / FOLDER}, {num_questions} questions of each split")
    say(f"made for {shape}" if shape else "the recipe names no cluster, so nothing is compared with one")
    found = list(preflight.findings(stages, shape))
    with ExitStack() as running:
        try:
            folder = running.enter_context(_folder(run_dir))
            running.enter_context(cluster.logical(shape or _as_asked(stages)))
            found += _Rehearsal(stages, shape, folder, num_questions, say, running).carry_out(with_engines)
        except Exception as error:  # noqa: BLE001 - whatever ends a rehearsal would have ended the flow
            found.append(_told("rehearse", error))
    for finding in found:
        say(f"finding: {finding}")
    say(f"{len(found) or 'no'} finding{'s' * (len(found) != 1)} in {time.monotonic() - started:.0f} s")
    return found


@contextmanager
def _folder(run_dir: Path) -> Iterator[Path]:
    """The rehearsal's own folder, empty and ours alone, from which nothing reaches MLflow."""
    folder = run_dir / FOLDER
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).exists():
        raise ConfigError(f"{folder} holds files that no rehearsal has made: move them, or choose another --run-dir.")
    quiet = patch.dict(os.environ, {journal.DRIVER_VARIABLE: "1", "VLLM_LOGGING_LEVEL": "ERROR"})
    with quiet, run_lock.held(folder, "a rehearsal", Progress("rehearse").say):
        (folder / _MARK).touch()
        for old in folder.iterdir():
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old, ignore_errors=True)
            elif old.name not in (run_lock.NAME, _MARK):
                old.unlink()
        yield folder


def _as_asked(stages: Mapping[str, StageConfig]) -> ClusterShape:
    """One node on which each stage finds what it asks for."""
    asked = [total(config.resources()) for config in stages.values()]
    return ClusterShape(cpus=max(1, *(cpus for cpus, _ in asked)), gpus=max(gpus for _, gpus in asked))


class _Rehearsal:
    """The stages in their order; one that fails ends it, since the next ones read what it makes."""

    def __init__(
        self,
        stages: Mapping[str, Any],
        shape: ClusterShape | None,
        folder: Path,
        num_questions: int,
        say: Callable[[str], None],
        running: ExitStack,
    ) -> None:
        self._stages = dict(stages)
        self._shape = shape
        self._folder = folder
        self._say = say
        self._running = running
        self._models = widened(folder / "models")
        self._num_questions = num_questions
        self._artifacts: dict[str, Artifact] = {}
        self._without_room: set[str] = set()

    def carry_out(self, with_engines: bool) -> Iterator[str]:
        """Run everything; yields findings."""
        for name, config in self._stages.items():
            yield from self._places(name, config)
            yield from self._sends(name, config)
            started = time.monotonic()
            try:
                self._run(self._standing_in(name, config), self._run_of(name, with_engines))
            except Exception as error:  # noqa: BLE001 - whatever ends a stage here would end it there
                yield _told(name, error)
                return
            self._say(f"{name} took {time.monotonic() - started:.0f} s")
            if name == "questions":
                yield from self._more_images()

    def _standing_in(self, name: str, config: Any) -> Any:
        """The settings with which a stage is rehearsed."""
        if name == "questions" and not config.inputs() and not standins.are_there(config):
            self._say("its questions are not on this machine: drawn ones stand in, in the form that its readers read")
            config = standins.write(config, self._folder / "brought", self._num_questions)
        rehearsed: Any = config.rehearsed(self._models, self._num_questions)
        if name == "teach" and name in self._without_room:  # it would wait for ever
            rehearsed = dataclasses.replace(rehearsed, engine=rehearsed.engine.on_cpu(), min_replicas=None)
        if name == "teach" and rehearsed.endpoint:
            told = stub_endpoint.endpoint(self._answers().to_body, models=[rehearsed.teacher])
            return dataclasses.replace(rehearsed, endpoint=self._running.enter_context(told))
        if name == "verify" and rehearsed.reread:
            told = stub_endpoint.endpoint(self._answers().to_body, models=[rehearsed.reread.model])
            reread = dataclasses.replace(rehearsed.reread, endpoint=self._running.enter_context(told))
            return dataclasses.replace(rehearsed, reread=reread)
        return rehearsed

    def _answers(self) -> standins.Answers:
        return standins.Answers.of(self._artifacts["questions"].path)

    def _places(self, name: str, config: StageConfig) -> Iterator[str]:
        """Whether the workers find their places on the logical cluster; what has no room by its sums was told."""
        asked = config.resources()
        if not asked:
            return
        if self._shape and lacking(self._shape, asked):
            self._without_room.add(name)
        elif why := cluster.without_place(asked):
            self._without_room.add(name)
            yield f"{name}: {why}. Name a cluster that has room for them: --set cluster.nodes=2"
        else:
            self._say(f"{name} has its places: {words(asked)}")

    def _sends(self, name: str, config: StageConfig) -> Iterator[str]:
        """What vLLM's own parser says of the arguments of each engine, and whether it is a model that the recipe names.

        For the stage's real settings and artifacts as the real run's would be.
        """
        sends = getattr(importlib.import_module(config.module), "sends", None)
        if sends is None:
            return
        teach, fit = self._stages["teach"], self._stages["fit"]
        named = {teach.teacher: teach.revision, fit.base: fit.revision}
        try:
            with _logs_as_they_are():
                sent = sends(config, {read: self._would_be(read) for read in config.inputs()})
            for arguments in sent:
                model, revision = arguments["model"], arguments["revision"]
                if why := engine_config.refused_by_vllm(arguments, self._models / "base"):
                    yield f"{name}: vLLM does not take the arguments of {model}: {why}"
                if model in named and revision != named[model]:
                    yield f"{name}: {model} would be loaded in revision {revision}, and the recipe names {named[model]}"
        except Exception as error:  # noqa: BLE001 - as above
            yield _told(name, error)

    def _would_be(self, output: str) -> Artifact:
        """A sealed artifact as the run's own would be: of the recipe's models, which are not looked at."""
        made = self._artifacts.get(output) or self._artifacts[output.partition("-seed")[0]]  # one seed is rehearsed
        config = next(config for config in self._stages.values() if output in config.outputs()).outputs()[output]
        origin = {
            "config": dataclasses.asdict(config),
            "paths": config.materials(),
            "materials": {name: digest_json({"id": path}) for name, path in config.materials().items()},
        }
        return Artifact(made.path, dataclasses.replace(made.manifest, made_from=made.made_from | origin))

    def _run_of(self, name: str, with_engines: bool) -> Run | None:
        """What does a stage's work in the place of its own `run`."""
        if name == "teach" and not self._stages["teach"].endpoint:
            teach = importlib.import_module(self._stages["teach"].module).run
            return functools.partial(teach, start=functools.partial(standins.Engine, answers=self._answers()))
        if with_engines or name not in ("fit", "deploy"):
            return None
        return standins.fit if name == "fit" else functools.partial(standins.deploy, running=self._running)

    def _run(self, config: StageConfig, run: Run | None) -> None:
        """Seal the stage's outputs in the rehearsal's folder."""
        inputs = {name: self._artifacts[name] for name in config.inputs()}
        made = runner.carry_out(config, self._folder, Progress(config.stage), inputs=inputs, run=run, afresh=True)
        self._artifacts |= made

    def _more_images(self) -> Iterator[str]:
        """What the settings are too small for where questions have several images."""
        teach, sealed = self._stages["teach"], self._artifacts["questions"].path
        num_images = max(len(question.images) for question in tables.stream(sealed, Question))
        taking = dataclasses.replace(teach, engine=teach.engine.taking(num_images))
        known = set(preflight.findings(self._stages, None))
        more = preflight.findings(self._stages | {"teach": taking}, None)
        yield from (f"questions with {num_images} images: {finding}" for finding in more if finding not in known)


@contextmanager
def _logs_as_they_are() -> Iterator[None]:
    """Keep how this process logs: Ray's engine sets it up for itself when it is imported."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _told(name: str, error: BaseException) -> str:
    """An error as one line."""
    said = str(prerequisite(error) or in_one_line(error))
    return f"{name}: {' '.join(said.split())}"
