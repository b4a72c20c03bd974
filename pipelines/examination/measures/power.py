"""A set's size -> which difference between two models it can show."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

DISCORDANT = 0.25  # share of questions that one of two models alone answers right
POWER = 0.8
ALPHA = 0.05


def design_effect(sizes: NDArray[Any], icc: float) -> float:
    """The variance of a mean over that of as many independent questions (Kish): 1 + (Σ n_g² / Σ n_g - 1) ICC.

    sizes: (G,) questions in each cluster. icc: how alike a cluster's questions are, from 0 to 1.
    """
    sizes = sizes.astype(np.float64)
    return 1 + (float((sizes**2).sum() / sizes.sum()) - 1) * icc


def smallest_difference(
    num_questions: float,
    *,
    discordant: float = DISCORDANT,
    power: float = POWER,
    alpha: float = ALPHA,
    effect: float = 1.0,
) -> float | None:
    """The smallest difference in accuracy that McNemar's test finds with this power (Connor 1987), None where none is.

    Solves d √n = z_α √ψ + z_β √(ψ - d²) for d, with ψ the share of discordant questions and n questions over the design
    effect. A difference cannot exceed ψ.
    """
    from scipy.stats import norm

    questions = num_questions / effect
    if questions <= 0:
        return None
    z_alpha, z_beta = float(norm.isf(alpha / 2)), float(norm.ppf(power))
    root = questions * z_alpha**2 - (questions + z_beta**2) * (z_alpha**2 - z_beta**2)
    if root < 0:
        return None
    found = np.sqrt(discordant) * (np.sqrt(questions) * z_alpha + np.sqrt(root)) / (questions + z_beta**2)
    return float(found) if found <= discordant else None


def power_of(
    difference: float,
    num_questions: float,
    *,
    discordant: float = DISCORDANT,
    alpha: float = ALPHA,
    effect: float = 1.0,
) -> float:
    """How often McNemar's test finds a true difference (Connor 1987); `smallest_difference` turned round.

    Raises ValueError for a difference that exceeds the share of discordant questions.
    """
    from scipy.stats import norm

    if abs(difference) > discordant:
        raise ValueError(f"a difference of {difference} needs as many discordant questions, and {discordant} are")
    spread = discordant - difference**2
    if spread == 0:
        return 1.0
    excess = abs(difference) * np.sqrt(num_questions / effect) - norm.isf(alpha / 2) * np.sqrt(discordant)
    return float(norm.cdf(excess / np.sqrt(spread)))
