"""Questions -> those that repeat an earlier one: exactly, in other words, or about an image that looks the same; and
those that contradict each other."""

from collections import defaultdict

import numpy as np

from pipelines.questions.look_alikes import LookAlikes
from pipelines.questions.row_keys import Keys, Mask, RowKeys, mixed


def contradictions(keys: RowKeys) -> Mask:
    """Rows that ask the same about the same pixels as another row that has another answer: one of them is wrong."""
    _, asked = np.unique(mixed(keys.text, keys.options, keys.combined(keys.image_pixels)), return_inverse=True)
    pairs = np.unique(np.stack([asked, keys.gold], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=1)[asked] > 1


def exact_duplicates(keys: RowKeys) -> Mask:
    """Rows with exactly the text, options and images of an earlier row or of an evaluation row."""
    same = mixed(keys.exact, keys.combined(keys.image_source), keys.combined(keys.image_pixels))
    return _later(same, first=keys.evaluation)


def text_duplicates(keys: RowKeys) -> Mask:
    """Rows that ask the same about the same pixels as an earlier row, in another spelling or order of options."""
    return _later(mixed(keys.text, keys.options, keys.combined(keys.image_pixels)))


def perceptual_duplicates(keys: RowKeys, alike: LookAlikes) -> Mask:
    """Rows that ask the same as an earlier row that is kept, about one image that looks the same."""
    asked = mixed(keys.text, keys.options)
    single = np.bincount(keys.image_row, minlength=len(asked)) == 1
    rows = keys.image_row[single[keys.image_row]]
    pixels = keys.image_pixels[single[keys.image_row]]
    of_picture: dict[int, list[int]] = defaultdict(list)
    looked_at = np.isin(pixels, alike.pairs)
    for row, picture in zip(rows[looked_at].tolist(), pixels[looked_at].tolist(), strict=True):
        of_picture[picture].append(row)
    pairs = {
        (min(one, other), max(one, other))
        for left, right in alike.pairs.tolist()
        for one in of_picture[left]
        for other in of_picture[right]
        if asked[one] == asked[other]
    }
    dropped = np.zeros(len(asked), dtype=bool)
    for later, earlier in sorted((later, earlier) for earlier, later in pairs):
        dropped[later] |= not dropped[earlier]  # `earlier` is settled, since all its own pairs came before
    return dropped


def _later(values: Keys, first: Mask | None = None) -> Mask:
    """Mask of all but the first entry of each value; entries marked in `first` come before all others."""
    order = np.argsort(~first, kind="stable") if first is not None else np.arange(len(values))
    _, kept = np.unique(values[order], return_index=True)
    later = np.ones(len(values), dtype=bool)
    later[order[kept]] = False
    return later
