"""Questions -> what answering without looking scores, and whether a model does better than that."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.examination.measures.clusters import Clusters, Floats
from pipelines.examination.measures.intervals import CONFIDENCE, Estimate, difference_interval


def guessing(num_options: NDArray[Any]) -> Floats:
    """The chance that a guess is right, for each question, (n,)."""
    return 1 / np.asarray(num_options, dtype=np.float64)


def guessing_range(num_options: NDArray[Any], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """What guessing at every question scores in that share of examinations: mean and variance of independent guesses,
    as a normal distribution."""
    from scipy.stats import norm

    chance = guessing(num_options)
    error = float(np.sqrt((chance * (1 - chance)).sum())) / len(chance)
    half = float(norm.ppf((1 + confidence) / 2)) * error
    return max(0.0, float(chance.mean()) - half), min(1.0, float(chance.mean()) + half)


def by_length(lengths: NDArray[Any], gold: NDArray[Any], *, longest: bool) -> Floats:
    """What always choosing the longest option scores, or the shortest, for each question, (n,); of several of the same
    length one is guessed.

    lengths: (n, K) characters of each option, negative where a question has fewer. gold: (n,) the right one's number.
    """
    there = lengths >= 0
    wanted = np.where(there, lengths if longest else -lengths, np.iinfo(np.int32).min)
    chosen = wanted == wanted.max(axis=1, keepdims=True)
    credit: Floats = chosen[np.arange(len(gold)), gold] / chosen.sum(axis=1)
    return credit


@dataclasses.dataclass(frozen=True)
class Against:
    """A model against answering without looking. difference: model minus baseline, paired by question.
    finding: `above`, `at` or `below`; `unknown` of too few clusters."""

    difference: Estimate
    finding: str
    sentence: str


def against(
    name: str,
    right: NDArray[Any],
    baseline: Floats,
    baseline_name: str,
    clusters: Clusters,
    confidence: float = CONFIDENCE,
) -> Against:
    """Whether a model can be told from a baseline, with a sentence that says so.

    name: of the model. right: (n,) its answers, right or wrong. baseline: (n,) what the baseline scores. baseline_name:
    completes "at ...", such as `chance`.
    """
    difference = difference_interval(right.astype(np.float64) - baseline, clusters, confidence=confidence)
    low, high = float(difference.low), float(difference.high)
    finding = "above" if low > 0 else "below" if high < 0 else "at"
    if difference.num_clusters < 2:  # noqa: PLR2004 - nothing varies between fewer than two
        finding = "unknown"
    numbers = (
        f"{100 * right.mean():.1f} % right against {100 * baseline.mean():.1f} % "
        f"(difference {100 * difference.value:+.1f} points, {100 * confidence:g} % interval {100 * low:+.1f} to "
        f"{100 * high:+.1f})"
    )
    verdict = {
        "above": f"is above {baseline_name}",
        "at": f"is at {baseline_name}, from which it cannot be told apart",
        "below": f"is below {baseline_name}",
        "unknown": f"cannot be compared with {baseline_name}: all questions are one cluster",
    }[finding]
    return Against(difference, finding, f"{name} {verdict}: {numbers}.")
