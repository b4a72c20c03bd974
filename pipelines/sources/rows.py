"""A table's file -> its rows, one after the other: JSONL, CSV or Parquet, from a folder or a store.

A row that cannot be read is a reason in its place, so that every row counts. Nothing of a table is evaluated.
"""

import csv
import io
import json
from collections import deque
from collections.abc import Iterator
from typing import Any, BinaryIO, Self

import pyarrow as pa
import pyarrow.parquet as pq

from infra import storage
from infra.errors import InputError, first_line

SUFFIXES = (".jsonl", ".csv", ".parquet")
MAX_ROW_BYTES = 16 << 20
MAX_ROW_LINES = 100  # of a CSV table; the cells of real ones have a few line breaks
_PARQUET_BATCH = 1024

Row = dict[str, Any]


def read(uri: str) -> Iterator[tuple[int, Row | str]]:
    """A row's number, from 1, and its fields by name; or, in their place, the reason why it cannot be read.

    Raises InputError when the file is no table of its kind at all.
    """
    reader = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}.get(uri[uri.rfind(".") :].lower())
    if reader is None:
        raise InputError(f"{uri} is no table that can be read. Known: {', '.join(SUFFIXES)}")
    with storage.open_binary(uri) as stream:
        yield from reader(uri, stream)


def _jsonl(uri: str, stream: BinaryIO) -> Iterator[tuple[int, Row | str]]:
    number = 0
    while raw := stream.readline(MAX_ROW_BYTES):
        number += 1
        whole = raw.endswith(b"\n") or len(raw) < MAX_ROW_BYTES
        while not whole and (rest := stream.readline(MAX_ROW_BYTES)):
            whole, raw = rest.endswith(b"\n"), b"?"
        if raw.strip():
            yield number, _object(raw) if raw != b"?" else "row_too_long"


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
        cells = csv.reader(lines)
        header = _header(uri, cells)
        number = 0
        while True:
            lines.row.clear()
            try:
                values = next(cells)
            except StopIteration:
                return
            except (csv.Error, _UnclosedError) as error:
                number += 1
                yield number, "row_too_long" if isinstance(error, csv.Error) else "quote_never_closed"
                lines.go_back()  # the row's first line alone is to blame: the others are rows of their own
                cells = csv.reader(lines)
                continue
            if values:
                number += 1
                yield number, _row(header, values)


class _UnclosedError(Exception):
    """A quote opens a cell, and the end of the table, or of any sensible row, comes before the one that closes it."""


class _Lines:
    """The lines of a CSV table, which remembers those of the row that is being read."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self.row: list[str] = []
        self._text = text
        self._again: deque[str] = deque()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        if len(self.row) >= MAX_ROW_LINES:
            raise _UnclosedError
        line = self._again.popleft() if self._again else self._text.readline()
        if not line:
            if self.row:
                raise _UnclosedError
            raise StopIteration
        self.row.append(line)
        return line

    def go_back(self) -> None:
        """Give all lines of the row but its first once more."""
        self._again.extendleft(reversed(self.row[1:]))


def _header(uri: str, cells: Iterator[list[str]]) -> list[str]:
    """The columns' names."""
    try:
        header = [name.strip() for name in next(cells, [])]
    except (csv.Error, _UnclosedError) as error:
        raise InputError(f"{uri} is no CSV table: its first line opens a quote and does not close it.") from error
    if len({name.casefold() for name in header}) < len(header) or not any(header):
        raise InputError(f"{uri} has no first line with the names of its columns, each once: {', '.join(header)[:200]}")
    return header


def _row(header: list[str], values: list[str]) -> Row | str:
    return dict(zip(header, values, strict=True)) if len(values) == len(header) else "wrong_cell_count"


def _parquet(uri: str, stream: BinaryIO) -> Iterator[tuple[int, Row | str]]:
    number = 0
    try:
        for batch in pq.ParquetFile(stream).iter_batches(batch_size=_PARQUET_BATCH):
            for row in _rows_of(batch):
                number += 1
                yield number, row
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{uri} is damaged, or no Parquet table, after row {number}: {first_line(error)}") from error


def _rows_of(batch: pa.RecordBatch) -> Iterator[Row | str]:
    for place in range(batch.num_rows):
        try:
            yield batch.slice(place, 1).to_pylist()[0]
        except (ValueError, OverflowError, pa.ArrowException):  # text that is no UTF-8, a date out of all calendars
            yield "row_unreadable"
