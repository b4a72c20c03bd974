"""Two models' answers to the same questions -> their difference, and whether it is more than chance.

Shapes: n questions in G clusters. `first` and `second` are (n,) right or wrong.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.examination.measures.clusters import Clusters, Floats
from pipelines.examination.measures.intervals import CONFIDENCE, Estimate, difference_interval


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The second model minus the first.

    first_only, second_only: questions that one of them alone answers right. midp: McNemar's mid-p, which takes
    questions as independent. statistic, p: the clustered form, chi-squared of one degree.
    """

    difference: Estimate
    first_only: int
    second_only: int
    midp: float
    statistic: float
    p: float


def compare(
    first: NDArray[Any], second: NDArray[Any], clusters: Clusters, confidence: float = CONFIDENCE
) -> Comparison:
    """The paired difference with its clustered interval, and both tests."""
    values = second.astype(np.float64) - first
    first_only, second_only = int((values < 0).sum()), int((values > 0).sum())
    statistic, p = clustered_mcnemar(values, clusters)
    return Comparison(
        difference=difference_interval(values, clusters, confidence=confidence),
        first_only=first_only,
        second_only=second_only,
        midp=mcnemar_midp(first_only, second_only),
        statistic=statistic,
        p=p,
    )


def mcnemar_midp(first_only: int, second_only: int) -> float:
    """McNemar's test by the mid-p value (Fagerland, Lydersen and Laake 2013): the exact p less the chance of what was
    seen, halved where both counts are equal; 1 where there is no discordant pair."""
    from scipy.stats import binom

    total, fewer = first_only + second_only, min(first_only, second_only)
    if total == 0:
        return 1.0
    seen = float(binom.pmf(fewer, total, 0.5))
    return 1 - seen / 2 if first_only == second_only else 2 * float(binom.cdf(fewer, total, 0.5)) - seen


def clustered_mcnemar(values: NDArray[Any], clusters: Clusters) -> tuple[float, float]:
    """McNemar's test for clustered pairs: Obuchowski's, as modified by Yang, Sun and Hardin (2010).

    doi 10.1002/bimj.201000035. values: (n,) second minus first. The statistic is (G - 1) / G (Σ d_g)² / Σ d_g² with
    d_g the sum of a cluster, chi-squared of one degree; (0, 1) where no cluster differs.
    """
    from scipy.stats import chi2

    sums = clusters.sum(values)
    squares, number = float((sums**2).sum()), len(sums)
    if squares == 0:
        return 0.0, 1.0
    statistic = (number - 1) / number * float(sums.sum()) ** 2 / squares
    return statistic, float(chi2.sf(statistic, 1))


def holm(p_values: Sequence[float]) -> Floats:
    """The p values of one family of tests, adjusted by Holm (1979), in their order."""
    from statsmodels.stats.multitest import multipletests

    return np.asarray(multipletests(p_values, method="holm")[1] if len(p_values) else [], dtype=np.float64)
