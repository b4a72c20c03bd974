"""One arm's fit, as the driver describes it to the workers, and what the workers report when it is done."""

import dataclasses
from pathlib import Path

from train.recipes import FitConfig

NUM_CHECKPOINTS_KEPT = 2  # the newest of a fit


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitJob:
    """What the workers need to fit one arm's adapter. Paths are absolute, on storage that all workers share.

    base: the model's folder, or its hub id. examples: folder of the arm's table. images: folder that the image paths in
    that table start from. rationales: folder with the teacher's top logprobs. checkpoints: folder of the fit's state
    and its loss curve. folder: where the first rank writes the adapter. card: the adapter's README.
    """

    config: FitConfig
    base: str
    examples: Path
    images: Path
    rationales: Path
    checkpoints: Path
    folder: Path
    card: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOutcome:
    """What the workers counted.

    num_examples: rows of the arm's table. num_trained_on: examples that were in a batch. reasons: examples left out, by
    reason. num_trainable: numbers in the adapter. num_targets: supervised tokens of one epoch. num_topk_targets: those
    of them with a teacher's top-k. last_step: the last one taken. best_step: the one whose adapter was saved. seconds:
    from the start or restart of the training loop to its end.
    """

    num_examples: int
    num_trained_on: int
    reasons: dict[str, int]
    num_trainable: int
    num_targets: int
    num_topk_targets: int
    last_step: int
    best_step: int
    seconds: float
