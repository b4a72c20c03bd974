"""The options in a row -> their texts in letter order, and the names of what was not written in the plain way.

The plain way is a list, in CSV as JSON, or columns `option_A`, `option_B`, ... Also read are numbers, as the table
writes them; an object with a letter for each option; and a list as Python prints it, which tables saved by pandas have.
"""

import decimal
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from pipelines.questions.candidates import MIN_OPTIONS, RejectedError, line
from pipelines.questions.table_readers import column_names
from pipelines.questions.table_readers.json_reader import Number
from pipelines.records import LETTERS

COLUMN = re.compile(r"option_([a-z])")  # in plain spelling
_LETTERED = re.compile(r"(?:\(([A-Z])\)|([A-Z])[.):])\s*(\S.*)", re.DOTALL)
_WITH_LETTERS = "options_with_their_letters"
_NUMBERS, _BY_LETTER, _OF_PYTHON = "options_that_are_numbers", "options_by_letter", "options_as_a_python_list"
_QUOTED = (rf"{quote}((?:[^{quote}\\]|\\['\"\\nrt])*+){quote}" for quote in "'\"")
_ELEMENT = re.compile(rf"{'|'.join(_QUOTED)}|(-?\d++(?:\.\d++)?)")
_PYTHON_LIST = re.compile(rf"\s*\[\s*(?:{_ELEMENT.pattern})(?:\s*,\s*(?:{_ELEMENT.pattern}))*+\s*\]\s*")
_ESCAPED = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def read(row: Mapping[str, Any], value: Any) -> tuple[list[str], list[str]]:
    """The options of a row, and how they were read. value: its cell `options`; empty where they have columns of their
    own.

    Raises RejectedError with the reason.
    """
    if value in (None, "", []):
        return _of_columns(row)
    read_as: list[str] = []
    if isinstance(value, str):
        value, read_as = parsed(value, "options")
    if isinstance(value, dict):
        by_letter = {str(name).strip().upper(): text for name, text in value.items() if text is not None}
        if len(by_letter) < sum(text is not None for text in value.values()):
            raise RejectedError("options_repeated")
        return _in_order(by_letter, [*read_as, _BY_LETTER])
    if not isinstance(value, list):
        raise RejectedError("options_are_no_list")
    return _texts(value, "options_are_no_list", read_as)


def parsed(text: str, name: str) -> tuple[Any, list[str]]:
    """The list that a cell holds as text, and how it was read. name: of the column. Raises RejectedError where the cell
    holds no list."""
    try:
        return json.loads(text, parse_float=Number), []
    except (ValueError, RecursionError) as error:
        if not _PYTHON_LIST.fullmatch(text):
            raise RejectedError(f"{name}_are_no_list") from error
    return [_unescaped(element) for element in _ELEMENT.finditer(text)], [_OF_PYTHON.replace("options", name)]


def _unescaped(element: re.Match[str]) -> str:
    text = next(part for part in element.groups() if part is not None)
    return _ESCAPED.sub(lambda escaped: _ESCAPES.get(escaped[1], escaped[1]), text)


def _of_columns(row: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    found = [
        (match[1].upper(), value)
        for name, value in row.items()
        if (match := COLUMN.fullmatch(column_names.plain(name)))
    ]
    by_letter = dict(found)
    if len(by_letter) < len(found):
        raise RejectedError("options_repeated")
    return _in_order({letter: "" if value is None else value for letter, value in by_letter.items()}, [])


def _in_order(by_letter: dict[str, Any], read_as: list[str]) -> tuple[list[str], list[str]]:
    values = [by_letter[letter] for letter in sorted(by_letter)]
    while values and isinstance(values[-1], str) and not line(values[-1]):
        values.pop()  # a question with fewer options than the table has columns
    if not values:
        raise RejectedError("options_missing")
    if sorted(by_letter)[: len(values)] != list(LETTERS[: len(values)]):
        raise RejectedError("option_letters_have_gaps")
    return _texts(values, "option_is_no_text", read_as)


def _texts(values: list[Any], reason: str, read_as: list[str]) -> tuple[list[str], list[str]]:
    texts = [value if isinstance(value, str) else number(value) for value in values]
    if None in texts:
        raise RejectedError(reason)
    are_numbers = any(not isinstance(value, str) for value in values)
    found, with_letters = _without_letters([line(text) for text in texts if text is not None])
    return found, [*read_as, *[_NUMBERS] * are_numbers, *[_WITH_LETTERS] * with_letters]


def _without_letters(texts: list[str]) -> tuple[list[str], bool]:
    """The texts without their letters, and whether they had any. Letters count only where all texts begin with theirs
    in order. Otherwise `B. cast` would be shown as `A. B. cast` when options are shuffled."""
    found = [_LETTERED.fullmatch(text) for text in texts]
    own = [(each[1] or each[2]) if each else "" for each in found]
    if len(own) < MIN_OPTIONS or own != list(LETTERS[: len(own)]):
        return texts, False
    return [each[3] for each in found if each], True


def number(value: Any) -> str | None:
    """A number as the table writes it, or its only short form; None for anything else."""
    if isinstance(value, Number):
        return value.written
    if isinstance(value, int | decimal.Decimal) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value) and float(f"{value:.15g}") == value:
        return repr(value)  # 0.1 of 32 bits has no such form, and its value is not what was meant
    return None
