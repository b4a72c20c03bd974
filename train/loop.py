"""The training loop, which every worker runs to fit one arm's adapter. [edge]"""

import dataclasses
import logging
import math
import resource
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, pairwise
from typing import Any

import torch
import transformers
from ray.train import get_context
from ray.train.torch import get_device

from infra.errors import InputError
from infra.figures import GIB
from train import adapter, checkpoint, dataset, utilization, validation, zero
from train.curve import CurveWriter, Point
from train.dataset import DatasetSplit
from train.encoding import Encoded
from train.job import HELD_OUT, NOT_REACHED, FitJob, FitOutcome
from train.packing import RankShard, plan
from train.recipes import FitConfig
from train.student import Student, enable_gradient_checkpointing, load, now
from train.validation import Best


def fit(job: FitJob) -> FitOutcome:
    """Fit the adapter on all ranks together, from the newest checkpoint on. The first rank saves it.

    Raises InputError when the model, the examples or an image cannot be used, when a loss is not finite, or when a GPU
    runs out of memory, and ArtifactError on a full disk.
    """
    _silence_libraries()
    make_deterministic(get_device())
    config, rank = job.config, get_context().get_world_rank()
    model, processor = load(job.base, config.precision, config.revision)
    split = dataset.read(job, processor, vocab_size=model.config.text_config.vocab_size)
    student = _adapted_student(model, processor, config)
    engine = zero.start(student.loss, config)
    started = now(student.device)
    step, best = _train(job, split, student, engine, rank)
    seconds = now(student.device) - started
    if config.patience is not None:
        best.restore(student)
    if rank == 0:
        adapter.save(student.model, job.folder)
    # An epoch has no repeats, so a first epoch that was cut short has not reached the rest of the examples.
    examples = split.train
    num_seen = min(len(examples), step * config.batch_size)
    left_out = {HELD_OUT: len(split.held_out), NOT_REACHED: len(examples) - num_seen}
    return FitOutcome(
        num_examples=split.num_rows,
        num_trained_on=num_seen,
        reasons=split.reasons | {reason: count for reason, count in left_out.items() if count},
        watched=split.watched,
        num_trainable=adapter.num_trainable(student.model),
        num_targets=sum(example.num_targets for example in examples),
        num_topk_targets=sum(example.num_topk_targets for example in examples),
        last_step=step,
        best_step=best.step if config.patience is not None else step,
        seconds=seconds,
    )


def _adapted_student(model: torch.nn.Module, processor: Any, config: FitConfig) -> Student:
    """The student with a fresh adapter, on the worker's device."""
    adapted = adapter.attach(
        model.to(get_device()),
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        seed=config.seed,
        base=config.base,
        revision=config.revision,
    )
    if config.gradient_checkpointing:
        enable_gradient_checkpointing(adapted)
    return Student(
        adapted,
        processor,
        config.image_cache_gib,
        distillation_weight=config.distillation_weight,
        num_readers=config.cpus_per_worker,
    )


def _train(job: FitJob, split: DatasetSplit, student: Student, engine: Any, rank: int) -> tuple[int, Best]:
    """Take all remaining steps, and write the loss curve and the checkpoints. Returns the last step, and the best
    evaluation."""
    config = job.config
    step, best = _resume(job, engine, rank)
    shards = plan(split.train, config, rank, zero.num_ranks(), done=step)
    with CurveWriter(job.checkpoints, rank) as curve:
        for shard, following in pairwise(chain(shards, [None])):
            if shard is None or (config.patience is not None and best.num_worse >= config.patience):
                break
            student.prefetch(following.packs if following else [])
            step += 1
            with _within_memory(config, step):
                point = take_step(engine, student, shard, config, step)
                if split.held_out and (step % config.evaluate_every == 0 or step == config.num_steps):
                    point, best = _evaluate(point, best, student, split.held_out, config, rank)
            curve.add(point)
            if step % config.checkpoint_every == 0 or step == config.num_steps:
                curve.sync()
                about = {"loss": best.loss, "step": best.step, "num_worse": best.num_worse}
                checkpoint.save(job.checkpoints, engine, step, rank, about, best.weights)
    return step, best


def _resume(job: FitJob, engine: Any, rank: int) -> tuple[int, Best]:
    """Put the engine into the state of the newest checkpoint. Returns its step, 0 without one, and the best evaluation
    until then."""
    place = checkpoint.agreed(job.checkpoints, rank)
    if place is None:
        return 0, Best()
    step, about, weights = checkpoint.restore(place, engine)
    return step, Best(**about, weights=weights)


def take_step(engine: Any, student: Student, shard: RankShard, config: FitConfig, step: int) -> Point:
    """One update of the adapter from this rank's shard of a batch. Raises InputError when the loss, the divergence or
    the gradient norm is not finite."""
    started = now(student.device)
    # Random numbers depend on the seed, the step and the rank only, so they are the same after a restart.
    torch.manual_seed(hash((config.seed, step, engine.global_rank)) & 0x7FFFFFFF)
    rate = zero.learning_rate(config, step)
    vision_before_s = student.vision_seconds
    loss, divergence, reading_s, computing_s = update(engine, student, shard, rate)
    vision_s = student.vision_seconds - vision_before_s
    norm = float(engine.get_global_grad_norm() or 0.0)
    if not (math.isfinite(loss) and math.isfinite(divergence) and math.isfinite(norm)):
        raise InputError(
            f"Step {step} has loss {loss:g} and gradient norm {norm:g}. The steps before are in the checkpoints. Lower "
            f"fit.learning_rate (it was {rate:g}), or look at the examples of that batch."
        )
    seconds = now(student.device) - started
    return Point(
        step=step,
        loss=loss,
        divergence=divergence if config.distillation_weight else None,
        learning_rate=rate,
        gradient_norm=norm,
        num_tokens=sum(shard.lengths),
        num_targets=shard.num_targets,
        seconds=seconds,
        utilization=_utilization(student, shard, config, seconds),
        computing_s=computing_s + vision_s,
        reading_s=reading_s - vision_s,
        memory_gib=_peak_memory(engine.device) / GIB,
    )


def update(engine: Any, student: Student, shard: RankShard, rate: float) -> tuple[float, float, float, float]:
    """Forward and backward passes over a shard's packs, and one optimizer step at a learning rate.

    Returns two means over the whole batch, each token weighted by its example: the cross entropy in nats per supervised
    token, and the divergence in nats per token with a teacher's top-k. Then the seconds that reading packs took, vision
    encoder included, and those of all other computation.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    num_ranks = zero.num_ranks()
    sums_2 = torch.zeros(2, device=engine.device)
    reading_s = computing_s = 0.0
    for number, pack in enumerate(shard.packs, 1):
        started = now(engine.device)
        batch, features = student.read(pack)
        read_at = now(engine.device)
        engine.set_gradient_accumulation_boundary(number == len(shard.packs))
        objective, pack_sums_2 = engine(batch, features)
        # The objective is a mean over all supervised tokens of the batch, but DeepSpeed averages gradients over the
        # ranks. The divisor is 1 where every weight is 0, and so is every gradient.
        engine.backward(objective * (num_ranks / (shard.total_weight or 1)), scale_wrt_gas=False)
        sums_2 += pack_sums_2
        reading_s += read_at - started
        computing_s += now(engine.device) - read_at
    started = now(engine.device)
    engine.step()
    computing_s += now(engine.device) - started
    torch.distributed.all_reduce(sums_2)
    loss, divergence = sums_2.tolist()
    return loss / (shard.total_weight or 1), divergence / (shard.topk_weight or 1), reading_s, computing_s


def _evaluate(
    point: Point, best: Best, student: Student, held_out: list[Encoded], config: FitConfig, rank: int
) -> tuple[Point, Best]:
    """Evaluate on the held-out examples. Returns the point with its validation metrics, and the best evaluation so far.

    Raises InputError when the loss is not finite.
    """
    metrics = validation.evaluate(student, held_out, config.tokens_per_pack, rank, zero.num_ranks())
    if not math.isfinite(metrics.loss):
        raise InputError(
            f"After step {point.step} the validation loss is {metrics.loss:g}. The steps before are in the "
            "checkpoints. Lower fit.learning_rate, or look at the examples that are held out."
        )
    best = best.after(metrics.loss, point.step, student if config.patience is not None else None)
    return dataclasses.replace(
        point,
        validation_loss=metrics.loss,
        validation_accuracy=metrics.accuracy,
        validation_divergence=metrics.divergence,
    ), best


def _utilization(student: Student, shard: RankShard, config: FitConfig, seconds: float) -> float | None:
    """Model FLOPs utilization of all ranks' GPUs, from 0 to 1; None where their peak is not known."""
    if student.device.type != "cuda" or config.precision != "bf16":
        return None
    peak = utilization.peak_flops(torch.cuda.get_device_name(student.device))
    flops = student.flop_counter.flops(shard.lengths, shard.num_targets)
    return flops / seconds / peak / zero.num_ranks() if peak else None


@contextmanager
def _within_memory(config: FitConfig, step: int) -> Iterator[None]:
    """Turn torch's error when a GPU runs out of memory into one clear InputError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"Step {step} needs more memory than its GPU has. Lower fit.tokens_per_pack (it is "
            f"{config.tokens_per_pack}), or set fit.gradient_checkpointing=true. The fit continues "
            "from its checkpoints."
        ) from error


def make_deterministic(device: torch.device) -> None:
    """Make torch use deterministic kernels on a GPU, where flash attention's backward pass otherwise adds gradients in
    a random order. On a CPU the kernels are deterministic already.

    Not with warn_only: flash attention would then warn, and stay as it is.
    """
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time


def _peak_memory(device: torch.device) -> int:
    """Peak memory in bytes, of the GPU, or of the whole process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _silence_libraries() -> None:
    """Show errors only on a worker's output: the libraries' notices are for their developers."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
