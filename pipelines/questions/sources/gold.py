"""The answer that a row names -> the right option's letter, where one reading is left.

A table names it by letter, by the option's text, or by its number, counted from 0 or from 1. Where a row could be read
in two ways, the other rows of its table decide, or it is rejected: `C` may be the third option or carbon; `2` may be
the second option, the third, or two.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

from pipelines.questions.candidates import RejectedError, normalised
from pipelines.records import LETTERS


class Form(StrEnum):
    """How a table writes answers; the value is the name under which the change is counted."""

    LETTER = "answer_by_letter"
    TEXT = "answer_by_text"
    FROM_0 = "answer_by_number_from_0"
    FROM_1 = "answer_by_number_from_1"


_NUMBER = re.compile(r"\d{1,3}(?:\.0+)?")
_LETTER = re.compile(r"[(\[*'\"]{0,3}(?:option[ _]?)?[(\[*'\"]{0,3}([A-Z])[)\].:*'\"]{0,4}", re.IGNORECASE | re.ASCII)
_LETTER_AND_TEXT = re.compile(r"(?:option )?[(\[]?([A-Z])[)\].:]{1,2} ?(\S.*)", re.IGNORECASE | re.ASCII)
Readings = dict[Form, str]
Answers = Iterable[tuple[str, Sequence[str]]]  # the answer of each row of a table, and its options


class Forms:
    """The forms in which every row of a table can be read. They are determined when the first row needs them.

    answers: gives those of all rows; called once at most.
    """

    def __init__(self, answers: Callable[[], Answers]) -> None:
        self._answers = answers
        self._of: dict[bool, frozenset[Form]] | None = None

    def of(self, number: bool) -> frozenset[Form]:
        """Of the rows whose answer is a number, or of the others."""
        if self._of is None:
            left = {True: frozenset(Form), False: frozenset(Form)}
            for answer, options in self._answers():
                if readings := _readings(answer, options):
                    left[_is_number(answer)] &= readings.keys()
            self._of = left
        return self._of[number]


def letter(answer: str, options: Sequence[str], forms: Forms | None) -> tuple[str, str]:
    """The right option's letter, and the name of how it was read where that is not the plain way.

    answer: on one line. forms: of the row's table; None accepts only what the row alone makes certain. Raises
    RejectedError where no reading is left, or several.
    """
    if combined := _letter_and_text(answer, options):
        return combined, "answer_by_letter_and_text"
    readings = _readings(answer, options)
    if not readings:
        raise RejectedError("answer_is_no_option")
    is_number = _is_number(answer)
    if len(set(readings.values())) > 1 or (is_number and Form.TEXT not in readings):
        common = forms.of(is_number) if forms else frozenset()
        readings = {form: found for form, found in readings.items() if form in common}
    if len(set(readings.values())) != 1:
        raise RejectedError("answer_number_unclear" if is_number else "answer_unclear")
    form, found = next(iter(readings.items()))
    if form is not Form.LETTER:
        return found, form
    return found, "" if len(answer) == 1 else "answer_letter_between_marks"


def _is_number(answer: str) -> bool:
    return bool(_NUMBER.fullmatch(answer))


def _readings(answer: str, options: Sequence[str]) -> Readings:
    """Each form in which a row can be read, and the letter that it gives."""
    found: Readings = {}
    match = _LETTER.fullmatch(answer)
    number = int(float(answer)) if _is_number(answer) else None
    places = {
        Form.LETTER: LETTERS.index(match[1].upper()) if match else None,
        Form.TEXT: _index_of_text(answer, options),
        Form.FROM_0: number,
        Form.FROM_1: None if number is None else number - 1,
    }
    for form, index in places.items():
        if index is not None and 0 <= index < len(options):
            found[form] = LETTERS[index]
    return found


def _index_of_text(answer: str, options: Sequence[str]) -> int | None:
    """The index of the only option with this text, ignoring case and punctuation; None where there is not one."""
    folded = answer.casefold()
    places = [place for place, option in enumerate(options) if option.casefold() == folded]
    if not places:
        about_as_long = [
            place
            for place, option in enumerate(options)
            if len(answer) <= 2 * len(option) + 2 and len(option) <= 2 * len(answer) + 2
        ]
        bare = normalised(answer) if about_as_long else ""
        places = [place for place in about_as_long if normalised(options[place]) == bare]
    return places[0] if len(places) == 1 else None


def _letter_and_text(answer: str, options: Sequence[str]) -> str | None:
    """The letter of `B) text`, if that is B's text; raises RejectedError where it is another option's."""
    match = _LETTER_AND_TEXT.fullmatch(answer)
    if match is None or _index_of_text(answer, options) is not None:
        return None
    place = _index_of_text(match[2], options)
    if place is None:
        return None
    if LETTERS[place] != match[1].upper():
        raise RejectedError("label_contradicts_answer")
    return LETTERS[place]
