"""A table's file -> its rows, one after the other, by the reader for its suffix: JSON, separated text or Parquet, from
a folder or a store.

A row that cannot be read gives a reason in its place, so that every row counts. Nothing of a table is evaluated.
"""

from collections.abc import Generator

from infra.errors import InputError
from infra.redaction import redacted
from pipelines.questions.table_readers import csv_reader, json_reader, parquet_reader, text_file
from pipelines.questions.table_readers.json_reader import Row

_TEXT_READERS = {
    ".jsonl": json_reader.rows,
    ".json": json_reader.rows,
    ".csv": csv_reader.rows,
    ".tsv": csv_reader.rows,
}
_JSON = (".jsonl", ".json")
SUFFIXES = (".jsonl", ".csv", ".parquet", ".json", ".tsv")
SPREADSHEETS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers")
MAX_ROW_BYTES = 16 << 20  # of text, characters


def read(
    uri: str, known: frozenset[str] = frozenset(), notes: list[str] | None = None
) -> Generator[tuple[int, Row | str], None, None]:
    """Yield each row's number, from 1, and its fields by name, or instead of them the reason why it cannot be read.

    known: names that columns may have, in plain spelling, which help to tell how a text is written. notes: receives,
    before the first row, in words how the table differs from the plain way, such as another separator. Raises
    InputError when the file is no table of its kind at all.
    """
    form = text_file.form(uri)
    if form == ".parquet" and not text_file.is_packed(uri):
        yield from enumerate(parquet_reader.read(uri, MAX_ROW_BYTES), 1)
    elif form in _TEXT_READERS:
        yield from _TEXT_READERS[form](uri, known, MAX_ROW_BYTES, [] if notes is None else notes)
    elif form in SPREADSHEETS:
        raise InputError(
            f"{redacted(uri)} is a spreadsheet, which may hold 0.10 as 0.1 and 3-4 as a date. Save it as "
            '"CSV UTF-8", look whether every cell is as you wrote it, and name that file. '
            f"Known: {', '.join(SUFFIXES)}"
        )
    else:
        raise InputError(
            f"{redacted(uri)} is no table that can be read. Known: {', '.join(SUFFIXES)}; text also as .gz, or alone "
            "in a .zip"
        )


def has_header(uri: str) -> bool:
    """Whether a table names its columns once for all rows."""
    return text_file.form(uri) not in _JSON


def format_notes(uri: str, known: frozenset[str]) -> list[str]:
    """In words, how a table differs from the plain way of writing one, as far as its first rows show."""
    notes: list[str] = []
    if text_file.form(uri) in _TEXT_READERS:
        reading = read(uri, known, notes)
        next(reading, None)
        reading.close()
    return notes
