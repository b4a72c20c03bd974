"""Perceptual hashes of pictures -> for each the few others whose regions have the most similar spectra, in any pose."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from pipelines.images.perceptual_hash import NUM_WAVES, POSES, Kind, Regions, regions, spectra

MIN_SIMILARITY = 0.72  # cosine of two spectra; lower ones are not worth a look at the pixels
MAX_FOUND = 6  # for each picture, the most similar ones: bounds the time where everything looks alike
# Kinds of regions that are compared. What an image shows after it was cropped is the inset of the image before.
_COMPARED = (
    ((Kind.FRAME,), (Kind.FRAME, Kind.PANEL, Kind.INSET)),
    ((Kind.PANEL, Kind.INSET), (Kind.FRAME,)),
    ((Kind.CENTRE,), (Kind.CENTRE,)),
)
_LEFT_AT_ONCE = 64  # pictures
_RIGHT_AT_ONCE = 512  # regions: what is computed of their pairs stays in a processor's cache
_ODD = np.arange(NUM_WAVES) % 2 == 1

FOUND = np.dtype(
    [
        ("left", "<i8"),
        ("right", "<i8"),
        ("similarity", "<f4"),
        ("left_region", "<i8"),
        ("right_region", "<i8"),
        ("pose", "u1"),
    ]
)
Found = npt.NDArray[
    np.void
]  # of the type FOUND; left, right: pictures; regions: each in its own picture; pose: of left
Grid = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


class Searchable:
    """Pictures that are searched. hashes: of every picture; chosen: the indices of those that are meant, in order."""

    def __init__(self, hashes: list[bytes], chosen: Indices) -> None:
        each = [regions(hashes[place]) for place in chosen]
        counts = np.array([len(one) for one in each], np.int64)
        self.regions: Regions = np.concatenate(each) if each else regions(b"")
        self.pictures = chosen
        self.picture = np.repeat(chosen, counts)
        self.number = np.arange(len(self.picture)) - np.repeat(np.cumsum(counts) - counts, counts)
        self.start = np.concatenate([[0], np.cumsum(counts)])
        self.spectra = spectra(self.regions)

    def of_kinds(self, kinds: tuple[Kind, ...], first: int = 0, last: int | None = None) -> Indices:
        """The regions of these kinds, of the pictures from `first` to before `last`."""
        begin, end = self.start[first], self.start[len(self.start) - 1 if last is None else last]
        return np.asarray(begin + np.flatnonzero(np.isin(self.regions["kind"][begin:end], kinds)), np.int64)


def search(left: Searchable, right: Searchable) -> Found:
    """For each picture of `left` the most similar ones of `right`, by their most similar regions, with the pose in
    which these are. No picture is found for itself."""
    prepared: list[_Prepared] = []
    for left_kinds, right_kinds in _COMPARED:
        of_right = right.of_kinds(right_kinds)
        blocks = np.split(of_right, np.arange(_RIGHT_AT_ONCE, len(of_right), _RIGHT_AT_ONCE))
        prepared.append((left_kinds, [(block, _by_parity(right.spectra[block])) for block in blocks if len(block)]))
    starts = range(0, len(left.start) - 1, _LEFT_AT_ONCE)
    best = partial(_best, left, right, prepared)
    if len(starts) > 1:  # one thread a chunk: a product is too small to gain from several of its own
        with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(best, starts))
    else:
        found = [best(first) for first in starts]
    joined: Found = np.concatenate([np.empty(0, FOUND), *found])
    joined["pose"] = _poses(left, right, joined)
    return joined


_Prepared = tuple[tuple[Kind, ...], list[tuple[Indices, list[Grid]]]]  # kinds of the left; regions of the right, parts


def _best(left: Searchable, right: Searchable, prepared: list[_Prepared], first: int) -> Found:
    """What is found for _LEFT_AT_ONCE pictures of `left`, from `first` on; without poses."""
    last = min(first + _LEFT_AT_ONCE, len(left.start) - 1)
    best = np.empty(0, FOUND)
    for left_kinds, right_blocks in prepared:
        ours = left.of_kinds(left_kinds, first, last)
        parts = [_by_parity(each) for each in (left.spectra[ours], left.spectra[ours].transpose(0, 2, 1))]
        for theirs, their_parts in right_blocks:
            similarity = np.maximum(*(_best_pose(part, their_parts) for part in parts))
            if similarity.max(initial=0) >= MIN_SIMILARITY:
                i, j = np.nonzero(similarity >= MIN_SIMILARITY)
                best = _most_similar(np.concatenate([best, _rows(left, right, ours[i], theirs[j], similarity[i, j])]))
    return best


def _by_parity(of: Grid) -> list[Grid]:
    """The spectra in four parts, by whether a frequency is odd: neither, horizontal, vertical, both."""
    return [
        np.ascontiguousarray(of[:, down][:, :, across].reshape(len(of), -1))
        for down in (~_ODD, _ODD)
        for across in (~_ODD, _ODD)
    ]


def _best_pose(left: list[Grid], right: list[Grid]) -> Grid:
    """The cosines of all pairs, as large as mirroring and flipping make them: that changes the sign of the part with
    odd horizontal frequencies, of that with odd vertical ones, or of both, and of the last part as their product."""
    neither, across, down, both = (one @ other.T for one, other in zip(left, right, strict=True))
    kept, mirrored = neither + across, neither - across
    kept += np.abs(down + both)
    mirrored += np.abs(down - both)
    return np.asarray(np.maximum(kept, mirrored, out=kept), np.float32)


def _rows(left: Searchable, right: Searchable, ours: Indices, theirs: Indices, similarity: Grid) -> Found:
    rows = np.zeros(len(ours), FOUND)
    rows["left"], rows["right"], rows["similarity"] = left.picture[ours], right.picture[theirs], similarity
    rows["left_region"], rows["right_region"] = left.number[ours], right.number[theirs]
    return np.asarray(rows[rows["left"] != rows["right"]])


def _most_similar(found: Found) -> Found:
    """Of the rows of each picture the most similar ones, each other picture once."""
    found = found[np.lexsort((found["right_region"], found["left_region"], -found["similarity"]))]
    _, first = np.unique(found[["left", "right"]], return_index=True)
    found = found[np.sort(first)]
    found = found[np.argsort(found["left"], kind="stable")]
    rank = np.arange(len(found)) - np.searchsorted(found["left"], found["left"])
    return found[rank < MAX_FOUND]


def _poses(left: Searchable, right: Searchable, found: Found) -> npt.NDArray[np.uint8]:
    """The pose of the left region in which it is most similar to the right one; index in POSES."""
    places = [
        side.start[np.searchsorted(side.pictures, found[name])] + found[f"{name}_region"]
        for side, name in ((left, "left"), (right, "right"))
    ]
    ours, theirs = left.spectra[places[0]], right.spectra[places[1]]
    signs = np.where(_ODD, -1, 1).astype(np.float32)
    cosines = []
    for turned, mirrored, flipped in POSES:
        posed = ours.transpose(0, 2, 1) if turned else ours
        posed = posed * (signs if mirrored else 1) * (signs[:, None] if flipped else 1)
        cosines.append(np.einsum("nvh,nvh->n", posed, theirs))
    return np.argmax(np.stack(cosines), axis=0).astype(np.uint8) if len(found) else np.empty(0, np.uint8)
