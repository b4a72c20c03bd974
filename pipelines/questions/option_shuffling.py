"""Options of a training question -> the same in a seeded order, so that no letter is right more often than others."""

import random
from collections.abc import Sequence

from pipelines.records import LETTERS
from pipelines.records.option_references import refer_to_others


def shuffled(options: Sequence[str], gold: str, seed: int, question: int) -> tuple[tuple[str, ...], str]:
    """The options in an order drawn for this question alone, and the letter that the right one then has.

    question: its id as a number. Unchanged where an option refers to others by place or letter, such as `Both A and C`.
    """
    if refer_to_others(options):
        return tuple(options), gold
    order = list(range(len(options)))
    random.Random(seed * 1_000_003 + question).shuffle(order)  # noqa: S311 - must be the same in every run
    return tuple(options[place] for place in order), LETTERS[order.index(LETTERS.index(gold))]
