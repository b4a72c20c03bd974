"""A table's file -> its rows, one after the other: JSONL, CSV or Parquet, from a folder or a store.

A row that cannot be read is a reason in its place, so that every row counts. Nothing of a table is evaluated.
"""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from infra import storage
from infra.errors import InputError, first_line

SUFFIXES = (".jsonl", ".csv", ".parquet")
MAX_ROW_BYTES = 16 << 20
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
        cells = csv.reader(text)
        header = _header(uri, cells)
        number = 0
        while (values := _next_cells(cells)) is not None:
            if values:
                number += 1
                yield number, _row(header, values)


def _header(uri: str, cells: Iterator[list[str]]) -> list[str]:
    """The columns' names."""
    try:
        header = [name.strip() for name in next(cells, [])]
    except csv.Error as error:
        raise InputError(f"{uri} is no CSV table: {error}") from error
    if len(set(header)) < len(header) or not any(header):
        raise InputError(f"{uri} has no first line with the names of its columns, each once: {', '.join(header)[:200]}")
    return header


def _next_cells(cells: Iterator[list[str]]) -> list[str] | str | None:
    """The next row's cells, the reason why it cannot be read, or None at the end."""
    try:
        return next(cells, None)
    except csv.Error:
        return "row_too_long"


def _row(header: list[str], values: list[str] | str) -> Row | str:
    if isinstance(values, str):
        return values
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
