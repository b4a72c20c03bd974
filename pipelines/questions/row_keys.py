"""What two questions are compared by: 64-bit keys in arrays, so that a million questions take seconds and some hundred
megabytes."""

import dataclasses

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def mixed(*columns: Keys) -> Keys:
    """One array of keys for several: the finaliser of SplitMix64 over each in turn."""
    state = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        state = state * np.uint64(0x9E3779B97F4A7C15) + column.view(np.uint64) + np.uint64(0x632BE59BD9B4E019)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state.view(np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowKeys:
    """What is compared of the rows that may become questions.

    Arrays with one entry for each row, in the order of the sources: evaluation (the row is for examination), exact
    (key of source, text and options as they are), text, options, gold (keys of the normalised ones), binary (whether it
    has two options), figure, article (0 where unknown). Arrays with one entry for each image of each row, in the same
    order: image_row (index of the row), image_source (key of the file's bytes), image_pixels.
    """

    evaluation: Mask
    exact: Keys
    text: Keys
    options: Keys
    gold: Keys
    binary: Mask
    figure: Keys
    article: Keys
    image_row: npt.NDArray[np.int64]
    image_source: Keys
    image_pixels: Keys

    def rows_with(self, marks: Mask) -> Mask:
        """Rows with at least one marked image. marks: one for each image."""
        rows = np.zeros(len(self.evaluation), dtype=bool)
        rows[self.image_row[marks]] = True
        return rows

    def subset(self, rows: Mask) -> "RowKeys":
        """The keys of the marked rows alone."""
        place = np.cumsum(rows) - 1
        of_images = rows[self.image_row]
        by_row = ("evaluation", "exact", "text", "options", "gold", "binary", "figure", "article")
        by_image = ("image_source", "image_pixels")
        return RowKeys(
            image_row=place[self.image_row[of_images]],
            **{name: getattr(self, name)[rows] for name in by_row},
            **{name: getattr(self, name)[of_images] for name in by_image},
        )

    def combined(self, image_keys: Keys) -> Keys:
        """One key for each row, of the keys of all its images in their order."""
        keys = np.zeros(len(self.evaluation), dtype=np.int64)
        order = np.arange(len(image_keys)) - np.searchsorted(self.image_row, self.image_row)
        for place in range(int(order.max(initial=-1)) + 1):
            at = order == place
            keys[self.image_row[at]] = mixed(keys[self.image_row[at]], image_keys[at])
        return keys
