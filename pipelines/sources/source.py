"""A source -> drafts, in the order of its table: what a recipe says of a source, and which reader understands it."""

import dataclasses
import posixpath
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

from infra import storage
from infra.errors import ConfigError, InputError
from pipelines.records import Split
from pipelines.sources import folder, matcha, pmc_vqa, rows
from pipelines.sources.drafts import Draft, Origin, RejectedError

ReaderName = Literal["folder", "pmc_vqa", "matcha"]
READERS: dict[str, Any] = {"folder": folder, "pmc_vqa": pmc_vqa, "matcha": matcha}
OWN_TABLES = tuple(f"questions{suffix}" for suffix in rows.SUFFIXES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """A table of questions and where its images are.

    reader: which form the table has. table, images: below the questions' folder, or absolute; a table that is a folder
    stands for the `questions.jsonl`, `.csv` or `.parquet` in it. images: a folder or a zip; None looks beside the
    table. split: for all of its rows; None takes what the table says. name: what the source is called; None takes the
    reader's.
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
    if not found:
        raise InputError(
            f"{storage.join(uri, OWN_TABLES[0])} is not there, nor a .csv or .parquet of that name. "
            "Write one question a row: image, question, options, answer, split."
        )
    if len(found) > 1:
        raise ConfigError(f"{uri} has several tables, {' and '.join(found)}. Name the one that is meant.")
    return found[0]


def origin(source: Source, row: int) -> Origin:
    """Where a row of this source stands."""
    return Origin(source=source.name, file=source.file, row=row, split=source.split)


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
    for number, row in rows.read(source.table):
        here = origin(source, number)
        if isinstance(row, str):
            yield here.rejected(row)
            continue
        try:
            yield from reader.drafts(row, here)
        except RejectedError as error:
            yield here.rejected(str(error))
