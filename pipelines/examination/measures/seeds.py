"""One arm fitted with several seeds -> how much of its uncertainty is the seed's, and how much the questions'."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.examination.measures.clusters import Clusters
from pipelines.examination.measures.intervals import CONFIDENCE, proportion_interval


@dataclasses.dataclass(frozen=True)
class SeedVariance:
    """mean: accuracy over all seeds. accuracies: of each seed. seed_sd: how much fits with other seeds differ in truth,
    beyond what answers to single questions do by chance. question_se, total_se: standard error of the mean, from the
    questions alone, and with that of few seeds. low, high: interval for what a fit of this kind scores on average."""

    mean: float
    accuracies: tuple[float, ...]
    seed_sd: float
    question_se: float
    total_se: float
    low: float
    high: float


def seed_variance(right: NDArray[Any], clusters: Clusters, confidence: float = CONFIDENCE) -> SeedVariance:
    """right: (n, S) right or wrong, with S >= 2 seeds on the same n questions in clusters.

    Questions and seeds are crossed random effects, y = μ + question + seed + rest; the seed's variance is Henderson's
    moment estimator, (MS seed - MS rest) / n, at least 0. The total is the clustered variance of the mean over seeds
    plus the variance of the seeds' accuracies over S, of which the rest is not taken off: a difference that is often 0
    by chance made intervals of three seeds hold 90 %, and these hold 93 to 98. Student's quantile has Satterthwaite's
    degrees. Raises ValueError for fewer than two seeds or questions.
    """
    from scipy.stats import t

    num_questions, num_seeds = right.shape
    if num_seeds < 2 or num_questions < 2:  # noqa: PLR2004 - no variance between fewer than two
        raise ValueError(f"{num_questions} questions and {num_seeds} seeds: two of each are needed to tell them apart")
    own = right.astype(np.float64)
    by_seed, by_question, mean = own.mean(axis=0), own.mean(axis=1), float(own.mean())
    mean_square_seed = num_questions * float(((by_seed - mean) ** 2).sum()) / (num_seeds - 1)
    rest = own - by_question[:, None] - by_seed[None, :] + mean
    mean_square_rest = float((rest**2).sum()) / ((num_questions - 1) * (num_seeds - 1))
    seed = max(0.0, (mean_square_seed - mean_square_rest) / num_questions)
    estimate = proportion_interval(by_question, clusters, confidence=confidence)
    question = mean * (1 - mean) / float(estimate.effective_questions)
    of_seeds = mean_square_seed / num_questions / num_seeds
    total = question + of_seeds
    whole = question**2 / max(1, estimate.num_clusters - 1) + of_seeds**2 / (num_seeds - 1)
    half = float(t.ppf((1 + confidence) / 2, total**2 / whole)) * total**0.5 if whole else 0.0
    low, high = min(mean - half, float(estimate.low)), max(mean + half, float(estimate.high))
    return SeedVariance(
        mean=mean,
        accuracies=tuple(float(each) for each in by_seed),
        seed_sd=seed**0.5,
        question_se=question**0.5,
        total_se=total**0.5,
        low=max(0.0, low),
        high=min(1.0, high),
    )
