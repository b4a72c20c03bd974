"""A source -> drafts, in the order of its table: what a recipe says of a source, and which reader understands it."""

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
from pipelines.questions.candidates import Draft, Origin, RejectedError
from pipelines.questions.sources import columns, folder, matcha, pmc_vqa, table_readers, texts
from pipelines.questions.sources.gold import Forms
from pipelines.questions.sources.json_rows import Row
from pipelines.records import Split

ReaderName = Literal["folder", "pmc_vqa", "matcha"]
READERS: dict[str, Any] = {"folder": folder, "pmc_vqa": pmc_vqa, "matcha": matcha}
KNOWN = folder.KNOWN | pmc_vqa.KNOWN | matcha.KNOWN  # names of columns, in plain spelling
OWN_TABLES = tuple(
    f"questions{suffix}"
    for suffix in (
        *table_readers.SUFFIXES,
        *(f"{text}{packed}" for text in texts.FORMS for packed in texts.PACKED),
        ".zip",
    )
)
_SHOWN = 5  # tables of other names
_MOST_SHOWN = 100  # names of a table
_SPREADSHEETS = tuple(f"questions{suffix}" for suffix in table_readers.SPREADSHEETS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """A table of questions and where its images are.

    reader: which form the table has. table, images: below the questions' folder, or absolute; a table that is a folder
    stands for the one in it that is called `questions`, such as `questions.jsonl`. images: a folder or a zip; None
    looks beside the table. split: for all of its rows; None takes what the table says. name: what the source is
    called; None takes the reader's.
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
    """A source that was found: its name, reader and table, and the folder or zip that names its images, if given."""

    name: str
    reader: ReaderName
    table: str
    images: str | None
    split: Split | None

    @property
    def file(self) -> str:
        """The table's file name, which stands beside every number about it."""
        return posixpath.basename(self.table)


def find(config: SourceConfig, base: str) -> Source:
    """The source that a recipe names, below `base`. Raises InputError when its table or its images are not there."""
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
            f"({', '.join(table_readers.SUFFIXES[1:])}). Write one question a row: image, question, options, answer, "
            f"split."
            f"{_others(uri)}"
        )
    if len(found) > 1:
        raise ConfigError(f"{uri} has several tables, {' and '.join(found)}. Name the one that is meant.")
    return found[0]


def origin(source: Source, row: int) -> Origin:
    """Where a row of this source stands."""
    return Origin(source=source.name, file=source.file, row=row, split=source.split)


def _others(uri: str) -> str:
    """What to type where a folder has tables of other names."""
    names = [] if storage.is_remote(uri) else sorted(path.name for path in Path(uri).iterdir() if path.is_file())
    tables = [name for name in names if name.lower().endswith(table_readers.SUFFIXES)][:_SHOWN]
    if not tables:
        return ""
    sources = json.dumps([{"table": name} for name in tables])
    return f" It has {', '.join(tables)}: rename it, or say which is meant: --set 'questions.sources={sources}'"


def written(source: Source) -> list[str]:
    """In words, how a source's table is written where that is not the plain way."""
    return table_readers.written(source.table, READERS[source.reader].KNOWN)


def drafts(source: Source, limit: int | None = None) -> Iterator[Draft]:
    """Every row of a source as a draft or with the reason why it gives none; a record with several questions gives
    several. limit: how many of each split at most, so that a table that has one split first gives the others too."""
    taken: Counter[str] = Counter()
    for draft in _all_drafts(source):
        taken[draft.split] += 1
        if limit is None or taken[draft.split] <= limit:
            yield draft
        elif source.split is not None:
            return  # no other split comes


def _all_drafts(source: Source) -> Iterator[Draft]:
    reader = READERS[source.reader]
    drafts_of = partial(reader.drafts, forms=Forms(partial(_sayings, source))) if reader is folder else reader.drafts
    for number, row in _checked_rows(source):
        here = origin(source, number)
        if isinstance(row, str):
            yield here.rejected(row)
            continue
        try:
            yield from drafts_of(row, here)
        except RejectedError as error:
            yield here.rejected(str(error))


def _checked_rows(source: Source) -> Iterator[tuple[int, Row | str]]:
    """The rows of a table whose columns can be understood: else all of its rows would be rejected one by one, for
    reasons that say less. Objects of JSON have names of their own: what none of several has is missing."""
    known = READERS[source.reader].KNOWN
    has_header = table_readers.has_header(source.table)
    first: list[str] = []
    seen: set[str] = set()
    num_objects = 0
    for number, row in table_readers.read(source.table, known):
        if isinstance(row, dict):
            num_objects += 1
            if num_objects == 1:
                first = list(itertools.islice(row, _MOST_SHOWN))
                if has_header:
                    _check_columns(source, row)
            if not has_header:
                seen.update(plain for name in row if (plain := columns.plain(name)) in known)
        yield number, row
    if not has_header and (num_objects > 1 or (first and not seen)):
        _check_columns(source, [*first, *(seen - {columns.plain(name) for name in first})])


def _check_columns(source: Source, names: Iterable[str]) -> None:
    try:
        READERS[source.reader].check_columns(tuple(names), split_given=source.split is not None)
    except InputError as error:
        raise InputError(f"{source.table}: {error}") from error


def _sayings(source: Source) -> Iterator[tuple[str, Sequence[str]]]:
    """What each row of a user's own table says is right, and its options."""
    for _, row in table_readers.read(source.table, folder.KNOWN):
        if isinstance(row, dict) and (said := folder.saying(row)):
            yield said
