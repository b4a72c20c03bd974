"""Questions -> clusters: which of them are not independent, since they share an article, a figure or an image."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.records import Question

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LEVELS = ("article", "figure", "image", "question")  # what questions may be clustered by, the widest first


def cluster_codes(questions: Sequence[Question], by: str = "article") -> Integers:
    """The cluster of each question, (n,), counted from 0.

    A question belongs to what `by` names, or where that is unknown to the next narrower thing that is known: its
    article, its figure (of its article, since figures are often numbered anew in each), or all of its images, by their
    bytes. Nothing narrower joins two articles: one picture that returns everywhere, such as a logo, or figures that are
    all called `fig1` would make one cluster of everything. Raises ValueError for an unknown level.
    """
    if by not in LEVELS:
        raise ValueError(f"clusters by {by!r}: name one of {', '.join(LEVELS)}")
    numbers: dict[tuple[str, ...], int] = {}
    pairs = [
        (row, numbers.setdefault(key, len(numbers)))
        for row, question in enumerate(questions)
        for key in _keys(question, by)
    ]
    return _components(len(questions), len(numbers), np.array(pairs, dtype=np.int64).reshape(-1, 2))


def _keys(question: Question, by: str) -> list[tuple[str, ...]]:
    """What the question shares with others of its cluster; several where it has several images."""
    if by == "article" and question.article:
        return [("article", question.article)]
    if by in ("article", "figure") and question.figure:
        return [("figure", question.article, question.figure)]
    return [("image", digest) for digest in question.image_digests] if by != "question" else []


def _components(num_questions: int, num_keys: int, pairs: Integers) -> Integers:
    """The connected components of the graph of questions and keys; numbers of the questions' ones."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = num_questions + num_keys
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], num_questions + pairs[:, 1])), shape=(size, size))
    labels: Any = connected_components(graph, directed=False)[1]
    return np.unique(labels[:num_questions], return_inverse=True)[1].astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Clusters of n questions, ready for sums.

    order: (n,) the questions, one cluster after the other; starts: (G,) where each cluster begins in it; sizes: (G,)
    questions in each.
    """

    order: Integers
    starts: Integers
    sizes: Integers

    @classmethod
    def of(cls, codes: NDArray[np.integer[Any]]) -> "Clusters":
        """The clusters of these codes, (n,); any integers, equal for questions of one cluster."""
        order = np.argsort(codes, kind="stable")
        in_order = codes[order]
        starts = np.flatnonzero(np.r_[True, in_order[1:] != in_order[:-1]][: len(in_order)])
        return cls(order, starts, np.diff(np.r_[starts, len(in_order)]))

    @classmethod
    def single(cls, num_questions: int) -> "Clusters":
        """Every question a cluster of its own."""
        return cls.of(np.arange(num_questions))

    def sum(self, values: NDArray[Any]) -> Floats:
        """Sums by cluster: (..., n) -> (..., G)."""
        in_order = np.take(np.asarray(values, dtype=np.float64), self.order, axis=-1)
        return np.add.reduceat(in_order, self.starts, axis=-1)

    @property
    def effective(self) -> float:
        """How many clusters of one size weigh as these do (Kish): n² / Σ n_g²; the number of clusters if all are of
        one size, 1 if one holds nearly everything, 0 of no questions."""
        squares = float((self.sizes.astype(np.float64) ** 2).sum())
        return float(self.sizes.sum()) ** 2 / squares if squares else 0.0
