"""What a reading of an answer says."""

import dataclasses
from enum import StrEnum


class How(StrEnum):
    """Where a letter was found; in this order it is looked for."""

    TAUGHT_LINE = "taught_line"
    TAG = "tag"
    JSON = "json"
    BOX = "box"
    ANNOUNCEMENT = "announcement"
    LAST_LINE = "last_line"
    OPTION_TEXT = "option_text"
    FIRST_LINE = "first_line"


class Missing(StrEnum):
    """Why there is no letter."""

    NO_ANSWER = "no_answer"  # nothing is settled on
    REFUSAL = "refusal"  # the model says that it does not know, does not see, or will not say
    SEVERAL = "several"  # more than one option is given
    CONTRADICTION = "contradiction"  # letter and text are those of different options
    NOT_AN_OPTION = "not_an_option"  # a letter or a text that no option has
    TRUNCATED = "truncated"  # the text was cut off before an answer
    FAILED_REQUEST = "failed_request"  # there is no text; no reader says so, but whoever asked


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a text answers.

    letter: of the option that is given; None where there is none. how: where it was found. missing: why there is none.
    text_letter: of the option whose text is given, whatever letter stands beside it; None where only a letter is given.
    place: where in the text the answer begins.
    """

    letter: str | None = None
    how: How | None = None
    missing: Missing | None = None
    text_letter: str | None = None
    place: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What a part of a text settles on. decisive: an earlier part does not count beside it."""

    letter: str | None = None
    missing: Missing | None = None
    text_letter: str | None = None
    decisive: bool = True
