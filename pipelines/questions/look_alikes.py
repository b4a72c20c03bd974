"""Perceptual hashes -> the pairs of pictures that look the same: candidates by their hashes, then confirmed by laying
the images on one another."""

import dataclasses
import itertools
import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.images.confined_processes import ConfinedPool
from pipelines.images.perceptual_hash import Box, regions
from pipelines.images.same_picture import Alignment, confirmed
from pipelines.questions.picture_search import FOUND, Found, Searchable, search
from pipelines.questions.row_keys import Keys, Mask, RowKeys, mixed

_CONFIRMED_AT_ONCE = 32  # alignments
_MEMORY_BYTES, _TIMEOUT_S = 2 << 30, 60.0  # of a child process, and for what it confirms at once

Indices = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Every picture once, whatever the number of its files. keys: of the pixels, in order. hashes, locations: of
    each."""

    keys: Keys
    hashes: list[bytes]
    locations: list[str]

    @classmethod
    def of(cls, pixel_keys: Keys, decoded: pa.Table, folder: str) -> "Pictures":
        """The usable images of `ingest.decode_images`, which are below `folder`. pixel_keys: of each."""
        usable = np.flatnonzero(np.array([bool(path) for path in decoded["path"].to_pylist()]))
        keys, first = np.unique(pixel_keys[usable], return_index=True)
        chosen = decoded.select(["perceptual_hash", "path"]).take(pa.array(usable[first]))
        paths = (f"{folder}/{path}" for path in chosen["path"].to_pylist())
        return cls(keys, chosen["perceptual_hash"].to_pylist(), list(paths))

    def at(self, keys: Keys) -> Indices:
        """The places of some keys, sorted, each once."""
        return np.asarray(np.searchsorted(self.keys, np.unique(keys)), np.int64)


@dataclasses.dataclass(frozen=True)
class LookAlikes:
    """Pairs of pictures that look the same.

    pairs: (n, 2) keys of their pixels, each pair once. num_compared: pictures; num_candidates: pairs that were laid on
    one another.
    """

    pairs: npt.NDArray[np.int64]
    num_compared: int = 0
    num_candidates: int = 0

    @classmethod
    def none(cls) -> "LookAlikes":
        """No pairs."""
        return cls(np.empty((0, 2), np.int64))

    def partners(self, keys: Keys) -> Keys:
        """The pictures that look the same as one of these."""
        left, right = self.pairs.T
        return np.unique(np.concatenate([right[np.isin(left, keys)], left[np.isin(right, keys)]]))

    def picture(self, keys: Keys) -> Keys:
        """For each key one that all of its look-alikes share, and theirs, and so on."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        known, place = np.unique(np.concatenate([keys, self.pairs.ravel()]), return_inverse=True)
        left, right = place[len(keys) :].reshape(-1, 2).T
        edges = coo_array((np.ones(len(left), bool), (left, right)), shape=(len(known), len(known)))
        _, label = connected_components(edges, directed=False)
        _, first = np.unique(label, return_index=True)
        return np.asarray(known[first[label[place[: len(keys)]]]], np.int64)


def find(keys: RowKeys, pictures: Pictures, *, evaluations: bool, duplicates: bool) -> LookAlikes:
    """Pairs of pictures that look the same.

    evaluations: of training rows with those of evaluation rows. duplicates: of training rows that ask the same.
    """
    examined = keys.evaluation[keys.image_row]
    theirs = pictures.at(keys.image_pixels[examined])
    ours = pictures.at(keys.image_pixels[~examined])
    searches = [(np.setdiff1d(ours, theirs), theirs)] if evaluations else []
    searches += [(places, places) for places in _asked_the_same(keys, pictures)] if duplicates else []
    found = [np.empty(0, FOUND)]
    for left, right in searches:
        searched = Searchable(pictures.hashes, left)
        found.append(search(searched, searched if right is left else Searchable(pictures.hashes, right)))
    candidates = np.concatenate(found)
    ends = np.sort(np.stack([candidates["left"], candidates["right"]], axis=1), axis=1)
    _, first = np.unique(ends, axis=0, return_index=True)
    is_same = _confirmed(candidates[first], pictures)
    compared = np.unique(np.concatenate([np.empty(0, np.int64), *itertools.chain(*searches)]))
    return LookAlikes(np.sort(pictures.keys[ends[first][is_same]], axis=1), len(compared), len(first))


def _asked_the_same(keys: RowKeys, pictures: Pictures) -> Iterator[Indices]:
    """The pictures of each question that training rows ask of several, one picture a row."""
    single = np.bincount(keys.image_row, minlength=len(keys.text)) == 1
    chosen = ~keys.evaluation[keys.image_row] & single[keys.image_row]
    asked = mixed(keys.text, keys.options)[keys.image_row[chosen]]
    pairs = np.unique(np.stack([asked, keys.image_pixels[chosen]], axis=1), axis=0)
    _, start, count = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    for first, number in zip(start[count > 1], count[count > 1], strict=True):
        yield pictures.at(pairs[first : first + number, 1])


def _confirmed(candidates: Found, pictures: Pictures) -> Mask:
    """Which candidates show the same picture."""
    order = np.argsort(candidates["right"], kind="stable")  # so that a child has seldom to read an image again
    alignments = [aligned(each, pictures.hashes, pictures.locations) for each in candidates[order]]
    is_same = np.zeros(len(candidates), bool)
    if alignments:
        is_same[order] = list(_in_children(alignments))
    return is_same


def aligned(candidate: np.void, hashes: list[bytes], locations: list[str]) -> Alignment:
    """How the pictures of a row of FOUND may lie on one another. hashes, locations: of all pictures."""
    left, right = int(candidate["left"]), int(candidate["right"])
    left_box = _box(hashes[left], candidate["left_region"])
    right_box = _box(hashes[right], candidate["right_region"])
    return Alignment(locations[left], locations[right], left_box, right_box, int(candidate["pose"]))


def _box(hashes: bytes, region: int) -> Box:
    top, bottom, left, right = regions(hashes)[region]["box"].tolist()
    return top, bottom, left, right


def _in_children(alignments: list[Alignment]) -> Iterator[bool]:
    starts = range(0, len(alignments), _CONFIRMED_AT_ONCE)
    batches = [alignments[start : start + _CONFIRMED_AT_ONCE] for start in starts]
    workers = min(os.cpu_count() or 1, len(batches))
    with ConfinedPool(confirmed, workers=workers, memory_bytes=_MEMORY_BYTES, timeout_s=_TIMEOUT_S) as pool:
        for batch, outcome in zip(batches, pool.map(batches), strict=True):
            if isinstance(outcome, str):
                raise RuntimeError(f"comparing images {outcome.replace('_', ' ')}: {batch[0].left} and others")
            yield from outcome
