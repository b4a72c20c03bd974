"""Training questions and evaluation questions -> the training questions that share something with an evaluation."""

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from pipelines.questions.near_hashes import near_pairs
from pipelines.questions.row_keys import Keys, Mask, RowKeys


class Level(StrEnum):
    """What a training question may share with an evaluation question."""

    IMAGE = "image"
    PERCEPTUAL = "perceptual"
    FIGURE = "figure"
    ARTICLE = "article"
    TEXT = "text"


def contaminated(keys: RowKeys, levels: Sequence[Level], max_hash_distance: int) -> dict[Level, Mask]:
    """For each level, the training rows that share it with an evaluation row.

    max_hash_distance: bits in which the 64-bit pHash of images that look the same may differ.
    """
    examined = keys.evaluation
    image_examined = examined[keys.image_row]
    masks: dict[Level, Mask] = {}
    for level in levels:
        if level is Level.IMAGE:
            marks = _shared(keys.image_source, image_examined) | _shared(keys.image_pixels, image_examined)
            found = keys.rows_with(marks)
        elif level is Level.PERCEPTUAL:
            found = keys.rows_with(_looks_like(keys, image_examined, max_hash_distance))
        else:
            values = {Level.FIGURE: keys.figure, Level.ARTICLE: keys.article, Level.TEXT: keys.text}[level]
            found = _shared(values, examined) & (values != 0)
        masks[level] = found & ~examined
    return masks


def _shared(values: Keys, examined: Mask) -> Mask:
    return np.isin(values, np.unique(values[examined]))


def _looks_like(keys: RowKeys, examined: Mask, distance: int) -> Mask:
    """Images within `distance` bits of an evaluation row's image. examined: the images of evaluation keys."""
    theirs = np.unique(keys.hashes[examined & keys.hashed])
    ours, where = np.unique(keys.hashes[~examined & keys.hashed], return_inverse=True)
    near = np.zeros(len(ours), dtype=bool)
    for left, _ in near_pairs(ours, theirs, distance):
        near[left] = True
    marks = np.zeros(len(examined), dtype=bool)
    marks[~examined & keys.hashed] = near[where]
    return marks
