"""Separated text -> rows. The separator is a comma, semicolon, tab or bar.

The line with the columns' names decides which, or a line such as `sep=;` before it; contents of cells are not used to
guess. Where two separators remain possible, the table is refused.
"""

import csv
import re
from collections import deque
from collections.abc import Iterator
from typing import Any, Self, TextIO

from infra.errors import InputError
from pipelines.questions.table_readers import column_names, parquet_reader, text_file
from pipelines.questions.table_readers.json_reader import line

MAX_ROW_LINES = 100  # the cells of real tables have a few line breaks
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SEPARATOR_LINE = re.compile(r"\"?sep=([^\w\s\"#]|\t)\"?[\r\n]*", re.IGNORECASE)
_CERTAIN = 2  # known column names, with which a line certainly names columns
_MAX_COMMENTS = 100  # lines before the columns' names

Row = dict[str, Any]


def rows(uri: str, known: frozenset[str], max_characters: int, notes: list[str]) -> Iterator[tuple[int, Row | str]]:
    """Yield each row's number, from 1, and its cells by column name, or the reason why it cannot be read.

    known: column names in plain spelling, which distinguish the line that names columns from a comment. max_characters:
    of a row. notes: receives in words how the table differs from the plain way. Raises InputError where the first line
    does not name the columns, or could be split in two ways.
    """
    csv.field_size_limit(max_characters)
    with text_file.opened(uri, newline="") as (text, opening):
        notes += opening
        lines = _Lines(text, max_characters)
        separator, header = _header(uri, lines, known, notes)
        cells, number = _cells(lines, separator), 0
        while True:
            lines.row.clear()
            try:
                values = next(cells)
            except StopIteration:
                return
            except (csv.Error, _BadRowError) as error:
                number += 1
                yield number, _reason(error)
                lines.go_back(1)
                cells = _cells(lines, separator)
                continue
            if values:
                number += 1
                yield number, _row(header, values)


def _row(header: list[str], values: list[str]) -> Row | str:
    if not any(values):
        return "row_is_empty"
    return dict(zip(header, values, strict=True)) if len(values) == len(header) else "wrong_cell_count"


def _cells(lines: Iterator[str], separator: str) -> Iterator[list[str]]:
    """The cells of each row. Strict, because otherwise a quote that is never closed would end at the next row's first
    quote, and two rows would become one that looks complete."""
    return csv.reader(lines, delimiter=separator, strict=True)


class _BadRowError(Exception):
    """A row that cannot be read; the message is the reason."""


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, _BadRowError) else "quote_never_closed"


class _Lines:
    """Iterates over the lines of a table, and remembers those of the row that is being read."""

    def __init__(self, text: TextIO, max_characters: int) -> None:
        self.row: list[str] = []
        self._text = text
        self._max_characters = max_characters
        self._again: deque[str] = deque()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        found = self._again.popleft() if self._again else line(self._text, self._max_characters, "\n", "\r")
        if not found:
            if self.row:
                raise _BadRowError("quote_never_closed")
            raise StopIteration
        self.row.append(found)
        if len(found) > self._max_characters and len(self.row) == 1:
            raise _BadRowError("row_too_long")
        if len(self.row) > MAX_ROW_LINES or sum(map(len, self.row)) > self._max_characters:
            raise _BadRowError("quote_never_closed")
        return found

    def go_back(self, kept: int) -> None:
        """Give the lines of the row again, except for the first `kept` ones. After a row that cannot be read, the lines
        behind its first one are read as rows of their own."""
        self._again.extendleft(reversed(self.row[kept:]))
        self.row.clear()


def _header(uri: str, lines: _Lines, known: frozenset[str], notes: list[str]) -> tuple[str, list[str]]:
    """The separator and the columns' names. Raises InputError where they cannot be told."""
    stated, num_comments = None, 0
    try:
        for first in lines:
            if match := _SEPARATOR_LINE.fullmatch(first):
                stated = match[1]
                notes.append(f"separated as its first line says: {stated!r}")
            elif first.lstrip().startswith("#") and num_comments < _MAX_COMMENTS and not _names_columns(lines, known):
                num_comments += 1
            elif first.strip():
                lines.go_back(0)
                break
            lines.row.clear()
        separator, names = (stated, _split(lines, stated)) if stated else _separated(uri, lines, known, notes)
        next(_cells(lines, separator), None)
    except (csv.Error, _BadRowError) as error:
        raise InputError(f"{uri} is no CSV table: its first line ends the reading, {_reason(error)}.") from error
    if num_comments:
        notes.append(f"{num_comments} line{'s' * (num_comments > 1)} with # before the columns' names passed over")
    return separator, parquet_reader.check_names(uri, names or [])


def _names_columns(lines: _Lines, known: frozenset[str]) -> bool:
    """Whether the line that was just read names columns although it begins with #."""
    lines.go_back(0)
    found = any(_num_known(_split(lines, separator) or [], known) >= _CERTAIN for separator in _SEPARATORS)
    next(lines)
    return found


def _split(lines: _Lines, separator: str) -> list[str] | None:
    """The next row's cells, None where it cannot be split; the row is read again afterwards."""
    lines.row.clear()
    try:
        return next(_cells(lines, separator), None)
    except (csv.Error, _BadRowError):
        return None
    finally:
        lines.go_back(0)


def _num_known(names: list[str], known: frozenset[str]) -> int:
    return sum(column_names.plain(name) in known for name in names)


def _separated(uri: str, lines: _Lines, known: frozenset[str], notes: list[str]) -> tuple[str, list[str] | None]:
    """The only separator by which the first line has most known column names, or several columns at all, and these
    names. Raises InputError where there are several such separators."""
    found = {separator: names for separator in _SEPARATORS if (names := _split(lines, separator)) and len(names) > 1}
    most = max((_num_known(names, known) for names in found.values()), default=0)
    if most >= _CERTAIN:
        found = {separator: names for separator, names in found.items() if _num_known(names, known) == most}
    if len(found) > 1:
        ways = " or ".join(_SEPARATORS[separator] for separator in found)
        raise InputError(
            f"{uri}: its first line can be cut at {ways}. Put a line before it that says which: sep={next(iter(found))}"
        )
    separator = next(iter(found), ",")
    if separator != ",":
        notes.append(f"separated by {_SEPARATORS[separator]}")
    return separator, found.get(separator) or _split(lines, separator)
