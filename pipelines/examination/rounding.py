"""Numbers -> JSON values with as many digits as they deserve."""

import math
from typing import Any

from pipelines.examination.measures.intervals import Estimate

_DIGITS = 4
_DIGITS_OF_P = 3


def rounded(value: Any) -> float | None:
    """To 4 decimals; None for what is no number."""
    return None if value is None or not math.isfinite(value) else round(float(value), _DIGITS)


def probability(p: float) -> float:
    """A p value to 3 significant digits."""
    return float(f"{p:.{_DIGITS_OF_P}g}")


def shown(estimate: Estimate, name: str) -> dict[str, Any]:
    """An estimate under its name, with its interval, n and clusters."""
    return {
        name: rounded(estimate.value),
        "interval": [rounded(estimate.low), rounded(estimate.high)],
        "n": estimate.num_questions,
        "clusters": estimate.num_clusters,
        "design_effect": rounded(estimate.design_effect),
        "caveat": estimate.caveat(),
    }
