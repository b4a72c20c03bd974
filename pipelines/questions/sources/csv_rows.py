"""Separated text -> rows: with commas, semicolons, tabs or bars, of which the table's own first line says which.

Nothing is sniffed from what cells hold. The line with the columns' names settles the separator, or a line `sep=;`
before it; where that leaves two readings, the table is refused.
"""

import csv
import re
from collections import deque
from collections.abc import Iterator
from typing import Any, Self, TextIO

from infra.errors import InputError
from pipelines.questions.sources import columns, parquet, texts
from pipelines.questions.sources.json_rows import line

MAX_ROW_LINES = 100  # the cells of real tables have a few line breaks
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SAID = re.compile(r"\"?sep=([^\w\s\"#]|\t)\"?[\r\n]*", re.IGNORECASE)
_CERTAIN = 2  # names of columns that are known
_MOST_REMARKS = 100  # lines before the columns' names

Row = dict[str, Any]


def rows(uri: str, known: frozenset[str], max_characters: int, done: list[str]) -> Iterator[tuple[int, Row | str]]:
    """A row's number, from 1, and its cells by their columns' names, or the reason why it cannot be read. Writes into
    `done` what the table has of its own.

    known: names of columns, which tell the line that names them from a remark. max_characters: of a row. Raises
    InputError where the first line does not name the columns, or could be cut in two ways.
    """
    csv.field_size_limit(max_characters)
    with texts.opened(uri, newline="") as (text, opening):
        done += opening
        lines = _Lines(text, max_characters)
        separator, header = _header(uri, lines, known, done)
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
    """The cells of each row. Strict: else a quote that is never closed would end in the next row's first one, and two
    rows would become one that looks whole."""
    return csv.reader(lines, delimiter=separator, strict=True)


class _BadRowError(Exception):
    """A row that cannot be read; the message is the reason."""


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, _BadRowError) else "quote_never_closed"


class _Lines:
    """The lines of a table, which remembers those of the row that is being read."""

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
        """Give all lines of the row but the first so many once more. A row that cannot be read is alone to blame for
        it: the lines behind its first are rows of their own."""
        self._again.extendleft(reversed(self.row[kept:]))
        self.row.clear()


def _header(uri: str, lines: _Lines, known: frozenset[str], done: list[str]) -> tuple[str, list[str]]:
    """The separator and the columns' names."""
    said, remarks = None, 0
    try:
        for first in lines:
            if match := _SAID.fullmatch(first):
                said = match[1]
                done.append(f"separated as its first line says: {said!r}")
            elif first.lstrip().startswith("#") and remarks < _MOST_REMARKS and not _names_columns(lines, known):
                remarks += 1
            elif first.strip():
                lines.go_back(0)
                break
            lines.row.clear()
        separator, names = (said, _cut(lines, said)) if said else _separated(uri, lines, known, done)
        next(_cells(lines, separator), None)
    except (csv.Error, _BadRowError) as error:
        raise InputError(f"{uri} is no CSV table: its first line ends the reading, {_reason(error)}.") from error
    if remarks:
        done.append(f"{remarks} line{'s' * (remarks > 1)} with # before the columns' names passed over")
    return separator, parquet.check_names(uri, names or [])


def _names_columns(lines: _Lines, known: frozenset[str]) -> bool:
    """Whether the line that was just read names columns, though it begins with #."""
    lines.go_back(0)
    found = any(_num_known(_cut(lines, separator) or [], known) >= _CERTAIN for separator in _SEPARATORS)
    next(lines)
    return found


def _cut(lines: _Lines, separator: str) -> list[str] | None:
    """The next row's cells, None where they cannot be told; it is read again afterwards."""
    lines.row.clear()
    try:
        return next(_cells(lines, separator), None)
    except (csv.Error, _BadRowError):
        return None
    finally:
        lines.go_back(0)


def _num_known(names: list[str], known: frozenset[str]) -> int:
    return sum(columns.plain(name) in known for name in names)


def _separated(uri: str, lines: _Lines, known: frozenset[str], done: list[str]) -> tuple[str, list[str] | None]:
    """The separator that alone makes columns' names of the first line: most known ones, or any at all."""
    found = {separator: names for separator in _SEPARATORS if (names := _cut(lines, separator)) and len(names) > 1}
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
        done.append(f"separated by {_SEPARATORS[separator]}")
    return separator, found.get(separator) or _cut(lines, separator)
