"""Letter likelihoods -> whether a model knows when it is right.

Probabilities are (n, K) over the options of n questions, in letter order: nan where a question has fewer options, a row
of nan where the endpoint gave none. gold is (n,), numbers from 0.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.examination.measures.clusters import Floats

NUM_BINS = 10
CONFIDENT = 0.9


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How far confidence can be trusted.

    num_questions: those with likelihoods. mass: mean probability that fell on any option before it was made 1.
    brier: mean of Σ_k (p_k - 1[k is right])², from 0 to 2. ece: Σ_bins share |accuracy - confidence|, over bins of
    equal width of the likeliest option's probability. aurc: mean risk over all coverages. confidently_wrong: share of
    questions whose likeliest option is wrong with at least the probability `confident`.
    bins: for each one low, high, count, mean confidence, accuracy (nan where it is empty). coverage, risk: (n,) the
    curve: of the most confident questions first, the share of wrong ones.
    """

    num_questions: int
    mass: float
    brier: float
    ece: float
    aurc: float
    confidently_wrong: float
    confident: float
    bins: list[tuple[float, float, int, float, float]]
    coverage: Floats
    risk: Floats


def calibration(
    probabilities: Floats, gold: NDArray[Any], *, num_bins: int = NUM_BINS, confident: float = CONFIDENT
) -> Calibration | None:
    """None where no question has likelihoods. Rows are made to sum to 1 over their options.

    Raises ValueError for a negative probability, or a right option that has none.
    """
    there = np.isfinite(probabilities).any(axis=1)
    given = np.nan_to_num(probabilities[there], nan=0.0)
    right = gold[there]
    mass = given.sum(axis=1)
    usable = mass > 0
    given, right, mass = given[usable], right[usable], mass[usable]
    if len(given) == 0:
        return None
    rows = np.arange(len(given))
    if (given < 0).any() or np.isnan(probabilities[there][usable][rows, right]).any():
        raise ValueError("a probability is negative, or the right option has none")
    shares = given / mass[:, None]
    confidence, correct = shares.max(axis=1), shares.argmax(axis=1) == right
    wrong_by = shares.copy()
    wrong_by[rows, right] -= 1
    bins = _bins(confidence, correct, num_bins)
    coverage, risk = risk_coverage(confidence, correct)
    return Calibration(
        num_questions=len(given),
        mass=float(mass.mean()),
        brier=float((wrong_by**2).sum(axis=1).mean()),
        ece=sum(count * abs(accuracy - mean) for _, _, count, mean, accuracy in bins if count) / len(given),
        aurc=float(risk.mean()),
        confidently_wrong=float(((confidence >= confident) & ~correct).mean()),
        confident=confident,
        bins=bins,
        coverage=coverage,
        risk=risk,
    )


def risk_coverage(confidence: Floats, correct: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The risk-coverage curve: after each question, most confident first, which share is answered and which share of
    that is wrong; both (n,). Among equally confident ones their order tells nothing, so errors are spread evenly."""
    order = np.argsort(-confidence, kind="stable")
    groups = np.unique(-confidence[order], return_inverse=True)[1]
    errors = (~correct[order]).astype(np.float64)
    even = np.bincount(groups, weights=errors) / np.bincount(groups)
    answered = np.arange(1, len(order) + 1)
    return answered / len(order), np.cumsum(even[groups]) / answered


def _bins(confidence: Floats, correct: NDArray[np.bool_], number: int) -> list[tuple[float, float, int, float, float]]:
    edges = np.linspace(0, 1, number + 1)
    own = np.clip(np.digitize(confidence, edges[1:-1], right=True), 0, number - 1)
    counts = np.bincount(own, minlength=number)
    sums = [np.bincount(own, weights=each, minlength=number) for each in (confidence, correct)]
    means = [np.divide(each, counts, out=np.full(number, np.nan), where=counts > 0) for each in sums]
    columns = (edges[:-1], edges[1:], counts, *means)
    return [
        (float(low), float(high), int(count), float(a), float(b))
        for low, high, count, a, b in zip(*columns, strict=True)
    ]
