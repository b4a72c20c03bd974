"""The training loop: what every worker runs to fit one arm's adapter. [edge]"""

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
from pipelines.records import TrainingExample, tables
from train import adapter, checkpoint, distillation, student, utilization, validation, zero
from train.encoding import Encoded, encode
from train.packing import Share, plan
from train.recipes import FitConfig
from train.student import Student, now
from train.validation import Best
from train.work import CurveWriter, Outcome, Point, Work

_GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Lessons:
    """What a fit goes through. num_rows: examples of the arm's table; reasons: those of them that were left out."""

    examples: list[Encoded]
    held_out: list[Encoded]
    num_rows: int
    reasons: dict[str, int]


def fit(work: Work) -> Outcome:
    """Fit the adapter with all ranks together, from the newest checkpoint on; the first one writes it."""
    _quieten()
    _add_up_in_order(get_device())
    config, rank = work.config, get_context().get_world_rank()
    model, processor = student.load(work.base, config.precision, config.revision)
    lessons = _lessons(work, processor, num_words=model.config.text_config.vocab_size)
    learner = _learner(model, processor, config)
    engine = zero.start(learner.loss, config)
    started = now(learner.device)
    step, best = _learn(work, lessons, learner, engine, rank)
    seconds = now(learner.device) - started
    if config.patience is not None:
        best.take(learner)
    if rank == 0:
        adapter.save(learner.model, work.folder, work.card)
    # A seeded order without repeats within an epoch: what a first epoch that is cut short leaves out was never seen.
    examples = lessons.examples
    num_seen = min(len(examples), step * config.batch_size)
    left_out = {"held_out": len(lessons.held_out), "not_reached": len(examples) - num_seen}
    return Outcome(
        num_examples=lessons.num_rows,
        num_trained_on=num_seen,
        reasons=lessons.reasons | {reason: count for reason, count in left_out.items() if count},
        num_trainable=adapter.num_trainable(learner.model),
        num_targets=sum(example.num_targets for example in examples),
        num_told=sum(example.num_told for example in examples),
        last_step=step,
        best_step=best.step if config.patience is not None else step,
        seconds=seconds,
    )


def _lessons(work: Work, processor: Any, num_words: int) -> Lessons:
    """The examples that are trained on, and those that are held out."""
    config = work.config
    rows = tables.read(work.examples, TrainingExample)
    known = {}
    if config.distillation_weight:
        known = distillation.read(work.rationales, rows, processor.tokenizer, num_words)
    kept, watched = validation.held_out(rows, config.validation_share)
    encoded, reasons = encode(kept, work.images, processor, config.max_length, known)
    encoded_watched, reasons_watched = encode(watched, work.images, processor, config.max_length, known)
    names = {*reasons, *reasons_watched}
    reasons = {name: reasons.get(name, 0) + reasons_watched.get(name, 0) for name in sorted(names)}
    if not encoded:
        raise InputError(f"None of {len(rows)} examples can be trained on: {reasons}. Set fit.max_length to more.")
    if config.validation_share and not encoded_watched:
        raise InputError(
            f"fit.validation_share {config.validation_share:g} of {len(rows)} examples holds none out. Set it to more."
        )
    return Lessons(encoded, encoded_watched, len(rows), reasons)


def _learner(model: torch.nn.Module, processor: Any, config: FitConfig) -> Student:
    """The student with a fresh adapter, where it will learn."""
    adapted = adapter.attach(
        model.to(get_device()),
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        seed=config.seed,
        base=config.base,
        revision=config.revision,
    )
    if config.gradient_checkpointing:
        student.keep_little(adapted)
    return Student(
        adapted,
        processor,
        config.image_cache_gib,
        distillation_weight=config.distillation_weight,
        num_readers=config.cpus_per_worker,
    )


def _learn(work: Work, lessons: Lessons, learner: Student, engine: Any, rank: int) -> tuple[int, Best]:
    """Take all steps that are left, with their points in the curve and checkpoints between; the last step."""
    config = work.config
    step, best = _resumed(work, engine, rank)
    shares = plan(lessons.examples, config, rank, zero.num_ranks(), done=step)
    with CurveWriter(work.checkpoints, rank) as curve:
        for share, following in pairwise(chain(shares, [None])):
            if share is None or (config.patience is not None and best.num_worse >= config.patience):
                break
            learner.expect(following.packs if following else [])
            step += 1
            with _within_memory(config, step):
                point = take_step(engine, learner, share, config, step)
                if lessons.held_out and (step % config.evaluate_every == 0 or step == config.num_steps):
                    point, best = _watch(point, best, learner, lessons.held_out, config, rank)
            curve.add(point)
            if step % config.checkpoint_every == 0 or step == config.num_steps:
                curve.sync()
                about = {"loss": best.loss, "step": best.step, "num_worse": best.num_worse}
                checkpoint.save(work.checkpoints, engine, step, rank, about, best.weights)
    return step, best


def _resumed(work: Work, engine: Any, rank: int) -> tuple[int, Best]:
    """The step that the newest checkpoint was written after, with the engine put into its state; 0 without one."""
    place = checkpoint.agreed(work.checkpoints, rank)
    if place is None:
        return 0, Best()
    step, about, weights = checkpoint.restore(place, engine)
    return step, Best(**about, weights=weights)


def take_step(engine: Any, learner: Student, share: Share, config: FitConfig, step: int) -> Point:
    """One update of the adapter from this rank's share. Raises InputError when its loss is no number."""
    started = now(learner.device)
    # Whatever is random in a step is a function of the seed, the step and the rank, and so the same after a restart.
    torch.manual_seed(hash((config.seed, step, engine.global_rank)) & 0x7FFFFFFF)
    rate = zero.learning_rate(config, step)
    looked_s = learner.seconds_looking
    loss, divergence, reading_s, computing_s = update(engine, learner, share, rate)
    looked_s = learner.seconds_looking - looked_s
    norm = float(engine.get_global_grad_norm() or 0.0)
    if not (math.isfinite(loss) and math.isfinite(divergence) and math.isfinite(norm)):
        raise InputError(
            f"Step {step} has loss {loss:g} and gradient norm {norm:g}. What came before is in the checkpoints. Lower "
            f"fit.learning_rate (it was {rate:g}), or look at the examples of that batch."
        )
    seconds = now(learner.device) - started
    return Point(
        step=step,
        loss=loss,
        divergence=divergence if config.distillation_weight else None,
        learning_rate=rate,
        gradient_norm=norm,
        num_tokens=sum(share.lengths),
        num_targets=share.num_targets,
        seconds=seconds,
        utilization=_utilization(learner, share, config, seconds),
        computing_s=computing_s + looked_s,
        reading_s=reading_s - looked_s,
        memory_gib=_peak_memory(engine.device) / _GIB,
    )


def update(engine: Any, learner: Student, share: Share, rate: float) -> tuple[float, float, float, float]:
    """Learn from a share. Returns the cross entropy per supervised token of the whole batch, where each counts by its
    example's weight, the divergence per token at which a teacher's distribution is known, and the seconds in which
    packs were read, and learned from."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    num_ranks = zero.num_ranks()
    sums_2 = torch.zeros(2, device=engine.device)
    reading_s = computing_s = 0.0
    for number, pack in enumerate(share.packs, 1):
        started = now(engine.device)
        batch, sight = learner.read(pack)
        read = now(engine.device)
        engine.set_gradient_accumulation_boundary(number == len(share.packs))
        objective, own_2 = engine(batch, sight)
        # DeepSpeed averages gradients over the ranks; meant is the mean over all supervised tokens. A batch
        # in which nothing counts is no update.
        engine.backward(objective * (num_ranks / (share.total_weight or 1)), scale_wrt_gas=False)
        sums_2 += own_2
        reading_s += read - started
        computing_s += now(engine.device) - read
    started = now(engine.device)
    engine.step()
    computing_s += now(engine.device) - started
    torch.distributed.all_reduce(sums_2)
    loss, divergence = sums_2.tolist()
    return loss / (share.total_weight or 1), divergence / (share.told_weight or 1), reading_s, computing_s


def _watch(
    point: Point, best: Best, learner: Student, watched: list[Encoded], config: FitConfig, rank: int
) -> tuple[Point, Best]:
    """Look at what is held out. Raises InputError when its loss is no number."""
    seen = validation.evaluate(learner, watched, config.tokens_per_pack, rank, zero.num_ranks())
    if not math.isfinite(seen.loss):
        raise InputError(
            f"After step {point.step} the validation loss is {seen.loss:g}. What came before is in the checkpoints. "
            "Lower fit.learning_rate, or look at the examples that are held out."
        )
    best = best.after(seen.loss, point.step, learner if config.patience is not None else None)
    return dataclasses.replace(
        point,
        validation_loss=seen.loss,
        validation_accuracy=seen.accuracy,
        validation_divergence=seen.divergence,
    ), best


def _utilization(learner: Student, share: Share, config: FitConfig, seconds: float) -> float | None:
    """Model FLOPs utilization of all ranks' GPUs; None where their speed is not known."""
    if learner.device.type != "cuda" or config.precision != "bf16":
        return None
    peak = utilization.peak(torch.cuda.get_device_name(learner.device))
    operations = learner.arithmetic.operations(share.lengths, share.num_targets)
    return operations / seconds / peak / zero.num_ranks() if peak else None


@contextmanager
def _within_memory(config: FitConfig, step: int) -> Iterator[None]:
    """Turns the end of a GPU's memory into one clear InputError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"Step {step} needs more memory than its GPU has. Lower fit.tokens_per_pack (it is "
            f"{config.tokens_per_pack}), or set fit.gradient_checkpointing=true; the fit goes on from its checkpoints."
        ) from error


def _add_up_in_order(device: torch.device) -> None:
    """On a GPU, attention would add gradients up in the order in which they come; on the CPU nothing does.

    With warn_only, flash attention would warn and stay as it is.
    """
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # to find mistakes with, and it costs time


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU, or of the whole process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _quieten() -> None:
    """Leaves errors alone on a worker's output; its notices are for the libraries' own developers."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
