"""A table's file -> its rows, one after the other: JSONL, CSV or Parquet, from a folder or a store.

A row that cannot be read is a reason in its place, so that every row counts. Nothing of a table is evaluated.
"""

import csv
import io
import json
from collections import deque
from collections.abc import Iterator
from typing import IO, Any, AnyStr, Self

from infra import storage
from infra.errors import InputError
from infra.redaction import redacted
from pipelines.sources import parquet

SUFFIXES = (".jsonl", ".csv", ".parquet")
MAX_ROW_BYTES = 16 << 20
MAX_ROW_LINES = 100  # of a CSV table; the cells of real ones have a few line breaks
MAX_VALUES = 1 << 20  # of a JSON line

Row = dict[str, Any]


def read(uri: str) -> Iterator[tuple[int, Row | str]]:
    """A row's number, from 1, and its fields by name; or, in their place, the reason why it cannot be read.

    Raises InputError when the file is no table of its kind at all.
    """
    reader = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}.get(uri[uri.rfind(".") :].lower())
    if reader is None:
        raise InputError(f"{redacted(uri)} is no table that can be read. Known: {', '.join(SUFFIXES)}")
    yield from reader(uri)


def _jsonl(uri: str) -> Iterator[tuple[int, Row | str]]:
    number = 0
    with storage.open_binary(uri) as stream:
        while raw := _line(stream, b"\n"):
            number += 1
            if raw.strip():
                yield number, "row_too_long" if len(raw) > MAX_ROW_BYTES or _has_many_values(raw) else _object(raw)


def _has_many_values(raw: bytes) -> bool:
    """Whether a line would take far more memory as Python's values than as text: `[]` takes 64 bytes."""
    return len(raw) > MAX_VALUES and sum(map(raw.count, (b",", b"[", b"{"))) > MAX_VALUES


def _line(stream: IO[AnyStr], *ends: AnyStr) -> AnyStr:
    """The next line, empty at the end. Of one that is too long only a part, longer than MAX_ROW_BYTES still."""
    line = part = stream.readline(MAX_ROW_BYTES + 1)
    while len(part) > MAX_ROW_BYTES and not part.endswith(ends):
        part = stream.readline(MAX_ROW_BYTES + 1)
    return line


def _object(raw: bytes) -> Row | str:
    try:
        row = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return "text_is_not_utf8"
    except (ValueError, RecursionError):
        return "line_is_no_json"
    return row if isinstance(row, dict) else "line_is_no_json"


def _csv(uri: str) -> Iterator[tuple[int, Row | str]]:
    csv.field_size_limit(MAX_ROW_BYTES)
    # Bytes that are no UTF-8 become half surrogates, which the draft of their row then refuses by name.
    stream = storage.open_binary(uri)
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        lines = _Lines(text)
        header = _header(uri, lines)
        cells, number = _cells(lines), 0
        while True:
            lines.row.clear()
            try:
                values = next(cells)
            except StopIteration:
                return
            except (csv.Error, _BadRowError) as error:
                number += 1
                yield number, _reason(error)
                lines.go_back()
                cells = _cells(lines)
                continue
            if values:
                number += 1
                same = len(values) == len(header)
                yield number, dict(zip(header, values, strict=True)) if same else "wrong_cell_count"


def _cells(lines: Iterator[str]) -> Iterator[list[str]]:
    """The cells of each row. Strict: else a quote that is never closed would end in the next row's first one, and two
    rows would become one that looks whole."""
    return csv.reader(lines, strict=True)


class _BadRowError(Exception):
    """A row that cannot be read; the message is the reason."""


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, _BadRowError) else "quote_never_closed"


class _Lines:
    """The lines of a CSV table, which remembers those of the row that is being read."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self.row: list[str] = []
        self._text = text
        self._again: deque[str] = deque()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else _line(self._text, "\n", "\r")
        if not line:
            if self.row:
                raise _BadRowError("quote_never_closed")
            raise StopIteration
        self.row.append(line)
        if len(line) > MAX_ROW_BYTES and len(self.row) == 1:
            raise _BadRowError("row_too_long")
        if len(self.row) > MAX_ROW_LINES or sum(map(len, self.row)) > MAX_ROW_BYTES:
            raise _BadRowError("quote_never_closed")
        return line

    def go_back(self) -> None:
        """Give all lines of the row but its first once more: it alone is to blame, they are rows of their own."""
        self._again.extendleft(reversed(self.row[1:]))


def _header(uri: str, lines: Iterator[str]) -> list[str]:
    """The columns' names."""
    try:
        return parquet.check_names(uri, next(_cells(lines), []))
    except (csv.Error, _BadRowError) as error:
        raise InputError(f"{uri} is no CSV table: its first line ends the reading, {_reason(error)}.") from error


def _parquet(uri: str) -> Iterator[tuple[int, Row | str]]:
    return enumerate(parquet.read(uri, MAX_ROW_BYTES), 1)
