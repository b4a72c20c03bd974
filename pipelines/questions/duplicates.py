"""Questions -> those that repeat an earlier one: exactly, in other words, or about an image that looks the same; and
those that contradict each other."""

import numpy as np

from pipelines.questions.near_hashes import near_pairs
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


def perceptual_duplicates(keys: RowKeys, distance: int) -> Mask:
    """Rows that ask the same as an earlier row that is kept, about one image that looks the same.

    distance: bits in which the hashes of such images may differ.
    """
    asked = mixed(keys.text, keys.options)
    single = np.bincount(keys.image_row, minlength=len(asked)) == 1
    compared = keys.hashed & single[keys.image_row]
    rows, hashes = keys.image_row[compared], keys.hashes[compared]
    dropped = np.zeros(len(asked), dtype=bool)
    same = _later(mixed(asked[rows], hashes.view(np.int64)))
    dropped[rows[same]] = True
    rows, hashes = rows[~same], hashes[~same]
    _, group, size = np.unique(asked[rows], return_inverse=True, return_counts=True)
    several = size[group] > 1
    rows, hashes, group = rows[several], hashes[several], group[several]
    found = [(rows[left], rows[right]) for left, right in near_pairs(hashes, hashes, distance, group)]
    pairs = np.concatenate([np.stack([a, b], axis=1)[a < b] for a, b in found]) if found else np.empty((0, 2), int)
    for earlier, later in np.unique(pairs[:, ::-1], axis=0)[
        :, ::-1
    ]:  # in this order, `earlier` is settled before it decides about `later`
        dropped[later] |= not dropped[earlier]
    return dropped


def _later(values: Keys, first: Mask | None = None) -> Mask:
    """Mask of all but the first entry of each value; entries marked in `first` come before all others."""
    order = np.argsort(~first, kind="stable") if first is not None else np.arange(len(values))
    _, kept = np.unique(values[order], return_index=True)
    later = np.ones(len(values), dtype=bool)
    later[order[kept]] = False
    return later
