"""Options of a training question -> the same in a seeded order, so that no letter is right more often than others."""

import random
import re
from collections.abc import Sequence

from pipelines.records import LETTERS

_SEARCHED = 300  # characters of an option; references to others are short, and a long text would take seconds
# Options that refer to others by their place or letter; in another order they would mean something else.
_REFERS_TO_OTHERS = re.compile(
    r"(?i:\b(?:all|any|both|either|neither|none|some|two)\b.*\b(?:above|below|choices|listed|options|others|these)\b)|"
    r"\b(?i:both|choices?|either|neither|options?)\s+\(?[A-Z]\b|"
    r"\b[A-Z]\)?\s*(?:,|&|(?i:and|nor|or))\s*\(?[A-Z]\b"
)


def shuffled(options: Sequence[str], gold: str, seed: int, question: int) -> tuple[tuple[str, ...], str]:
    """The options in an order drawn for this question alone, and the letter that the right one then has.

    question: its id as a number. Unchanged where an option refers to others by place or letter, such as `Both A and C`.
    """
    if any(_REFERS_TO_OTHERS.search(option[:_SEARCHED]) for option in options):
        return tuple(options), gold
    order = list(range(len(options)))
    random.Random(seed * 1_000_003 + question).shuffle(order)  # noqa: S311 - must be the same in every run
    return tuple(options[place] for place in order), LETTERS[order.index(LETTERS.index(gold))]
