"""One adapter's fit, as the driver describes it to the workers, and what the workers report when it is done."""

import dataclasses
from enum import StrEnum
from pathlib import Path

from train.recipes import FitConfig

NUM_CHECKPOINTS_KEPT = 2  # the newest of a fit

# Why an example is not trained on. The first two concern all examples of a question of which one is so.
TOO_LONG = "too_long"
MARKUP = "chat_markup"  # the text holds a token of the chat format itself, and would break out of its turn
IN_ANOTHER_ARM = "_in_another_arm"  # ends these two where only an example of another arm is so
HELD_OUT = "held_out"
NOT_REACHED = "not_reached"


class Watched(StrEnum):
    """Which questions a fit looks at without training on them."""

    NOTHING = ""
    VALIDATION = "validation"  # those of the questions' own validation split
    DRAWN = "drawn"  # a share of the training questions, drawn by the fit


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitJob:
    """What the workers need to fit one arm's adapter. Paths are absolute, on storage that all workers share.

    base: the model's folder, or its hub id. examples: folder of the arm's table. compared: those of the arms that it is
    compared with. images: folder that the image paths in that table start from. rationales: folder with the teacher's
    top logprobs. checkpoints: folder of the fit's state and its loss curve. folder: where the first rank writes the
    adapter.
    """

    config: FitConfig
    base: str
    examples: Path
    compared: tuple[Path, ...]
    images: Path
    rationales: Path
    checkpoints: Path
    folder: Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOutcome:
    """What the workers counted.

    num_examples: rows of the arm's table. num_trained_on: examples that were in a batch. reasons: examples left out, by
    reason. watched: which questions the held-out examples are about. num_trainable: numbers in the adapter.
    num_targets: supervised tokens of one epoch. num_topk_targets: those of them with a teacher's top-k. last_step: the
    last one taken. best_step: the one whose adapter was saved. seconds: from the start or restart of the training loop
    to its end.
    """

    num_examples: int
    num_trained_on: int
    reasons: dict[str, int]
    watched: Watched
    num_trainable: int
    num_targets: int
    num_topk_targets: int
    last_step: int
    best_step: int
    seconds: float
