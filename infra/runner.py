"""Runs a stage: its outputs that are current are reused, the others are made, sealed and recorded."""

import dataclasses
import importlib
import json
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from infra import ancestry, journal, manifest, materials
from infra.errors import ArtifactError
from infra.journal import Recorder
from infra.manifest import Artifact, Tally
from infra.progress import Progress
from infra.stage import StageConfig, Task


def check_prerequisites(config: StageConfig) -> None:
    """Raise InputError when a file or model folder that the stage will read is not there, or ConfigError for what else
    the stage needs and this environment lacks."""
    config.check()
    materials.check(config)


def made_from(config: StageConfig, output: str, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """All that decides an output: stage, contract, settings, digests of inputs, materials and prompts."""
    own = config.outputs()[output]
    return {
        "stage": config.stage,
        "contract": config.contract,
        "config": json.loads(json.dumps(dataclasses.asdict(own))),
        "inputs": {name: inputs[name].digest for name in own.inputs()},
        "materials": {name: materials.digest(own, name) for name in own.materials()},
        "prompts": own.prompt_digests(),
        "paths": dict(own.materials()),
    }


def current_outputs(config: StageConfig, run_dir: Path) -> dict[str, Artifact] | None:
    """The stage's sealed outputs if all of them are what it would make now, else None."""
    found = {name: manifest.find(run_dir / name) for name in (*config.inputs(), *config.outputs())}
    sealed = {name: artifact for name, artifact in found.items() if artifact is not None}
    if len(sealed) < len(found):
        return None
    outputs = {output: sealed[output] for output in config.outputs()}
    are_current = all(_is_current(outputs[output], made_from(config, output, sealed)) for output in outputs)
    return outputs if are_current else None


def _is_current(artifact: Artifact, origin: Mapping[str, Any]) -> bool:
    return artifact.manifest.key == manifest.key(origin)


def sealed_inputs(config: StageConfig, run_dir: Path) -> dict[str, Artifact]:
    """The artifacts that the stage reads. Raises ArtifactError when one is not sealed yet, or when two of them were
    made from different versions of a third."""
    inputs = {}
    for name in config.inputs():
        artifact = manifest.find(run_dir / name, every_byte=True, but_below=config.digests_itself)
        if artifact is None:
            raise ArtifactError(
                f"{run_dir / name} is not there yet. Run the stage that makes it first, or the whole flow: "
                f"python -m pipelines.flow RECIPE --run-dir {shlex.quote(str(run_dir))}"
            )
        inputs[name] = artifact
    ancestry.check(inputs, run_dir, inputs_only=config.service)
    return inputs


def carry_out(
    config: StageConfig,
    run_dir: Path,
    progress: Progress,
    *,
    inputs: Mapping[str, Artifact] | None = None,
    run: Callable[[Task], Tally] | None = None,
    at: Path | None = None,
    afresh: bool = False,
) -> dict[str, Artifact]:
    """Run a stage: reuse what is current, make and seal the rest, record it. Returns the sealed outputs by name.

    inputs: what it reads, else the sealed inputs in the run folder. run: instead of the `run` of the stage's module.
    at: where the stage's only output goes, else each lies in the run folder by its name. afresh: make current outputs
    again too.
    """
    if inputs is None:
        inputs = sealed_inputs(config, run_dir)
    journals = run_dir / journal.FOLDER if at is None else journal.folder(run_dir, at)
    made = {}
    with journal.recorder(run_dir, journals, progress) as recorder:
        for output in config.outputs():
            place, origin = at or run_dir / output, made_from(config, output, inputs)
            artifact = None if config.service or afresh else manifest.find(place)
            if artifact is not None and _is_current(artifact, origin):
                progress.say(f"{output} is up to date")
            else:
                artifact = _make(config, output, place, origin, inputs, recorder, run)
                progress.say(f"sealed {output} {artifact.counts()}")
            made[output] = artifact
    return made


def _make(
    config: StageConfig,
    output: str,
    place: Path,
    origin: dict[str, Any],
    inputs: Mapping[str, Artifact],
    recorder: Recorder,
    run: Callable[[Task], Tally] | None,
) -> Artifact:
    """Make one output of a stage and seal it at `place`."""
    own = config.outputs()[output]
    with (
        recorder.journal(config.stage, output, place, manifest.key(origin)) as lines,
        manifest.draft(place) as draft,
    ):
        started = time.monotonic()
        task = Task(
            config=own,
            run_dir=recorder.run_dir,
            inputs={name: inputs[name] for name in own.inputs()},
            draft=draft,
            progress=recorder.progress,
            metric=lines.metric,
        )
        tally = (run or importlib.import_module(config.module).run)(task)
        seconds = time.monotonic() - started
        artifact = manifest.seal(draft, place, stage=config.stage, made_from=origin, tally=tally, seconds=seconds)
        lines.sealed(artifact)
    return artifact
