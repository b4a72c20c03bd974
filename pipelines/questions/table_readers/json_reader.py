"""JSON -> rows: one object a line, or a list of objects, which may be the only list in an object.

A list is read one element at a time. Brackets alone tell where an element ends, so one that is no JSON, or too long, is
rejected without the others.
"""

import json
import re
from collections.abc import Iterator
from typing import IO, Any, AnyStr, NamedTuple, TextIO

from infra.errors import InputError
from pipelines.questions.table_readers import column_names, text_file

MAX_VALUES = 1 << 20  # of a row
_CHUNK = 1 << 20  # characters that are read at once
_MAX_REST = 1 << 20  # characters of an object behind its list of rows
_LIST = re.compile(r"\ufeff?\s*\[(?=\s*[{\]])")
_TEXT = r'"(?:[^"\\]|\\.)*+"'
_NO_LIST = rf'(?:{_TEXT}\s*|[^"\[\]{{}},]++)'
_LIST_IN_OBJECT = re.compile(rf"\ufeff?\s*\{{(?:\s*{_TEXT}\s*:\s*{_NO_LIST},)*+\s*({_TEXT})\s*:\s*\[(?=\s*\{{)")
_LINE_AFTER_LINE = re.compile(r"[^\n]*\}\s*\n\s*\{")
_MULTILINE_OBJECT = re.compile(r"\ufeff?\s*\{\s*\n")
_STRUCTURE = re.compile(r'["\[\]{},]')
_IN_TEXT = re.compile(r'["\\]')

Row = dict[str, Any]


class Number(float):
    """A number with a fraction that keeps how the table writes it: as an option, 0.10 is not 0.1."""

    written: str

    def __new__(cls, written: str) -> "Number":
        number = super().__new__(cls, written)
        number.written = written
        return number


def rows(uri: str, known: frozenset[str], max_characters: int, notes: list[str]) -> Iterator[tuple[int, Row | str]]:
    """Yield each row's number, from 1, and its fields, or the reason why it cannot be read.

    known: column names in plain spelling, which distinguish a row from an object that holds a list of rows.
    max_characters: of a row. notes: receives in words what was done besides reading lines. Raises InputError where a
    list does not end, or is not the only one.
    """
    found = _list_in(uri, known, max_characters)
    with text_file.opened(uri, newline="\n") as (text, opening):
        notes += opening
        if found is None:
            yield from _of_lines(text, max_characters)
            return
        notes.append(f"read as the JSON list {found.name}".rstrip())
        text.read(found.start)
        for number, element in enumerate(_elements(uri, text, found, max_characters), 1):
            yield number, _row(element, max_characters)


def line(stream: IO[AnyStr], max_characters: int, *ends: AnyStr) -> AnyStr:
    """The next line, empty at the end. Of a line that is too long only a part, still longer than max_characters."""
    found = part = stream.readline(max_characters + 1)
    while len(part) > max_characters and not part.endswith(ends):
        part = stream.readline(max_characters + 1)
    return found


def _of_lines(text: TextIO, max_characters: int) -> Iterator[tuple[int, Row | str]]:
    number = 0
    while raw := line(text, max_characters, "\n"):
        number += 1
        if raw.strip():
            yield number, _row(raw, max_characters)


def _row(raw: str, max_characters: int) -> Row | str:
    if len(raw) > max_characters or _has_many_values(raw):
        return "row_too_long"
    if text_file.UNREADABLE in raw:
        return "text_is_not_utf8"
    try:
        row = json.loads(raw.removeprefix("\ufeff"), parse_float=Number)
    except (ValueError, RecursionError):
        return "line_is_no_json"
    return row if isinstance(row, dict) else "line_is_no_json"


def _has_many_values(raw: str) -> bool:
    """Whether a row would take far more memory as Python objects than as text: `[]` takes 64 bytes."""
    return len(raw) > MAX_VALUES and sum(map(raw.count, ",[{")) > MAX_VALUES


class _Place(NamedTuple):
    """Where a list begins, behind its bracket; and its name, empty where the file holds nothing else."""

    start: int
    name: str


def _list_in(uri: str, known: frozenset[str], max_characters: int) -> _Place | None:
    """The list of rows in a file, or None where each line is a row."""
    with text_file.opened(uri, newline="\n") as (text, _):
        head = text.read(_CHUNK)
        while "\n" not in head.rstrip() and len(head) <= max_characters and (more := text.read(len(head))):
            head += more
    if found := _LIST.match(head):
        return _Place(found.end(), "")
    found = _LIST_IN_OBJECT.match(head)
    name = str(json.loads(found[1], strict=False)) if found else ""
    first = _row(head.partition("\n")[0], max_characters)
    is_row = isinstance(first, dict) and any(column_names.plain(each) in known for each in first)
    if found and known and not is_row and column_names.plain(name) not in known and not _LINE_AFTER_LINE.match(head):
        return _Place(found.end(), name)
    if _MULTILINE_OBJECT.match(head):
        raise InputError(
            f"{uri} spreads its first object over several lines, and it holds no list of rows. Write an object a line, "
            'or all of them as a list: [{"image": ...}, ...]'
        )
    return None


def _elements(uri: str, text: TextIO, place: _Place, max_characters: int) -> Iterator[str]:
    """The text of each element of a list; of one that is too long only a part, still longer than max_characters."""
    parts, depth, within_text, escapes = [""], 0, False, False
    while chunk := text.read(_CHUNK):
        start, at = 0, int(escapes)
        escapes = False
        while found := (_IN_TEXT if within_text else _STRUCTURE).search(chunk, at):
            at, mark = found.end(), found[0]
            if mark == "\\":
                escapes = at == len(chunk)
                at += 1
            elif mark == '"':
                within_text = not within_text
            elif mark in "[{":
                depth += 1
            elif depth:
                depth -= mark in "]}"
            else:
                element = "".join([*parts, chunk[start : at - 1]])
                if mark == "," or element.strip():
                    yield element
                if mark != ",":
                    _check_rest(uri, place, chunk[at:] + text.read(_MAX_REST))
                    return
                parts, start = [""], at
        if sum(map(len, parts)) <= max_characters:
            parts.append(chunk[start:])
    raise InputError(f"{uri} ends before its list of rows does: it is not whole.")


def _check_rest(uri: str, place: _Place, rest: str) -> None:
    """Raise InputError where anything behind the list may be rows."""
    try:
        beside = json.loads(f'{{"": []{rest}') if place.name else rest.strip()
    except (ValueError, RecursionError):
        beside = rest
    if isinstance(beside, str) and beside:
        raise InputError(f"{uri} goes on behind its list of rows: {rest.strip()[:40]!a}. Write one list, and no more.")
    lists = {key: value for key, value in beside.items() if isinstance(value, list)} if beside else {}
    others = [key for key, value in lists.items() if any(isinstance(element, dict) for element in value)]
    if others:
        raise InputError(
            f"{uri} has several lists, {', '.join([place.name, *others])}. Write each as a table of its own, or all "
            "rows as one list."
        )
