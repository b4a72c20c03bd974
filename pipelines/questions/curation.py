"""Questions -> those that may teach: nothing that an evaluation holds, nothing twice, letters in balance, and a
validation split that shares no article.

Works on columns of 64-bit keys, one entry a row, so that a million questions take seconds and some hundred megabytes.
"""

import dataclasses
import itertools
import random
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Le, Lt

from pipelines.records import LETTERS

Keys = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_HASH_BITS = 64
_PAIRS_AT_ONCE = 1 << 22
_SEARCHED = 300  # characters of an option: what speaks of places is short, and a long one would be searched for seconds
# Options that speak of others by their place or letter; in another order they would say something else.
_SPEAKS_OF_PLACE = re.compile(
    r"(?i:\b(?:all|any|both|either|neither|none|some|two)\b.*\b(?:above|below|choices|listed|options|others|these)\b)|"
    r"\b(?i:both|choices?|either|neither|options?)\s+\(?[A-Z]\b|"
    r"\b[A-Z]\)?\s*(?:,|&|(?i:and|nor|or))\s*\(?[A-Z]\b"
)


class Level(StrEnum):
    """By what a training question is recognised in an evaluation."""

    IMAGE = "image"
    PERCEPTUAL = "perceptual"
    FIGURE = "figure"
    ARTICLE = "article"
    TEXT = "text"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurationConfig:
    """What may be trained on.

    decontaminate_by: a training question goes when it shares one of these with any evaluation question of the run: the
    image (its bytes or its pixels), an image that looks the same, its figure, its article, or its text in any
    spelling. drop_duplicates: of training questions that ask the same of images that are the same, or look the same,
    the first is kept. max_hash_distance: bits of the 64-bit pHash in which images that look the same may differ.
    validation_share: of the articles, whose questions are kept for validation. shuffle_options: give the options of
    training questions a seeded order, so that no letter is right more often.
    """

    decontaminate_by: tuple[Level, ...] = (Level.IMAGE, Level.PERCEPTUAL, Level.FIGURE, Level.TEXT)
    drop_duplicates: bool = True
    max_hash_distance: Annotated[int, Ge(0), Le(7)] = 3
    validation_share: Annotated[float, Ge(0), Lt(1)] = 0.0
    shuffle_options: bool = False
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """What is compared of the rows that may become questions: one entry each, in the order of the sources.

    evaluation: the row examines. exact: source, text and options; text, options, gold: of the normalised ones. figure,
    article: 0 where unknown. The images of all rows stand one after the other: image_row says whose each is, hashes is
    its pHash, and hashed whether it has one.
    """

    evaluation: Mask
    exact: Keys
    text: Keys
    options: Keys
    gold: Keys
    figure: Keys
    article: Keys
    image_row: npt.NDArray[np.int64]
    image_source: Keys
    image_pixels: Keys
    hashes: npt.NDArray[np.uint64]
    hashed: Mask

    def of_images(self, marks: Mask) -> Mask:
        """Rows with at least one marked image."""
        rows = np.zeros(len(self.evaluation), dtype=bool)
        rows[self.image_row[marks]] = True
        return rows

    def only(self, rows: Mask) -> "Columns":
        """The columns of some of the rows."""
        place = np.cumsum(rows) - 1
        of_images = rows[self.image_row]
        by_row = ("evaluation", "exact", "text", "options", "gold", "figure", "article")
        by_image = ("image_source", "image_pixels", "hashes", "hashed")
        return Columns(
            image_row=place[self.image_row[of_images]],
            **{name: getattr(self, name)[rows] for name in by_row},
            **{name: getattr(self, name)[of_images] for name in by_image},
        )

    def joined(self, image_keys: Keys) -> Keys:
        """One key for all images of each row, in their order."""
        keys = np.zeros(len(self.evaluation), dtype=np.int64)
        order = np.arange(len(image_keys)) - np.searchsorted(self.image_row, self.image_row)
        for place in range(int(order.max(initial=-1)) + 1):
            at = order == place
            keys[self.image_row[at]] = mixed(keys[self.image_row[at]], image_keys[at])
        return keys


def mixed(*columns: Keys) -> Keys:
    """One 64-bit key for several (the finaliser of SplitMix64 over each in turn)."""
    state = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        state = state * np.uint64(0x9E3779B97F4A7C15) + column.view(np.uint64) + np.uint64(0x632BE59BD9B4E019)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state.view(np.int64)


def contamination(columns: Columns, config: CurationConfig) -> dict[Level, Mask]:
    """For each level, the training rows that share it with an evaluation row."""
    examined = columns.evaluation
    of_image = examined[columns.image_row]
    masks: dict[Level, Mask] = {}
    for level in config.decontaminate_by:
        if level is Level.IMAGE:
            marks = _shared(columns.image_source, of_image) | _shared(columns.image_pixels, of_image)
            found = columns.of_images(marks)
        elif level is Level.PERCEPTUAL:
            found = columns.of_images(_looks_like(columns, of_image, config.max_hash_distance))
        else:
            keys = {Level.FIGURE: columns.figure, Level.ARTICLE: columns.article, Level.TEXT: columns.text}[level]
            found = _shared(keys, examined) & (keys != 0)
        masks[level] = found & ~examined
    return masks


def _shared(keys: Keys, examined: Mask) -> Mask:
    return np.isin(keys, np.unique(keys[examined]))


def _looks_like(columns: Columns, examined: Mask, distance: int) -> Mask:
    """Images within `distance` bits of an evaluation's."""
    theirs = np.unique(columns.hashes[examined & columns.hashed])
    ours, where = np.unique(columns.hashes[~examined & columns.hashed], return_inverse=True)
    near = np.zeros(len(ours), dtype=bool)
    for left, _ in _near_pairs(ours, theirs, distance):
        near[left] = True
    marks = np.zeros(len(examined), dtype=bool)
    marks[~examined & columns.hashed] = near[where]
    return marks


def contradictions(columns: Columns) -> Mask:
    """Rows that ask the same of the same pixels as others do, and are answered otherwise: one of them is wrong."""
    _, asked = np.unique(
        mixed(columns.text, columns.options, columns.joined(columns.image_pixels)), return_inverse=True
    )
    pairs = np.unique(np.stack([asked, columns.gold], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=1)[asked] > 1


def exact_duplicates(columns: Columns) -> Mask:
    """Rows that say the very same of the very same images as an earlier row, or as an evaluation's."""
    keys = mixed(columns.exact, columns.joined(columns.image_source), columns.joined(columns.image_pixels))
    return _later(keys, first=columns.evaluation)


def text_duplicates(columns: Columns) -> Mask:
    """Rows that ask the same of the same pixels as an earlier row, in another spelling or order of options."""
    keys = mixed(columns.text, columns.options, columns.joined(columns.image_pixels))
    return _later(keys)


def perceptual_duplicates(columns: Columns, distance: int) -> Mask:
    """Rows that ask the same as an earlier row that is kept, of one image that looks the same."""
    asked = mixed(columns.text, columns.options)
    single = np.bincount(columns.image_row, minlength=len(asked)) == 1
    compared = columns.hashed & single[columns.image_row]
    rows, hashes = columns.image_row[compared], columns.hashes[compared]
    dropped = np.zeros(len(asked), dtype=bool)
    same = _later(mixed(asked[rows], hashes.view(np.int64)))
    dropped[rows[same]] = True
    rows, hashes = rows[~same], hashes[~same]
    _, group, size = np.unique(asked[rows], return_inverse=True, return_counts=True)
    several = size[group] > 1
    rows, hashes, group = rows[several], hashes[several], group[several]
    found = [(rows[left], rows[right]) for left, right in _near_pairs(hashes, hashes, distance, group)]
    pairs = np.concatenate([np.stack([a, b], axis=1)[a < b] for a, b in found]) if found else np.empty((0, 2), int)
    for earlier, later in np.unique(pairs[:, ::-1], axis=0)[:, ::-1]:  # so that what it rests on is settled
        dropped[later] |= not dropped[earlier]
    return dropped


def _later(keys: Keys, first: Mask | None = None) -> Mask:
    """All but the first entry of each key; entries marked in `first` stand before all others."""
    order = np.argsort(~first, kind="stable") if first is not None else np.arange(len(keys))
    _, kept = np.unique(keys[order], return_index=True)
    later = np.ones(len(keys), dtype=bool)
    later[order[kept]] = False
    return later


def _near_pairs(
    left: npt.NDArray[np.uint64],
    right: npt.NDArray[np.uint64],
    distance: int,
    group: npt.NDArray[np.int64] | None = None,
) -> Any:
    """Indices (i, j) of hashes within `distance` bits of each other, several at a time, some pairs more than once.

    Exact: of distance + 1 bands of bits, two such hashes share at least one. group: only pairs within a group of
    `left`, which is `right` then.
    """
    edges = np.linspace(0, _HASH_BITS, distance + 2).astype(int)
    for low, high in itertools.pairwise(edges):
        band = np.uint64((1 << (high - low)) - 1)
        ours, theirs = (left >> np.uint64(low)) & band, (right >> np.uint64(low)) & band
        if group is not None:
            ours = theirs = mixed(ours.view(np.int64), group.astype(np.int64)).view(np.uint64)
        yield from _verified(left, right, _candidates(ours, theirs), distance)


def _candidates(ours: npt.NDArray[np.uint64], theirs: npt.NDArray[np.uint64]) -> Any:
    """Indices (i, j) with equal band values, in bounded portions."""
    order = np.argsort(theirs, kind="stable")
    ordered = theirs[order]
    start, stop = np.searchsorted(ordered, ours, "left"), np.searchsorted(ordered, ours, "right")
    counts = stop - start
    done = np.concatenate([[0], np.cumsum(counts)])
    begin = 0
    while begin < len(ours):
        end = max(begin + 1, int(np.searchsorted(done, done[begin] + _PAIRS_AT_ONCE, "right")) - 1)
        lengths = counts[begin:end]
        left = np.repeat(np.arange(begin, end), lengths)
        offset = np.arange(len(left)) - np.repeat(done[begin:end] - done[begin], lengths)
        yield left, order[np.repeat(start[begin:end], lengths) + offset]
        begin = end


def _verified(left: Any, right: Any, candidates: Any, distance: int) -> Any:
    for i, j in candidates:
        near = np.bitwise_count(left[i] ^ right[j]) <= distance
        yield i[near], j[near]


@dataclasses.dataclass(frozen=True)
class Fates:
    """What becomes of each row: the index of its reason in REASONS, 0 for a question; and what is for validation.

    contamination: rows that share each level with an evaluation, some of them several levels. duplicates: rows dropped
    at each level.
    """

    reasons: npt.NDArray[np.int8]
    validation: Mask
    contamination: dict[str, int]
    duplicates: dict[str, int]


REASONS = (
    "",
    *(f"contaminated_{level}" for level in Level),
    "answers_contradict",
    "exact_duplicate",
    "text_duplicate",
    "perceptual_duplicate",
)


def fates(columns: Columns, config: CurationConfig) -> Fates:
    """Judge all rows: contamination first, then contradictions, then duplicates; of evaluations only exact ones go."""
    reasons = np.zeros(len(columns.evaluation), dtype=np.int8)
    shared = contamination(columns, config)
    for level, mask in shared.items():
        reasons[mask & (reasons == 0)] = REASONS.index(f"contaminated_{level}")
    _drop(columns, reasons, (reasons == 0) & ~columns.evaluation, "answers_contradict", contradictions)
    duplicates = {"exact": _drop(columns, reasons, reasons == 0, "exact_duplicate", exact_duplicates)}
    if config.drop_duplicates:
        for name, found in (
            ("text", text_duplicates),
            ("perceptual", lambda rest: perceptual_duplicates(rest, config.max_hash_distance)),
        ):
            taught = (reasons == 0) & ~columns.evaluation
            duplicates[name] = _drop(columns, reasons, taught, f"{name}_duplicate", found)
    return Fates(
        reasons,
        validation(columns, config) & (reasons == 0),
        {str(level): int(mask.sum()) for level, mask in shared.items()},
        duplicates,
    )


def _drop(
    columns: Columns, reasons: npt.NDArray[np.int8], among: Mask, reason: str, find: Callable[[Columns], Mask]
) -> int:
    """Write the reason over the duplicates among some rows; returns how many there are."""
    rows = np.flatnonzero(among)
    found = rows[find(columns.only(among))]
    reasons[found] = REASONS.index(reason)
    return len(found)


def validation(columns: Columns, config: CurationConfig) -> Mask:
    """Training rows that are kept for validation: whole articles, or all questions of an image where it has none.

    By digest of the seed and the article, so that an article stays on its side whatever else is read.
    """
    first_image = np.zeros(len(columns.evaluation), dtype=np.int64)
    first_image[columns.image_row[::-1]] = columns.image_pixels[::-1]
    group = np.where(columns.article != 0, columns.article, first_image)
    drawn = mixed(group, np.full(len(group), config.seed, dtype=np.int64)).view(np.uint64) / 2.0**64
    return (drawn < config.validation_share) & ~columns.evaluation


def shuffled(options: Sequence[str], gold: str, seed: int, question: int) -> tuple[tuple[str, ...], str]:
    """The options in an order drawn for this question alone, and the letter that the right one now has.

    Unchanged where an option speaks of others by place or letter, such as `Both A and C`.
    """
    if any(_SPEAKS_OF_PLACE.search(option[:_SEARCHED]) for option in options):
        return tuple(options), gold
    order = list(range(len(options)))
    random.Random(seed * 1_000_003 + question).shuffle(order)  # noqa: S311 - must be the same in every run
    return tuple(options[place] for place in order), LETTERS[order.index(LETTERS.index(gold))]
