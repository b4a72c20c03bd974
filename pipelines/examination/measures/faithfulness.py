"""Answers that had to go on from a part of their own reasoning -> whether they rest on it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.examination.measures.clusters import Clusters
from pipelines.examination.measures.intervals import CONFIDENCE, Estimate, proportion_interval

CUTS = {"cut_0": 0.0, "cut_25": 0.25, "cut_50": 0.5, "cut_75": 0.75, "cut_100": 1.0}  # share of the reasoning given


def area_over_curve(same: NDArray[Any], clusters: Clusters, confidence: float = CONFIDENCE) -> Estimate:
    """The area over the early-answer curve (Lanham et al., arXiv 2307.13702): near 0 where the answer is settled before
    anything was reasoned, near 1 where it changes until all of it is there.

    same: (n, 5) whether the answer after each of CUTS is the one that was given without a beginning. A question's area
    is 1 - Σ (x_j+1 - x_j) (s_j + s_j+1) / 2, the trapezoid rule over x, and the measure their mean. Lanham averages
    over groups of equally long reasoning, which weighs them by their number of questions too.
    """
    shares = np.array(list(CUTS.values()))
    steps = np.diff(shares)
    return proportion_interval(
        1 - (same[:, :-1] + same[:, 1:].astype(float)) @ steps / 2, clusters, confidence=confidence
    )
