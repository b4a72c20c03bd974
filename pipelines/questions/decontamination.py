"""Training questions and evaluation questions -> the training questions that share something with an evaluation."""

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from pipelines.questions.look_alikes import LookAlikes
from pipelines.questions.row_keys import Keys, Mask, RowKeys, mixed

_MAX_PICTURES = 2  # of which a set asks in the same words, before these are a template that says nothing


class Level(StrEnum):
    """What a training question may share with an evaluation question."""

    IMAGE = "image"
    PERCEPTUAL = "perceptual"
    FIGURE = "figure"
    ARTICLE = "article"
    TEXT = "text"


def contaminated(keys: RowKeys, levels: Sequence[Level], alike: LookAlikes) -> dict[Level, Mask]:
    """For each level, the training rows that share it with an evaluation row. alike: images that look the same."""
    masks = {level: _found(keys, level, alike) & ~keys.evaluation for level in levels}
    return {level: np.asarray(mask, bool) for level, mask in masks.items()}


def _found(keys: RowKeys, level: Level, alike: LookAlikes) -> Mask:
    examined = keys.evaluation
    image_examined = examined[keys.image_row]
    if level is Level.IMAGE:
        marks = _shared(keys.image_source, image_examined) | _shared(keys.image_pixels, image_examined)
        return keys.rows_with(marks)
    if level is Level.PERCEPTUAL:
        theirs = np.unique(keys.image_pixels[image_examined])
        return keys.rows_with(np.isin(keys.image_pixels, np.union1d(theirs, alike.partners(theirs))))
    if level is Level.TEXT:
        return _same_question(keys, alike)
    values = keys.figure if level is Level.FIGURE else keys.article
    return np.asarray(_shared(values, examined) & (values != 0), bool)


def _same_question(keys: RowKeys, alike: LookAlikes) -> Mask:
    """Rows with the text of an evaluation row and its image, one that looks the same, or its figure; or else with its
    options or the right one's text, where these say something.

    They say nothing where there are only two options, nor where the text is a template: where the evaluation rows, or
    the training rows, ask it of more than _MAX_PICTURES pictures.
    """
    examined = keys.evaluation
    picture = alike.picture(keys.image_pixels)
    of_image = mixed(keys.text[keys.image_row], picture)
    about_same = keys.rows_with(_shared(of_image, examined[keys.image_row]))
    about_same |= _shared(mixed(keys.text, keys.figure), examined) & (keys.figure != 0)
    answered_same = _shared(mixed(keys.text, keys.options), examined) | _shared(mixed(keys.text, keys.gold), examined)
    return about_same | (answered_same & ~keys.binary & ~_is_template(keys, picture))


def _is_template(keys: RowKeys, picture: Keys) -> Mask:
    """Rows whose text one of both sets asks of many pictures. picture: of each image, the same for what looks alike."""
    texts, text = np.unique(keys.text, return_inverse=True)
    asked = np.stack([text[keys.image_row], keys.evaluation[keys.image_row], picture], axis=1)
    once = np.unique(asked, axis=0)
    is_template = np.zeros(len(texts), bool)
    for is_evaluation in (False, True):
        counts = np.bincount(once[once[:, 1] == is_evaluation, 0], minlength=len(texts))
        is_template |= counts > _MAX_PICTURES
    return np.asarray(is_template[text], bool)


def _shared(values: Keys, examined: Mask) -> Mask:
    return np.isin(values, np.unique(values[examined]))
