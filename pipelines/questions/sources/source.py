"""A source -> candidates, in the order of its table, by the reader that its recipe names."""

import dataclasses
import itertools
import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from infra import storage
from infra.errors import ConfigError, InputError
from pipelines.questions.candidates import Candidate, Origin, RejectedError
from pipelines.questions.sources import folder, matcha, pmc_vqa
from pipelines.questions.sources.gold import Forms
from pipelines.questions.table_readers import by_suffix, column_names, text_file
from pipelines.questions.table_readers.json_reader import Row
from pipelines.records import Split

ReaderName = Literal["folder", "pmc_vqa", "matcha"]
READERS: dict[str, Any] = {"folder": folder, "pmc_vqa": pmc_vqa, "matcha": matcha}
KNOWN = folder.KNOWN | pmc_vqa.KNOWN | matcha.KNOWN  # column names in plain spelling
OWN_TABLES = tuple(
    f"questions{suffix}"
    for suffix in (
        *by_suffix.SUFFIXES,
        *(f"{text}{packed}" for text in text_file.FORMS for packed in text_file.PACKED),
        ".zip",
    )
)
_SHOWN = 5  # tables of other names
_MAX_NAMES = 100  # column names of a table in a message
_SPREADSHEETS = tuple(f"questions{suffix}" for suffix in by_suffix.SPREADSHEETS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """A table of questions and where its images are.

    reader: the form of the table. table, images: below the questions' folder, or absolute; a table that is a folder
    means the one in it that is named `questions`, such as `questions.jsonl`. images: a folder or a zip; None searches
    beside the table. split: of all rows; None takes the table's. name: of the source; None takes the reader's.
    """

    reader: ReaderName = "folder"
    table: str = "."
    images: str | None = None
    split: Split | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if self.reader == "matcha" and self.split not in {None, Split.TEST}:
            raise ValueError("matcha examines models and never teaches one: its split is test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A source that was found.

    table: its path or URI. images: path or URI of their folder or zip; None searches beside the table. split: of all
    rows; None takes the table's.
    """

    name: str
    reader: ReaderName
    table: str
    images: str | None
    split: Split | None

    @property
    def file(self) -> str:
        """The table's file name, which is reported with every number about it."""
        return posixpath.basename(self.table)


def find(config: SourceConfig, base: str) -> Source:
    """The source that a recipe names, below the folder or URI `base`.

    Raises InputError when its table or its images are not there, ConfigError when several tables could be meant.
    """
    table = storage.join(base, config.table) if config.table != "." else base
    if storage.kind(table) == "folder":
        table = _own_table(table)
    elif not storage.exists(table):
        raise InputError(f"{table} is not there.")
    images = None if config.images is None else storage.join(base, config.images)
    if images is not None and not storage.exists(images):
        raise InputError(f"{images} is not there. Name the images' folder or zip.")
    name = config.name or READERS[config.reader].NAME
    return Source(name=name, reader=config.reader, table=table, images=images, split=config.split)


def _own_table(uri: str) -> str:
    found = [storage.join(uri, name) for name in OWN_TABLES if storage.exists(storage.join(uri, name))]
    found = found or [storage.join(uri, name) for name in _SPREADSHEETS if storage.exists(storage.join(uri, name))]
    if not found:
        raise InputError(
            f"{storage.join(uri, OWN_TABLES[0])} is not there, nor one with another ending "
            f"({', '.join(by_suffix.SUFFIXES[1:])}). Write one question a row: image, question, options, answer, "
            f"split."
            f"{_others(uri)}"
        )
    if len(found) > 1:
        raise ConfigError(f"{uri} has several tables, {' and '.join(found)}. Name the one that is meant.")
    return found[0]


def _others(uri: str) -> str:
    """What to type where a folder has tables with other names; empty where it has none."""
    names = [] if storage.is_remote(uri) else sorted(path.name for path in Path(uri).iterdir() if path.is_file())
    tables = [name for name in names if name.lower().endswith(by_suffix.SUFFIXES)][:_SHOWN]
    if not tables:
        return ""
    sources = json.dumps([{"table": name} for name in tables])
    return f" It has {', '.join(tables)}: rename it, or say which is meant: --set 'questions.sources={sources}'"


def format_notes(source: Source) -> list[str]:
    """In words, how a source's table differs from the plain way of writing one."""
    return by_suffix.format_notes(source.table, READERS[source.reader].KNOWN)


def candidates(source: Source, limit: int | None = None) -> Iterator[Candidate]:
    """Every row of a source as a candidate, or several for a record that has several questions.

    limit: of each split at most, so that a table whose first rows are all of one split gives others too; None for all.
    Raises InputError when the table cannot be read at all.
    """
    taken: Counter[str] = Counter()
    for candidate in _all_candidates(source):
        taken[candidate.split] += 1
        if limit is None or taken[candidate.split] <= limit:
            yield candidate
        elif source.split is not None:
            return  # all rows have this split


def _all_candidates(source: Source) -> Iterator[Candidate]:
    read = READERS[source.reader].candidates
    if source.reader == "folder":
        read = partial(read, forms=Forms(partial(_answers, source)))
    for number, row in _checked_rows(source):
        here = Origin(source=source.name, file=source.file, row=number, split=source.split)
        if isinstance(row, str):
            yield here.rejected(row)
            continue
        try:
            yield from read(row, here)
        except RejectedError as error:
            yield here.rejected(str(error))


def _checked_rows(source: Source) -> Iterator[tuple[int, Row | str]]:
    """The rows of a table. Raises InputError where its columns cannot make questions, since rejecting every row would
    explain less. Each JSON object has names of its own, so there a column is missing when none of several has it."""
    known = READERS[source.reader].KNOWN
    has_header = by_suffix.has_header(source.table)
    first: list[str] = []
    seen: set[str] = set()
    num_objects = 0
    for number, row in by_suffix.read(source.table, known):
        if isinstance(row, dict):
            num_objects += 1
            if num_objects == 1:
                first = list(itertools.islice(row, _MAX_NAMES))
                if has_header:
                    _check_columns(source, row)
            if not has_header:
                seen.update(plain for name in row if (plain := column_names.plain(name)) in known)
        yield number, row
    if not has_header and (num_objects > 1 or (first and not seen)):
        _check_columns(source, [*first, *(seen - {column_names.plain(name) for name in first})])


def _check_columns(source: Source, names: Iterable[str]) -> None:
    try:
        READERS[source.reader].check_columns(tuple(names), split_given=source.split is not None)
    except InputError as error:
        raise InputError(f"{source.table}: {error}") from error


def _answers(source: Source) -> Iterator[tuple[str, Sequence[str]]]:
    """The answer and the options of each row of a user's own table."""
    for _, row in by_suffix.read(source.table, folder.KNOWN):
        if isinstance(row, dict) and (found := folder.answer_and_options(row)):
            yield found
