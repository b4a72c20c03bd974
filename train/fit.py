"""Examples -> adapters: an arm's LoRA with one seed, fitted by Ray Train's workers with DeepSpeed. [edge]"""

import dataclasses
import gc
import shutil
from collections.abc import Callable
from pathlib import Path

import ray
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError

from infra import cluster, command_line
from infra.digests import digest_json
from infra.errors import ArtifactError, ClusterError, InputError, first_line
from infra.manifest import Tally, write_json
from infra.runner import made_from
from infra.stage import Task
from pipelines.records import TrainingExample, tables
from train.card import model_card
from train.curve import CurveReader, Point
from train.disk import disk_errors
from train.job import FitJob, FitOutcome
from train.recipes import FitConfig
from train.workers import RAY_FOLDER, run_workers

_METRIC_EVERY_STEPS = 10
_NUM_FINAL_STEPS = 10  # final_loss is their mean, because the loss of one step is noisy
# How a fit is carried out. These settings may change between a fit that was stopped and the one that continues it.
_EXECUTION_SETTINGS = frozenset(
    {
        "num_workers",
        "min_workers",
        "cpus_per_worker",
        "gpus_per_worker",
        "max_restarts",
        "tokens_per_pack",
        "gpu_memory_gib",
        "image_cache_gib",
        "checkpoint_every",
        "zero_stage",
        "offload_optimizer",
        "gradient_checkpointing",
    }
)
_ENDED = "ended"  # an empty file beside the checkpoints of a fit that came to its end


def run(task: Task) -> Tally:
    """Fit the adapter of the one arm in the task's config, into the task's draft.

    Raises InputError when the base model, the examples or an image cannot be used, ClusterError when the workers die
    too often, and ArtifactError when the disk is full or the loss curve has gaps.
    """
    config: FitConfig = task.config
    (arm,) = config.arms
    job = FitJob(
        config=config,
        base=locate_base(config.base),
        examples=task.run_dir / "examples" / arm,
        compared=tuple(task.run_dir / "examples" / other for other in config.compared_arms),
        images=task.run_dir / "questions",
        rationales=task.run_dir / "rationales",
        checkpoints=checkpoints_of(task),
        folder=task.draft,
    )
    check_examples(job.examples)
    if config.gpu_memory_gib is not None:
        from train import memory  # loads Transformers, which the driver needs for nothing else

        memory.check(config)
    remove_ended_checkpoints(job.checkpoints, task.progress.say)
    cluster.connect()
    curve = CurveReader(job.checkpoints)
    outcome = run_with_restarts(task, job, curve)
    with disk_errors(job.checkpoints):
        (job.checkpoints / _ENDED).touch()
    points = curve.points(outcome.last_step)
    if [point.step for point in points] != list(range(1, outcome.last_step + 1)):
        raise ArtifactError(
            f"{job.checkpoints} has {len(points)} of {outcome.last_step} steps in its loss curve, so it is not known "
            "how the adapter was trained. Delete that folder, and run the stage again."
        )
    with disk_errors(task.draft):
        (task.draft / "README.md").write_text(model_card(config, arm, outcome))
    write_json(task.draft / "training.json", {"steps": [dataclasses.asdict(point) for point in points]})
    return tally(outcome, points)


def checkpoints_of(task: Task) -> Path:
    """The folder of a fit's checkpoints, named by the digest of its inputs and of the settings that decide its result.

    A fit with other inputs or such settings gets another folder, and so never continues from these checkpoints. The
    execution settings do not count: they change the result in its last digits only.
    """
    (arm,), (output,) = task.config.arms, task.config.outputs()
    origin = made_from(task.config, output, task.inputs)
    deciding = {name: value for name, value in origin["config"].items() if name not in _EXECUTION_SETTINGS}
    digest = digest_json(origin | {"config": deciding, "paths": None})
    return task.run_dir / "checkpoints" / str(arm) / digest[:16]


def remove_ended_checkpoints(checkpoints: Path, say: Callable[[str], None]) -> None:
    """Delete the checkpoints of the arm's other fits, with another seed too, that came to their end.

    Those of a fit that was stopped are kept and reported, because it may still be continued.
    """
    with disk_errors(checkpoints):
        checkpoints.mkdir(parents=True, exist_ok=True)
        for other in checkpoints.parent.iterdir():
            if other == checkpoints:
                continue
            if (other / _ENDED).exists():
                shutil.rmtree(other, ignore_errors=True)
            elif any(other.glob("step-*")):
                say(f"{other} has checkpoints of a fit with other settings that did not end; delete it if none should")


def run_with_restarts(task: Task, job: FitJob, curve: CurveReader) -> FitOutcome:
    """Run the workers. When they die, run them again from the newest checkpoint, at most max_restarts times.

    Raises ClusterError when that was not enough, or when the same error comes back without a new checkpoint in between
    and no worker's process was lost.
    """
    last: tuple[str, str] | None = None
    for num_restarts in range(job.config.max_restarts + 1):
        require_resources(task)
        try:
            return run_workers(job, lambda: show_progress(task, curve))
        except WorkerGroupError as error:
            failures = list(error.worker_failures.values())
            died = ", ".join(sorted({type(failure).__name__ for failure in failures}))
            checkpoint = max((path.name for path in job.checkpoints.glob("step-*")), default="the start")
            is_hopeless = last == (checkpoint, died) and not any(isinstance(each, RayActorError) for each in failures)
            if num_restarts == job.config.max_restarts or is_hopeless:
                raise ClusterError(
                    f"The workers died {num_restarts + 1} times, now with {died} ({first_line(failures[0])}). Run the "
                    f"stage again when that is mended: it continues from {checkpoint}."
                ) from error
            last = checkpoint, died
            task.progress.say(f"workers died ({died}); starting again from {checkpoint}")
        finally:
            shutil.rmtree(job.folder / RAY_FOLDER, ignore_errors=True)
    raise AssertionError


def locate_base(base: str) -> str:
    """The absolute path of a model folder, or a hub id unchanged. Raises InputError for a folder that does not exist.

    Absolute, because Ray Train's workers have another working directory.
    """
    if Path(base).is_dir():
        return str(Path(base).absolute())
    is_hub_id = base.count("/") == 1 and not base.startswith(("/", ".", "~"))
    if not is_hub_id:
        raise InputError(f"No model at {base}: run `make pocket-models`, or set fit.base=... to a folder or a hub id")
    return base


def check_examples(folder: Path) -> None:
    """Raise InputError when the arm's table has no example."""
    if not tables.count(folder, TrainingExample):
        raise InputError(f"{folder} has no example: no rationale was accepted. The manifest of verdicts/ says why")


def require_resources(task: Task) -> None:
    """Print what the fit asks Ray for. Raises ClusterError when a local Ray is too small; a cluster may still grow."""
    config: FitConfig = task.config
    each = {"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker}
    fewest = config.min_workers or config.num_workers
    wanted = " and ".join(f"{config.num_workers * count} {name}" for name, count in each.items() if count)
    fewer = f", or as few as {fewest} where there is no more" if fewest < config.num_workers else ""
    task.progress.say(f"{config.arms[0]}, seed {config.seed}: {config.num_workers} workers start with {wanted}{fewer}")
    cluster.require(task.progress.say, cpus=fewest * each["CPU"], gpus=fewest * each["GPU"])


def show_progress(task: Task, curve: CurveReader) -> None:
    """Show the steps that were taken since the last call, and record their metrics."""
    new = curve.new_points()
    if not new:
        return
    for point in new:
        if point.step % _METRIC_EVERY_STEPS == 0 or point.validation_loss is not None:
            for name, value in step_metrics(point).items():
                task.metric(name, value, point.step)
    last = new[-1]
    seconds = sum(point.seconds for point in new)
    speed = sum(point.num_tokens for point in new) / max(seconds, 1e-6)
    task.progress(last.step, task.config.num_steps, "steps", loss=f"{last.loss:.3f}", tokens_per_s=round(speed))


def step_metrics(point: Point) -> dict[str, float]:
    """The MLflow metrics of a step, by name; those that were not measured are left out."""
    seconds = max(point.seconds, 1e-9)
    metrics = {
        "loss": point.loss,
        "learning_rate": point.learning_rate,
        "gradient_norm": point.gradient_norm,
        "tokens_per_second": point.num_tokens / seconds,
        "target_tokens_per_second": point.num_targets / seconds,
        "reading_share": point.reading_s / seconds,
        "overhead_share": 1 - point.computing_s / seconds,
        "memory_gib": point.memory_gib,
        "model_flops_utilization": point.utilization,
        "validation_loss": point.validation_loss,
        "validation_accuracy": point.validation_accuracy,
        "divergence": point.divergence,
        "validation_divergence": point.validation_divergence,
    }
    return {name: value for name, value in metrics.items() if value is not None}


def tally(outcome: FitOutcome, points: list[Point]) -> Tally:
    """The counts and metrics of the fit's manifest: every example is trained on, or left out for a reason."""
    final = [point.loss for point in points[-_NUM_FINAL_STEPS:]]
    seconds = max(sum(point.seconds for point in points), 1e-9)
    evaluated = [point for point in points if point.validation_loss is not None]
    return Tally(
        rows={"examples": outcome.num_examples, "trained_on": outcome.num_trained_on},
        reasons=outcome.reasons,
        metrics={
            "steps": outcome.last_step,
            "best_step": outcome.best_step,
            "step_seconds": round(seconds, 3),
            "seconds_since_start": round(outcome.seconds, 3),
            "final_loss": sum(final) / len(final),
            "tokens_per_second": sum(point.num_tokens for point in points) / seconds,
            "target_tokens_per_second": sum(point.num_targets for point in points) / seconds,
            "reading_share": sum(point.reading_s for point in points) / seconds,
            "overhead_share": 1 - sum(point.computing_s for point in points) / seconds,
            "trainable_parameters": outcome.num_trainable,
        }
        | (
            {"teacher_topk_share": outcome.num_topk_targets / outcome.num_targets}
            if points[-1].divergence is not None
            else {}
        )
        | {
            name: value
            for name in ("validation_loss", "validation_accuracy", "validation_divergence")
            if evaluated and (value := getattr(evaluated[-1], name)) is not None
        },
    )


if __name__ == "__main__":
    command_line.main("fit", "train")
    if ray.is_initialized():
        ray.shutdown()  # at the end of the process, Ray's own shutdown would first wait half a second
        gc.freeze()  # saves the last garbage collection, which takes a second with torch and MLflow imported
