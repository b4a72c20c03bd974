"""Examples -> adapters: one arm's LoRA, fitted by Ray Train's workers with DeepSpeed. [edge]"""

import dataclasses
import gc
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train import LoggingConfig, Result, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from infra import cluster, command_line
from infra.digests import digest_json
from infra.errors import ArtifactError, ClusterError, InputError, first_line, prerequisite
from infra.imports import pause_garbage_collection, skip_optional_imports
from infra.manifest import Tally, write_json
from infra.runner import made_from
from infra.stage import Task
from pipelines.records import TrainingExample, tables
from train.card import model_card
from train.recipes import FitConfig
from train.rendezvous import LoopbackConfig
from train.work import CurveReader, Outcome, Point, Work, writing

_POLL_S = 0.5
_METRIC_EVERY_STEPS = 10
_NUM_FINAL_STEPS = 10  # one step's loss is noisy: a fit is said to end with the mean of its last ones
# Ray Train notices the workers' end within this many seconds, by default 2. Its watcher for nodes about to be taken
# away would start a fit over in silence, and is a process more. Of a lost node it hears up to 20 seconds late; what it
# waits for on one until then it gives up after this long, by default a minute, and asks for less.
_RAY_TRAIN = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(_POLL_S),
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
}
# What may differ between a fit that was stopped and the one that goes on.
_PIECES = frozenset(
    {"num_workers", "min_workers", "cpus_per_worker", "gpus_per_worker", "max_restarts", "tokens_per_pack"}
    | {
        "gpu_memory_gib",
        "image_cache_gib",
        "checkpoint_every",
        "zero_stage",
        "offload_optimizer",
        "gradient_checkpointing",
    }
)
_ENDED = "ended"  # a file beside the checkpoints of a fit that came to its end
_ENGINE = "ray"  # Ray Train's own folder inside the draft, removed when the fit is done


def run(task: Task) -> Tally:
    """Fit the adapter of the one arm that the task's config names, into the task's draft.

    Raises InputError when the base model, the examples or an image cannot be used as they are.
    """
    config: FitConfig = task.config
    (arm,) = config.arms
    work = Work(
        config=config,
        base=locate_base(config.base),
        examples=task.run_dir / "examples" / arm,
        images=task.run_dir / "questions",
        rationales=task.run_dir / "rationales",
        checkpoints=checkpoints_of(task),
        folder=task.draft,
        card=model_card(config, arm),
    )
    check_examples(work.examples)
    _check_memory(config)
    make_room(work.checkpoints, task.progress.say)
    cluster.connect()
    curve = CurveReader(work.checkpoints)
    outcome = run_to_the_end(task, work, curve)
    with writing(work.checkpoints):
        (work.checkpoints / _ENDED).touch()
    points = curve.points(outcome.last_step)
    if [point.step for point in points] != list(range(1, outcome.last_step + 1)):
        raise ArtifactError(
            f"{work.checkpoints} has {len(points)} of {outcome.last_step} steps in its loss curve, so that what the "
            "adapter rests on cannot be told. Delete that folder, and run the stage again."
        )
    write_json(task.draft / "training.json", {"steps": [dataclasses.asdict(point) for point in points]})
    return tally(outcome, points)


def checkpoints_of(task: Task) -> Path:
    """Where a fit keeps its state: a folder for all that decides its course, so that no other fit goes on from it.

    How many workers do it, and in what pieces, decides nothing but the last digits.
    """
    (arm,) = task.config.arms
    origin = made_from(task.config, f"adapters/{arm}", task.inputs)
    course = {name: value for name, value in origin["config"].items() if name not in _PIECES}
    digest = digest_json(origin | {"config": course, "paths": None})
    return task.run_dir / "checkpoints" / str(arm) / digest[:16]


def _check_memory(config: FitConfig) -> None:
    """Refuse what cannot fit, before a GPU is asked for."""
    if config.gpu_memory_gib is not None:
        from train import memory  # lays a model out, which most recipes have no need of here

        memory.check(config)


def make_room(checkpoints: Path, say: Callable[[str], None]) -> None:
    """Forget what other fits of the arm left that came to their end; one that did not may yet go on."""
    with writing(checkpoints):
        checkpoints.mkdir(parents=True, exist_ok=True)
        for other in checkpoints.parent.iterdir():
            if other == checkpoints:
                continue
            if (other / _ENDED).exists():
                shutil.rmtree(other, ignore_errors=True)
            elif any(other.glob("step-*")):
                say(f"{other} has checkpoints of a fit with other settings that did not end; delete it if none should")


def run_to_the_end(task: Task, work: Work, curve: CurveReader) -> Outcome:
    """Run the workers, and after a death run them again from the newest checkpoint, as often as the recipe allows.

    Raises ClusterError when that was not enough, or when the same error came back where nothing was learned in between.
    """
    last: tuple[str, str] | None = None
    for num_restarts in range(work.config.max_restarts + 1):
        _say_what_is_asked_for(task)
        try:
            return run_workers(task, work, curve)
        except WorkerGroupError as error:
            failures = list(error.worker_failures.values())
            died = ", ".join(sorted({type(failure).__name__ for failure in failures}))
            checkpoint = max((path.name for path in work.checkpoints.glob("step-*")), default="the start")
            is_hopeless = last == (checkpoint, died) and not any(isinstance(each, RayActorError) for each in failures)
            if num_restarts == work.config.max_restarts or is_hopeless:
                raise ClusterError(
                    f"The workers died {num_restarts + 1} times, now with {died} ({first_line(failures[0])}). Run the "
                    f"stage again when that is mended: it goes on from {checkpoint}."
                ) from error
            last = checkpoint, died
            task.progress.say(f"workers died ({died}); starting again from {checkpoint}")
        finally:
            shutil.rmtree(work.folder / _ENGINE, ignore_errors=True)
    raise AssertionError


def locate_base(base: str) -> str:
    """The absolute path of a model folder, or a hub id as it is. Raises InputError for a folder that is not there.

    Absolute, since a worker of Ray Train works in another folder.
    """
    if Path(base).is_dir():
        return str(Path(base).absolute())
    is_hub_id = base.count("/") == 1 and not base.startswith(("/", ".", "~"))
    if not is_hub_id:
        raise InputError(f"No model at {base}: run `make pocket-models`, or set fit.base=... to a folder or a hub id")
    return base


def check_examples(folder: Path) -> None:
    """Raises InputError when there is nothing to learn."""
    if not tables.count(folder, TrainingExample):
        raise InputError(f"{folder} has no example: no rationale was accepted. The manifest of verdicts/ says why")


def run_workers(task: Task, work: Work, curve: CurveReader) -> Outcome:
    """Run the workers to their end while the curve is read along; the user's error comes out of Ray's wrapping."""
    ended: Future[Result] = Future()
    # Not in the main thread: there Ray would take the interrupt for itself and exit with success.
    threading.Thread(target=_settle, args=(ended, trainer(work)), daemon=True).start()
    try:
        while not ended.done():
            wait([ended], timeout=_POLL_S)
            _show(task, curve)
    except (KeyboardInterrupt, SystemExit):
        ray.shutdown()  # else the process ends under the thread that waits for Ray, and aborts
        raise
    try:
        outcome: Outcome = ended.result().return_value
    except WorkerGroupError as error:
        for failure in error.worker_failures.values():
            if cause := prerequisite(failure):
                raise cause from error
        raise
    return outcome


def _settle(future: Future[Result], fitting: TorchTrainer) -> None:
    try:
        future.set_result(fitting.fit())
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised again in the main thread
        future.set_exception(error)


class _Trainer(TorchTrainer):
    """Ray Train without its cleaner of placement groups, and without its datasets.

    The cleaner looks for our controller in whichever Ray it finds first on the machine. Where a second one runs, it
    does not find it, takes our workers for orphans, and has them killed in the middle of a step. What it would clean up
    after ends with our job anyway. Datasets, of which there are none, would have a process of their own.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unwanted = (PlacementGroupCleanerCallback, DatasetsCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unwanted)]


def trainer(work: Work) -> TorchTrainer:
    """Ray Train's part: as many workers as the config says, each of which runs the loop on the work."""
    config = work.config
    for name, value in _RAY_TRAIN.items():
        os.environ.setdefault(name, value)
    return _Trainer(
        _work,
        train_loop_config={"work": work},
        scaling_config=ScalingConfig(
            num_workers=(config.min_workers, config.num_workers) if config.min_workers else config.num_workers,
            use_gpu=config.gpus_per_worker > 0,
            resources_per_worker={"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker},
        ),
        torch_config=LoopbackConfig() if cluster.is_on_loopback() else None,
        run_config=RunConfig(
            name=_ENGINE,
            storage_path=str(work.folder),
            logging_config=LoggingConfig(log_level="CRITICAL"),
            worker_runtime_env={"env_vars": _worker_environment(config)},
        ),
    )


def _worker_environment(config: FitConfig) -> dict[str, str]:
    threads = {"OMP_NUM_THREADS": str(config.cpus_per_worker)}
    if config.gpus_per_worker:
        # cuBLAS then adds up in the same order every time, as an exact resume needs; and packs of many lengths leave no
        # holes in the GPU's memory, which had taken up to a third more than was in use.
        return threads | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    # The loop is not in the process's first thread, where OpenMP would let threads sleep at every meeting of theirs.
    return threads | {"DS_ACCELERATOR": "cpu", "OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "100000"}


def _work(loop_config: dict[str, Any]) -> Outcome:
    """What each worker runs. The loop is imported here, since the driver has no use for the libraries it stands on."""
    with skip_optional_imports(), pause_garbage_collection():
        from train import loop

    return loop.fit(loop_config["work"])


def _say_what_is_asked_for(task: Task) -> None:
    config: FitConfig = task.config
    each = {"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker}
    fewest = config.min_workers or config.num_workers
    words = " and ".join(f"{config.num_workers * count} {name}" for name, count in each.items() if count)
    fewer = f", or as few as {fewest} where there is no more" if fewest < config.num_workers else ""
    task.progress.say(f"{config.arms[0]}: {config.num_workers} workers start with {words}{fewer}")
    cluster.require(task.progress.say, cpus=fewest * each["CPU"], gpus=fewest * each["GPU"])


def _show(task: Task, curve: CurveReader) -> None:
    new = curve.new_points()
    if not new:
        return
    for point in new:
        if point.step % _METRIC_EVERY_STEPS == 0 or point.validation_loss is not None:
            for name, value in watched(point).items():
                task.metric(name, value, point.step)
    last = new[-1]
    seconds = sum(point.seconds for point in new)
    speed = sum(point.num_tokens for point in new) / max(seconds, 1e-6)
    task.progress(last.step, task.config.num_steps, "steps", loss=f"{last.loss:.3f}", tokens_per_s=round(speed))


def watched(point: Point) -> dict[str, float]:
    """What is plotted of a step, by name."""
    seconds = max(point.seconds, 1e-9)
    told = {
        "loss": point.loss,
        "learning_rate": point.learning_rate,
        "gradient_norm": point.gradient_norm,
        "tokens_per_second": point.num_tokens / seconds,
        "target_tokens_per_second": point.num_targets / seconds,
        "reading_share": point.reading_s / seconds,
        "machinery_share": 1 - point.computing_s / seconds,
        "memory_gib": point.memory_gib,
        "model_flops_utilization": point.utilization,
        "validation_loss": point.validation_loss,
        "validation_accuracy": point.validation_accuracy,
        "divergence": point.divergence,
        "validation_divergence": point.validation_divergence,
    }
    return {name: value for name, value in told.items() if value is not None}


def tally(outcome: Outcome, points: list[Point]) -> Tally:
    """What the fit's manifest says: every example accounted for, and how fast it went."""
    final = [point.loss for point in points[-_NUM_FINAL_STEPS:]]
    seconds = max(sum(point.seconds for point in points), 1e-9)
    evaluated = [point for point in points if point.validation_loss is not None]
    return Tally(
        rows={"examples": outcome.num_examples, "trained_on": outcome.num_trained_on},
        reasons=outcome.reasons,
        figures={
            "steps": outcome.last_step,
            "best_step": outcome.best_step,
            "step_seconds": round(seconds, 3),
            "seconds_since_start": round(outcome.seconds, 3),
            "final_loss": sum(final) / len(final),
            "tokens_per_second": sum(point.num_tokens for point in points) / seconds,
            "target_tokens_per_second": sum(point.num_targets for point in points) / seconds,
            "reading_share": sum(point.reading_s for point in points) / seconds,
            "machinery_share": 1 - sum(point.computing_s for point in points) / seconds,
            "trainable_parameters": outcome.num_trainable,
        }
        | ({"told_share": outcome.num_told / outcome.num_targets} if points[-1].divergence is not None else {})
        | {
            name: value
            for name in ("validation_loss", "validation_accuracy", "validation_divergence")
            if evaluated and (value := getattr(evaluated[-1], name)) is not None
        },
    )


if __name__ == "__main__":
    command_line.main("fit", "train")
    if ray.is_initialized():
        ray.shutdown()  # left to the end of the process, Ray would wait half a second first
        gc.freeze()  # else Python ends by looking through all of torch and MLflow for garbage, for a second
