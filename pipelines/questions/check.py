"""A table -> what the flow of a recipe would make of it, without writing anything: the command `check PATH`."""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from infra import command_line, recipes, storage
from infra.manifest import Tally
from infra.progress import Progress
from infra.stage import Task
from pipelines.questions import empty_splits
from pipelines.questions import stage as questions
from pipelines.questions.config import QuestionsConfig
from pipelines.questions.set_aside_reasons import MEANING
from pipelines.questions.sources import source
from pipelines.questions.sources.source import READERS, SourceConfig
from pipelines.questions.table_readers import by_suffix, column_names
from pipelines.records import SetAside, Split

STAGE = QuestionsConfig.stage
_ROWS_SHOWN = 3
_SHOWN_CHARACTERS = 160


def main(arguments: Sequence[str]) -> None:
    """Print what would become of the table that the arguments name; exits with 1 when a flow would have no questions
    to train on or to examine."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.questions check",
        description="Say what would become of a table's rows; exits with 1 when a flow would have nothing to do.",
    )
    parser.add_argument("path", help="the folder that questions.folder would name; or a table; or a URI of either")
    parser.add_argument("--images", help="the images' folder or zip; default: as the recipe says, or beside the table")
    parser.add_argument("--recipe", default="pocket", help="whose sources, curation and limits count; default: pocket")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="of the recipe, for example questions.max_pixels=250000",
    )
    parser.add_argument("--limit", type=int, help="read at most this many rows of each table")
    options = parser.parse_args(arguments)
    with command_line.reporting_errors(STAGE):
        command_line.interrupt_on_sigterm()
        config = _config(options)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            task = Task(config=config, run_dir=folder, inputs={}, draft=folder, progress=Progress(STAGE), metric=None)
            tally = questions.read(task)
            for line in _findings(config, tally, folder):
                print(line)
        lacking = empty_splits.explained(tally, config.curation, config.limit)
        if tally.rows["questions"] and config.sources[0].reader != "folder" and config.folder is None:
            lacking = []  # such a data set has a table for each split, and this is one of them
        for line in lacking:
            print(line)
        sys.exit(1 if lacking else 0)


def _config(options: argparse.Namespace) -> QuestionsConfig:
    """The recipe's settings for a folder; or for a table by itself, whose reader is found by its columns."""
    limits = [] if options.limit is None else [f"questions.limit={options.limit}"]
    config: QuestionsConfig = recipes.resolve(options.recipe, ["pipelines"], [*options.set, *limits])[STAGE]
    path = absolute(options.path)
    if is_folder := storage.kind(path) == "folder":
        sources = config.sources
    else:
        table = source.find(SourceConfig(table=path), "/").table
        sources = (SourceConfig(reader=_reader_of(table), table=table),)
    if options.images:
        sources = tuple(dataclasses.replace(one, images=absolute(options.images)) for one in sources)
    return dataclasses.replace(config, folder=path if is_folder else None, sources=sources)


def absolute(uri: str) -> str:
    """A URI as it is, or a path that does not depend on the current folder."""
    return uri if storage.is_whole(uri) else str(Path(uri).absolute())


def _reader_of(table: str) -> Any:
    """The reader that understands a table, by the column names of its first row."""
    for _, row in by_suffix.read(table, source.KNOWN):
        if isinstance(row, dict):
            names = {column_names.plain(name) for name in row}
            return "matcha" if "vqa" in names else "pmc_vqa" if "figure_path" in names else "folder"
    return "folder"


def _findings(config: QuestionsConfig, tally: Tally, folder: Path) -> Iterator[str]:
    """The lines that are printed about the tables that were read into `folder`."""
    aside = pq.read_table(folder / f"{SetAside.stem}.parquet").to_pylist()
    for one, account_of in zip(config.sources, tally.facts["sources"], strict=True):
        found = source.find(one, config.folder or "/")
        yield f"{found.table} ({found.reader}): {account_of['read']} rows"
        yield from (f"  {note}" for note in account_of["written"])
        its_own = [row for row in aside if (row["source"], row["file"]) == (found.name, found.file)]
        yield from _set_aside(found, account_of, its_own)
    by_split = ", ".join(f"{split} {tally.rows.get(split, 0)}" for split in Split if tally.rows.get(split))
    yield f"  {tally.rows['questions']} questions{f' ({by_split})' if by_split else ''}"
    curation = tally.facts["curation"]
    if letters := curation["letters"]["before"]:
        yield f"  right letters for training: {', '.join(f'{letter} {n}' for letter, n in letters.items())}"
    for what, counts in (("images", curation["image_changes"]), ("questions with", curation["read_as"])):
        yield from (f"  {count} {what} {change.replace('_', ' ')}" for change, count in counts.items())


def _set_aside(found: source.Source, account_of: dict[str, Any], aside: list[dict[str, Any]]) -> Iterator[str]:
    """The rows of one table that gave no question: each reason with its count and first rows. aside: all such rows."""
    shown = _first_rows(found, aside)
    for status in ("rejected", "quarantined"):
        for reason, count in account_of[status].items():
            yield f"  {status} {count}: {reason}, {MEANING.get(reason, reason)}"
            yield from (f"    row {number}: {shown[number]}" for number in _rows_of(aside, reason))
    if not aside:
        yield "  nothing is rejected"


def _rows_of(aside: list[dict[str, Any]], reason: str) -> list[int]:
    return [row["row"] for row in aside if row["reason"] == reason][:_ROWS_SHOWN]


def _first_rows(found: source.Source, aside: list[dict[str, Any]]) -> dict[int, str]:
    """The first rows of each reason as the table has them, shortened, and escaped for a terminal, by their number."""
    wanted = {number for reason in {row["reason"] for row in aside} for number in _rows_of(aside, reason)}
    shown = {}
    for number, row in by_suffix.read(found.table, READERS[found.reader].KNOWN) if wanted else ():
        if number in wanted:
            shown[number] = ascii(row)[:_SHOWN_CHARACTERS]
        if len(shown) == len(wanted):
            break
    return shown
