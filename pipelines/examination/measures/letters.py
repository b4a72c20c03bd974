"""Letters that were answered -> what depends on their position, on the order of options, and on asking again.

Letters are numbers of options from 0; a negative number is no letter. Shapes: n questions, R rotations of options.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.examination.measures.clusters import Clusters, Floats
from pipelines.examination.measures.intervals import CONFIDENCE, Estimate, proportion_interval


@dataclasses.dataclass(frozen=True)
class PositionBias:
    """Which positions a model favours. answered, gold: (K,) share of each letter among answers, and among the right
    ones of the same questions. recall: (K,) how often a letter is answered where it is right; nan where it never is.
    total_variation: half the sum of |answered - gold|, from 0 (as often as they are right) to 1."""

    answered: Floats
    gold: Floats
    recall: Floats
    total_variation: float


def position_bias(letters: NDArray[Any], gold: NDArray[Any], num_letters: int) -> PositionBias:
    """Of the questions that were answered with a letter; all shares 0 where none was."""
    answered = letters >= 0
    own, right = letters[answered], gold[answered]
    counts = [np.bincount(each, minlength=num_letters)[:num_letters] for each in (own, right, right[own == right])]
    shares = [count / max(1, int(answered.sum())) for count in counts[:2]]
    recall = np.divide(counts[2], counts[1], out=np.full(num_letters, np.nan), where=counts[1] > 0)
    return PositionBias(shares[0], shares[1], recall, float(np.abs(shares[0] - shares[1]).sum() / 2))


def changed(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.bool_]:
    """Which answers differ, (n,): another letter, or a letter where there was none, or none where there was one. Two
    answers without a letter are the same. Between conditions this is sensitivity, between repeats a flip."""
    return np.asarray(np.maximum(first, -1) != np.maximum(second, -1))


@dataclasses.dataclass(frozen=True)
class Circular:
    """Accuracy over all rotations of the options (CircularEval, arXiv 2307.06281). mean: over questions and rotations.
    worst: share of questions that are answered right under every rotation. num_rotations: R."""

    mean: Estimate
    worst: Estimate
    num_rotations: int


def circular(
    right: NDArray[np.bool_], asked: NDArray[np.bool_], clusters: Clusters, confidence: float = CONFIDENCE
) -> Circular:
    """right: (n, R) whether the right option was chosen, wherever it stood; asked: (n, R) under which rotations each
    question was asked, at least one. A question's rotations vary together, so its mean over them is one value."""
    share = (right & asked).sum(axis=1) / asked.sum(axis=1)
    mean = proportion_interval(share, clusters, confidence=confidence)
    worst = proportion_interval(np.all(right | ~asked, axis=1), clusters, confidence=confidence)
    return Circular(mean, worst, right.shape[1])
