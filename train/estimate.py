"""A fit's config, and earlier fits of the run -> estimated hours, tokens and bytes of its adapters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra import manifest
from infra.figures import GIB, SECONDS_PER_HOUR, Figure, figure
from infra.manifest import Artifact
from infra.resources import ClusterShape
from pipelines.records import adapters_of
from train import memory
from train.job import NUM_CHECKPOINTS_KEPT
from train.recipes import FitConfig

# The settings that decide how long a step takes.
_STEP_SETTINGS = {
    "base",
    "lora_rank",
    "batch_size",
    "max_length",
    "tokens_per_pack",
    "precision",
    "gradient_checkpointing",
    "num_workers",
    "cpus_per_worker",
    "gpus_per_worker",
    "zero_stage",
    "offload_optimizer",
    "distillation_weight",
}


def estimate(
    config: FitConfig, run_dir: Path | None, makes: Sequence[str] = (), cluster: ClusterShape | None = None
) -> dict[str, Any]:
    """What a dry run prints about making these adapters, those of further seeds included. makes: their names as
    outputs, such as `adapters/answer_only`. Raises InputError when a worker's GPU has too little memory."""
    need, makes = memory.check(config), makes or list(config.outputs())
    earlier = [artifact for output in config.outputs() if (artifact := _earlier(config, run_dir, output))]
    num_steps = config.num_steps * len(makes)
    steps = f"{config.num_steps:,} steps x {len(makes)} adapter(s)"
    hours = Figure(None, "no step is measured yet: --set fit.expected_examples_per_s=EXAMPLES, of all workers")
    tokens = Figure(None, "no step is measured yet")
    if earlier:
        metrics = [artifact.tally["metrics"] for artifact in earlier]
        seconds = sum(each["step_seconds"] / each["steps"] for each in metrics) / len(metrics)
        each_step = seconds * sum(each["tokens_per_second"] for each in metrics) / len(metrics)
        hours = figure(num_steps * seconds / SECONDS_PER_HOUR, f"{steps} x {seconds:.3g} s, measured the last time")
        tokens = figure(round(num_steps * each_step), f"{steps} x {each_step:,.0f} tokens, measured the last time")
    elif speed := config.expected_examples_per_s:
        hours = figure(
            num_steps * config.batch_size / speed / SECONDS_PER_HOUR,
            f"{steps} x {config.batch_size} examples / {speed:g} a second, from the recipe",
        )
    # A fit removes the checkpoints that its arm's earlier ones have left behind.
    num_arms = sum(any(name in makes for name in adapters_of([arm], config.seeds)) for arm in config.arms)
    num_bytes = len(makes) * need.adapter + num_arms * NUM_CHECKPOINTS_KEPT * need.checkpoint
    disk = figure(
        num_bytes / GIB,
        f"{need.num_trainable:,} numbers per adapter, and for each arm {NUM_CHECKPOINTS_KEPT} checkpoints with two "
        "moments of each",
    )
    counts = {"steps": config.num_steps, "examples_seen": config.num_steps * config.batch_size}
    notes = [memory.describe(need, config)]
    return {"tokens": tokens, "hours": hours, "disk_gib": disk, "notes": notes} | need.as_json() | counts


def _earlier(config: FitConfig, run_dir: Path | None, output: str) -> Artifact | None:
    """The run's existing adapter, if its steps had the same settings and so take as long."""
    found = manifest.find(run_dir / output) if run_dir else None
    if found is None or not found.tally["metrics"].get("steps"):
        return None
    its_config = found.made_from["config"]
    return found if all(its_config.get(name) == getattr(config, name) for name in _STEP_SETTINGS) else None
