"""Whether options refer to one another by place or letter, such as `Both A and C` or `None of the above`."""

import re
from collections.abc import Sequence

_SEARCHED = 300  # characters of an option; references to others are short, and a long text would take seconds
# Options that refer to others by their place or letter; in another order they would mean something else.
_REFERS_TO_OTHERS = re.compile(
    r"(?i:\b(?:all|any|both|either|neither|none|some|two)\b.*\b(?:above|below|choices|listed|options|others|these)\b)|"
    r"\b(?i:both|choices?|either|neither|options?)\s+\(?[A-Z]\b|"
    r"\b[A-Z]\)?\s*(?:,|&|(?i:and|nor|or))\s*\(?[A-Z]\b"
)


def refer_to_others(options: Sequence[str]) -> bool:
    """Whether an option would mean something else if the options stood in another order, or one were another."""
    return any(_REFERS_TO_OTHERS.search(option[:_SEARCHED]) for option in options)
