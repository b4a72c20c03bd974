"""A table's file -> its rows, one after the other: JSON, separated text or Parquet, from a folder or a store.

A row that cannot be read is a reason in its place, so that every row counts. Nothing of a table is evaluated.
"""

from collections.abc import Generator

from infra.errors import InputError
from infra.redaction import redacted
from pipelines.questions.sources import csv_rows, json_rows, parquet, texts
from pipelines.questions.sources.json_rows import Row

TEXTS = {".jsonl": json_rows.rows, ".json": json_rows.rows, ".csv": csv_rows.rows, ".tsv": csv_rows.rows}
_OF_OBJECTS = (".jsonl", ".json")
SUFFIXES = (".jsonl", ".csv", ".parquet", ".json", ".tsv")
SPREADSHEETS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers")
MAX_ROW_BYTES = 16 << 20  # of text, characters

_NOTHING: frozenset[str] = frozenset()


def read(
    uri: str, known: frozenset[str] = _NOTHING, done: list[str] | None = None
) -> Generator[tuple[int, Row | str], None, None]:
    """A row's number, from 1, and its fields by name; or, in their place, the reason why it cannot be read.

    known: names that columns may have, in plain spelling, which help to tell how a text is written. done: takes, before
    the first row, in words what the table has of its own, such as another separator. Raises InputError when the file is
    no table of its kind at all.
    """
    form = texts.form(uri)
    if form == ".parquet" and not texts.is_packed(uri):
        yield from enumerate(parquet.read(uri, MAX_ROW_BYTES), 1)
    elif form in TEXTS:
        yield from TEXTS[form](uri, known, MAX_ROW_BYTES, [] if done is None else done)
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
    return texts.form(uri) not in _OF_OBJECTS


def written(uri: str, known: frozenset[str]) -> list[str]:
    """In words, how a table is written where that is not the plain way; of what its first rows tell."""
    done: list[str] = []
    if texts.form(uri) in TEXTS:
        reading = read(uri, known, done)
        next(reading, None)
        reading.close()
    return done
