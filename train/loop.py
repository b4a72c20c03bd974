"""The training loop: what every worker runs to fit one arm's adapter. [edge]"""

import logging
import time
import warnings
from typing import Any

import torch
import transformers
from ray.train import get_context
from ray.train.torch import get_device

from infra.errors import InputError
from pipelines import tables
from pipelines.records import TrainingExample
from train import adapter, student, zero
from train.collation import Share, collate, encode, plan
from train.work import CurveWriter, Outcome, Point, Work


def fit(work: Work) -> Outcome:
    """Fit the adapter with all ranks together; the first one writes it."""
    _quieten()
    config, rank, num_ranks = work.config, get_context().get_world_rank(), get_context().get_world_size()
    model, processor = student.load(work.base, config.precision)
    rows = tables.read(work.examples, TrainingExample)
    examples, reasons = encode(rows, work.images, processor, config.max_length)
    if not examples:
        raise InputError(f"None of {len(rows)} examples can be trained on: {reasons}. Set fit.max_length to more.")
    adapted = adapter.attach(
        model.to(get_device()), rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed, base=config.base
    )
    engine = zero.start(student.TargetLoss(adapted), config)
    eye = student.Eye(adapted, processor, config.image_cache_gib)
    shares = plan(examples, config, rank, num_ranks)
    started = time.monotonic()
    num_targets = num_tokens = 0
    with CurveWriter(work.folder, rank) as curve:
        for step, share in enumerate(shares, 1):
            rate = zero.learning_rate(config, step)
            loss = update(engine, share, rate, eye, processor)
            curve.add(Point(step, loss, rate))
            num_targets += share.num_targets
            num_tokens += share.num_tokens
    seconds = time.monotonic() - started
    if rank == 0:
        adapter.save(adapted, work.folder, work.card)
    # A seeded order without repeats within an epoch: what a first epoch that is cut short leaves out was never seen.
    num_seen = min(len(examples), config.num_steps * config.batch_size)
    return Outcome(
        num_examples=len(rows),
        num_trained_on=num_seen,
        reasons=reasons | ({"not_reached": len(examples) - num_seen} if num_seen < len(examples) else {}),
        num_trainable=adapter.num_trainable(adapted),
        num_targets=num_targets,
        num_tokens=num_tokens,
        seconds=seconds,
    )


def update(engine: Any, share: Share, rate: float, eye: student.Eye, processor: Any) -> float:
    """One update of the adapter from this rank's share. Returns the loss per supervised token of the whole batch, where
    each counts by its example's weight."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    num_ranks = torch.distributed.get_world_size()
    whole = torch.zeros((), device=engine.device)
    for micro_batch in share.micro_batches:
        batch = {name: tensor.to(engine.device) for name, tensor in collate(micro_batch, processor).items()}
        sight = eye.look([image for example in micro_batch for image in example.images])
        loss = engine(batch, sight) / (share.total_weight or 1)  # a batch in which nothing counts is no update
        # DeepSpeed averages gradients over the ranks; the sum over all supervised tokens of the batch is what is meant.
        engine.backward(loss * num_ranks, scale_wrt_gas=False)
        engine.step()
        whole += loss.detach()
    torch.distributed.all_reduce(whole)
    return float(whole)


def _quieten() -> None:
    """Leaves errors alone on a worker's output; its notices are for the libraries' own developers."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
