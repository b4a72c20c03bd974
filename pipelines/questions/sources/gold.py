"""What a row says is right -> that option's letter, where one reading is left.

A table says it by letter, by the option's text, or by its number, from 0 or from 1. Where a row could be read in two
ways, the other rows of its table settle it, or it is refused: `C` may be the third option or carbon, `2` the second
option or the third or two.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

from pipelines.questions.candidates import RejectedError, normalised
from pipelines.records import LETTERS


class Form(StrEnum):
    """How a table says what is right; each name is what the change is counted as."""

    LETTER = "answer_by_letter"
    TEXT = "answer_by_text"
    FROM_0 = "answer_by_number_from_0"
    FROM_1 = "answer_by_number_from_1"


_NUMBER = re.compile(r"\d{1,3}(?:\.0+)?")
_LETTER = re.compile(r"[(\[*'\"]{0,3}(?:option[ _]?)?[(\[*'\"]{0,3}([A-Z])[)\].:*'\"]{0,4}", re.IGNORECASE | re.ASCII)
_LETTER_AND_TEXT = re.compile(r"(?:option )?[(\[]?([A-Z])[)\].:]{1,2} ?(\S.*)", re.IGNORECASE | re.ASCII)
Readings = dict[Form, str]
Sayings = Iterable[tuple[str, Sequence[str]]]  # what each row of a table says, and its options


class Forms:
    """The ways in which every row of a table can be read; found out when a row is met that needs it.

    sayings: gives what all rows say; it is asked for once at most.
    """

    def __init__(self, sayings: Callable[[], Sayings]) -> None:
        self._sayings = sayings
        self._of: dict[bool, frozenset[Form]] | None = None

    def of(self, number: bool) -> frozenset[Form]:
        """Of the rows that give a number, or of the others."""
        if self._of is None:
            left = {True: frozenset(Form), False: frozenset(Form)}
            for said, options in self._sayings():
                if readings := _readings(said, options):
                    left[_is_number(said)] &= readings.keys()
            self._of = left
        return self._of[number]


def letter(said: str, options: Sequence[str], forms: Forms | None) -> tuple[str, str]:
    """The right option's letter, and how it was read where that is not the plain way; raises RejectedError.

    said: on one line. forms: of the row's table; without, only what the row alone makes certain is taken.
    """
    if combined := _letter_and_text(said, options):
        return combined, "answer_by_letter_and_text"
    readings = _readings(said, options)
    if not readings:
        raise RejectedError("answer_is_no_option")
    is_number = _is_number(said)
    if len(set(readings.values())) > 1 or (is_number and Form.TEXT not in readings):
        common = forms.of(is_number) if forms else frozenset()
        readings = {form: found for form, found in readings.items() if form in common}
    if len(set(readings.values())) != 1:
        raise RejectedError("answer_number_unclear" if is_number else "answer_unclear")
    form, found = next(iter(readings.items()))
    if form is not Form.LETTER:
        return found, form
    return found, "" if len(said) == 1 else "answer_letter_between_marks"


def _is_number(said: str) -> bool:
    return bool(_NUMBER.fullmatch(said))


def _readings(said: str, options: Sequence[str]) -> Readings:
    """Each way in which a row can be read, and the letter that it gives."""
    found: Readings = {}
    match = _LETTER.fullmatch(said)
    number = int(float(said)) if _is_number(said) else None
    places = {
        Form.LETTER: LETTERS.index(match[1].upper()) if match else None,
        Form.TEXT: _place_of_text(said, options),
        Form.FROM_0: number,
        Form.FROM_1: None if number is None else number - 1,
    }
    for form, index in places.items():
        if index is not None and 0 <= index < len(options):
            found[form] = LETTERS[index]
    return found


def _place_of_text(said: str, options: Sequence[str]) -> int | None:
    """The one option that this is, in another case or with a few other marks at most."""
    folded = said.casefold()
    places = [place for place, option in enumerate(options) if option.casefold() == folded]
    if not places:
        about_as_long = [
            place
            for place, option in enumerate(options)
            if len(said) <= 2 * len(option) + 2 and len(option) <= 2 * len(said) + 2
        ]
        bare = normalised(said) if about_as_long else ""
        places = [place for place in about_as_long if normalised(options[place]) == bare]
    return places[0] if len(places) == 1 else None


def _letter_and_text(said: str, options: Sequence[str]) -> str | None:
    """The letter of `B) text`, if that is the option's text; raises RejectedError where it is another's."""
    match = _LETTER_AND_TEXT.fullmatch(said)
    if match is None or _place_of_text(said, options) is not None:
        return None
    place = _place_of_text(match[2], options)
    if place is None:
        return None
    if LETTERS[place] != match[1].upper():
        raise RejectedError("label_contradicts_answer")
    return LETTERS[place]
