"""Numbers of a forecast: each says what it is based on, or why it is not known yet."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

GIB = 1 << 30
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Figure:
    """value: the number, rounded to three significant digits, or None. why: what it is based on, or why it is None."""

    value: float | None
    why: str

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {"value": self.value, "why": self.why}


def figure(value: float, why: str) -> Figure:
    """A number that is known."""
    return Figure(value if isinstance(value, int) else float(f"{value:.3g}"), why)


def total(figures: Iterable[Figure]) -> Figure:
    """The sum of the known figures; `why` says whether any are missing."""
    figures = list(figures)
    known = [each.value for each in figures if each.value is not None]
    if not known and figures:
        return Figure(None, "no part of it is known")
    lacks = len(figures) - len(known)
    return figure(sum(known), "the sum" if not lacks else f"the sum of what is known; {lacks} more are not")
