"""Questions -> those that are kept: nothing is trained on that an evaluation holds, nothing twice, and a validation
split shares no article with training."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Annotated

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Lt

from pipelines.questions.decontamination import Level, contaminated
from pipelines.questions.duplicates import contradictions, exact_duplicates, perceptual_duplicates, text_duplicates
from pipelines.questions.look_alikes import LookAlikes, Pictures, find
from pipelines.questions.row_keys import Mask, RowKeys, mixed

REASONS = (
    "",
    *(f"contaminated_{level}" for level in Level),
    "answers_contradict",
    "exact_duplicate",
    "text_duplicate",
    "perceptual_duplicate",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurationConfig:
    """What may be trained on.

    decontaminate_by: a training question is rejected when it shares one of these with any evaluation question of the
    run: the image (its bytes or its pixels), an image that looks the same, its figure, its article, or its text in any
    spelling. A text counts with the same image or figure; or, where there are more than two options and neither set
    asks it of more than two pictures, with the same options or the same right one. drop_duplicates: of training
    questions that ask the same about images that are or look the same, the first is kept. validation_share: of the
    articles, whose questions are kept for validation. shuffle_options: give the options of training questions a seeded
    order, so that no letter is right more often. seed: of that order and of the validation split.
    """

    decontaminate_by: tuple[Level, ...] = (Level.IMAGE, Level.PERCEPTUAL, Level.FIGURE, Level.TEXT)
    drop_duplicates: bool = True
    validation_share: Annotated[float, Ge(0), Lt(1)] = 0.0
    shuffle_options: bool = False
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class CurationResult:
    """What becomes of each row.

    reasons: index of its reason in REASONS, 0 for a question. validation: the questions of the validation split.
    training: number of rows that are not for examination. contamination: how many of them share each level with an
    evaluation; a row may share several. duplicates: number of rows dropped as each kind of duplicate.
    """

    reasons: npt.NDArray[np.int8]
    validation: Mask
    training: int
    contamination: dict[str, int]
    duplicates: dict[str, int]


def curate(keys: RowKeys, config: CurationConfig, alike: LookAlikes) -> CurationResult:
    """Judge all rows: contamination first, then contradictions, then duplicates. Evaluation rows are rejected only as
    exact duplicates. alike: images that look the same."""
    reasons = np.zeros(len(keys.evaluation), dtype=np.int8)
    by_level = contaminated(keys, config.decontaminate_by, alike)
    for level, mask in by_level.items():
        reasons[mask & (reasons == 0)] = REASONS.index(f"contaminated_{level}")
    _reject(keys, reasons, (reasons == 0) & ~keys.evaluation, "answers_contradict", contradictions)
    duplicates = {"exact": _reject(keys, reasons, reasons == 0, "exact_duplicate", exact_duplicates)}
    if config.drop_duplicates:
        look_alikes = partial(perceptual_duplicates, alike=alike)
        for name, find in (("text", text_duplicates), ("perceptual", look_alikes)):
            for_training = (reasons == 0) & ~keys.evaluation
            duplicates[name] = _reject(keys, reasons, for_training, f"{name}_duplicate", find)
    return CurationResult(
        reasons,
        validation(keys, config) & (reasons == 0),
        int((~keys.evaluation).sum()),
        {str(level): int(mask.sum()) for level, mask in by_level.items()},
        duplicates,
    )


def look_alikes(keys: RowKeys, config: CurationConfig, pictures: Pictures) -> LookAlikes:
    """The images that look the same, as far as these settings ask for them."""
    evaluations = bool({Level.PERCEPTUAL, Level.TEXT} & set(config.decontaminate_by))
    return find(keys, pictures, evaluations=evaluations, duplicates=config.drop_duplicates)


def _reject(
    keys: RowKeys, reasons: npt.NDArray[np.int8], among: Mask, reason: str, find: Callable[[RowKeys], Mask]
) -> int:
    """Write the reason into `reasons` for those of some rows that `find` marks; returns their number."""
    rows = np.flatnonzero(among)
    found = rows[find(keys.subset(among))]
    reasons[found] = REASONS.index(reason)
    return len(found)


def validation(keys: RowKeys, config: CurationConfig) -> Mask:
    """Training rows that are kept for validation: whole articles, or all questions about an image that has no article.

    Drawn by the digest of the seed and the article, so that an article stays in its split whatever else is read.
    """
    first_image = np.zeros(len(keys.evaluation), dtype=np.int64)
    first_image[keys.image_row[::-1]] = keys.image_pixels[::-1]
    group = np.where(keys.article != 0, keys.article, first_image)
    drawn = mixed(group, np.full(len(group), config.seed, dtype=np.int64)).view(np.uint64) / 2.0**64
    return (drawn < config.validation_share) & ~keys.evaluation
