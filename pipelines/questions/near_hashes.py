"""Perceptual hashes -> the pairs of them that differ in few bits, so that images which look the same are found."""

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipelines.questions.row_keys import mixed

_HASH_BITS = 64
_PAIRS_AT_ONCE = 1 << 22  # candidates that are compared at once, which bounds the memory

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
Pairs = Iterator[tuple[Indices, Indices]]


def near_pairs(left: Hashes, right: Hashes, distance: int, group: Indices | None = None) -> Pairs:
    """Indices (i, j) of hashes within `distance` bits of each other, as arrays of several pairs, some pairs repeated.

    Exact, since two such hashes are equal in at least one of distance + 1 bands of bits. group: only pairs within one
    group of `left` count; `right` is `left` then.
    """
    edges = np.linspace(0, _HASH_BITS, distance + 2).astype(int)
    for low, high in itertools.pairwise(edges):
        band = np.uint64((1 << (high - low)) - 1)
        ours, theirs = (left >> np.uint64(low)) & band, (right >> np.uint64(low)) & band
        if group is not None:
            ours = theirs = mixed(ours.view(np.int64), group.astype(np.int64)).view(np.uint64)
        for i, j in _equal_pairs(ours, theirs):
            near = np.bitwise_count(left[i] ^ right[j]) <= distance
            yield i[near], j[near]


def _equal_pairs(ours: Hashes, theirs: Hashes) -> Pairs:
    """Indices (i, j) of equal values, a bounded number at a time."""
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
