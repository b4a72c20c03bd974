"""Answers with the real image and with a wrong one -> whether the image is used, each measure named by its formula.

All differences are paired by question: values are (n,), and their mean is the measure.
"""

from typing import Any

from numpy.typing import NDArray

from pipelines.examination.measures.clusters import Clusters
from pipelines.examination.measures.intervals import CONFIDENCE, Estimate, difference_interval, proportion_interval
from pipelines.examination.measures.letters import changed


def reliance(real: NDArray[Any], other: NDArray[Any], clusters: Clusters, confidence: float = CONFIDENCE) -> Estimate:
    """acc(real) - acc(other): how much a model loses with another image or none (arXiv 2603.03437). Both (n,) right or
    wrong."""
    return difference_interval(real.astype(float) - other, clusters, confidence=confidence)


def sensitivity(
    real: NDArray[Any], other: NDArray[Any], clusters: Clusters, confidence: float = CONFIDENCE
) -> Estimate:
    """The share of answers that change between the conditions. Both (n,) letters, negative for none."""
    return proportion_interval(changed(real, other), clusters, confidence=confidence)


def grounded_gain(
    student: tuple[NDArray[Any], NDArray[Any]],
    base: tuple[NDArray[Any], NDArray[Any]],
    clusters: Clusters,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """G = [S(real) - B(real)] - [S(other) - B(other)]: the part of a student's gain over its base that needs the image.

    Near 0 where the student has only learned letters or priors, since that gain stays when the image is wrong. Each
    pair: (n,) right or wrong with the real image, and with the other one.
    """
    gains = [own.astype(float) - its for own, its in zip(student, base, strict=True)]
    return difference_interval(gains[0] - gains[1], clusters, bound=2, confidence=confidence)
