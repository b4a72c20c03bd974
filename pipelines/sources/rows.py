"""A table's file -> its rows, one after the other: JSONL, CSV or Parquet, from a folder or a store.

A row that cannot be read is a reason in its place, so that every row counts. Nothing of a table is evaluated.
"""

import csv
import io
import json
from collections import deque
from collections.abc import Iterator
from typing import IO, Any, AnyStr, BinaryIO, Self

import pyarrow as pa
import pyarrow.parquet as pq

from infra import storage
from infra.errors import InputError, first_line
from infra.redaction import redacted

SUFFIXES = (".jsonl", ".csv", ".parquet")
MAX_ROW_BYTES = 16 << 20
MAX_ROW_LINES = 100  # of a CSV table; the cells of real ones have a few line breaks
_PARQUET_ROWS = 64  # at once
_PARQUET_BYTES = 256 << 20  # at once, even where each cell is as large as all of its column
_UNREADABLE = (ValueError, OverflowError, pa.ArrowException)  # no UTF-8, a date out of all calendars

Row = dict[str, Any]


def read(uri: str) -> Iterator[tuple[int, Row | str]]:
    """A row's number, from 1, and its fields by name; or, in their place, the reason why it cannot be read.

    Raises InputError when the file is no table of its kind at all.
    """
    reader = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}.get(uri[uri.rfind(".") :].lower())
    if reader is None:
        raise InputError(f"{redacted(uri)} is no table that can be read. Known: {', '.join(SUFFIXES)}")
    with storage.open_binary(uri) as stream:
        yield from reader(uri, stream)


def _jsonl(uri: str, stream: BinaryIO) -> Iterator[tuple[int, Row | str]]:
    number = 0
    while raw := _line(stream, b"\n"):
        number += 1
        if raw.strip():
            yield number, _object(raw) if len(raw) <= MAX_ROW_BYTES else "row_too_long"


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


def _csv(uri: str, stream: BinaryIO) -> Iterator[tuple[int, Row | str]]:
    csv.field_size_limit(MAX_ROW_BYTES)
    # Bytes that are no UTF-8 become half surrogates, which the draft of their row then refuses by name.
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
        return _names(uri, next(_cells(lines), []))
    except (csv.Error, _BadRowError) as error:
        raise InputError(f"{uri} is no CSV table: its first line ends the reading, {_reason(error)}.") from error


def _names(uri: str, names: list[str]) -> list[str]:
    """The names without blanks around them; raises InputError where two columns have the same, or none has one."""
    names = [name.strip() for name in names]
    if len({name.casefold() for name in names}) < len(names) or not any(names):
        raise InputError(f"{uri} does not name its columns, each once: {str(names)[:200]}")
    return names


def _parquet(uri: str, stream: BinaryIO) -> Iterator[tuple[int, Row | str]]:
    number = 0
    try:
        file = pq.ParquetFile(stream)
        _names(uri, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=_rows_at_once(file.metadata)):
            for row in _rows_of(batch):
                number += 1
                yield number, row
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{uri} is damaged, or no Parquet table, after row {number}: {first_line(error)}") from error


def _rows_at_once(metadata: pq.FileMetaData) -> int:
    """Few where cells may be large: a column's dictionary can repeat a giant one for a few bits a row."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    sizes = [group.column(number).total_uncompressed_size for group in groups for number in range(group.num_columns)]
    return max(1, min(_PARQUET_ROWS, _PARQUET_BYTES // max([1, *map(int, sizes)])))


def _rows_of(batch: pa.RecordBatch) -> Iterator[Row | str]:
    try:
        yield from batch.to_pylist()
    except _UNREADABLE:
        for place in range(batch.num_rows):
            yield _row_of(batch.slice(place, 1))


def _row_of(batch: pa.RecordBatch) -> Row | str:
    try:
        (row,) = batch.to_pylist()
    except _UNREADABLE:
        return "row_unreadable"
    return dict(row)
