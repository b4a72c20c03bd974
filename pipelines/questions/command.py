"""The commands of `pipelines.questions`: the stage of a recipe, one source by itself, and a look before either.

`RECIPE --run-dir DIR` runs the stage. `SOURCE --table FILE --images FOLDER_OR_ZIP --out URI [--json]` reads one source
without a recipe. `check PATH [--recipe RECIPE]` says what the flow of a recipe would make of a table, and writes
nothing.
"""

import argparse
import dataclasses
import functools
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

import pyarrow.parquet as pq

from infra import command_line, manifest, recipes, runner, storage
from infra.errors import ConfigError
from infra.manifest import Tally
from infra.progress import Progress
from infra.stage import Task
from pipelines import flow
from pipelines.questions import stage as questions
from pipelines.questions.config import QuestionsConfig
from pipelines.questions.sources import columns, shortage, source, table_readers
from pipelines.questions.sources.reasons import MEANING
from pipelines.questions.sources.source import READERS, SourceConfig
from pipelines.records import SetAside, Split

STAGE = "questions"
_ROWS_SHOWN = 3
_SHOWN_CHARACTERS = 160


def main(arguments: Sequence[str]) -> None:
    """Run the command that the first word names."""
    first = arguments[0] if arguments else ""
    if first == "check":
        _check(arguments[1:])
    elif first in READERS:
        _read(arguments)
    else:
        parser = command_line.stage_parser(STAGE)
        parser.epilog = (
            "In the place of a recipe: `check PATH` says what would become of a table, and writes nothing; "
            f"{', '.join(sorted(READERS))} read one source in that form. Each has a --help of its own."
        )
        command_line.main(STAGE, "pipelines", arguments, parser)


def _read(arguments: Sequence[str]) -> None:
    options = _read_parser().parse_args(arguments)
    with command_line.reporting_errors(STAGE), _standard_output(options.json) as answer:
        command_line.interrupt_on_sigterm()
        config = _config(options)
        tally = _seal(config, options.out)
        if options.json:
            print(json.dumps(account(tally)), file=answer, flush=True)


def _read_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.questions", description="Read one source.")
    parser.add_argument("source", choices=sorted(READERS), help="the form that the table has")
    parser.add_argument("--table", required=True, help="the table, a path or URI")
    parser.add_argument("--images", help="the images' folder or zip; default: beside the table")
    parser.add_argument("--out", required=True, help="where the sealed questions go, a folder or URI")
    parser.add_argument(
        "--split", choices=[str(split) for split in Split], help="of all rows; default: as the table says"
    )
    parser.add_argument("--limit", type=int, help="read at most this many rows of each split")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="for example curation.seed=1")
    parser.add_argument("--json", action="store_true", help="print the account as JSON, all else on standard error")
    return parser


def _config(options: argparse.Namespace) -> QuestionsConfig:
    try:
        one = SourceConfig(
            reader=options.source,
            table=_whole(options.table),
            images=_whole(options.images) if options.images else None,
            split=Split(options.split) if options.split else None,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    limits = [] if options.limit is None else [f"limit={options.limit}"]
    changed: QuestionsConfig = recipes.changed(QuestionsConfig(sources=(one,)), STAGE, [*options.set, *limits])
    return changed


def _whole(uri: str) -> str:
    return uri if storage.is_whole(uri) else str(Path(uri).absolute())


def _seal(config: QuestionsConfig, out: str) -> dict[str, Any]:
    """Seal the questions at a path or URI; returns their tally."""
    progress = Progress(STAGE)
    seal = functools.partial(runner.carry_out, inputs={}, run=questions.read, afresh=True)
    if not storage.is_remote(out):
        place = Path(out).absolute()
        _is_sealed(out)
        return seal(config, place, progress, at=place)[STAGE].tally
    sealed_before = _is_sealed(out)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, STAGE)
        artifact = seal(config, Path("runs", STAGE), progress, at=place)[STAGE]
        if sealed_before:  # not file by file over it, which would leave a mixture of both for a while
            storage.remove(out)
        storage.upload(place, out)
        return artifact.tally


def _is_sealed(out: str) -> bool:
    """Whether questions and nothing else lie there; raises ConfigError when anything else is there."""
    kind = storage.kind(out)
    if kind is None or (kind == "folder" and not storage.is_remote(out) and not any(Path(out).iterdir())):
        return False
    names = {entry.name for entry in storage.listing(out)} if kind == "folder" else {""}
    if manifest.MANIFEST in names:
        with storage.open_binary(storage.join(out, manifest.MANIFEST)) as stream, suppress(ValueError):
            stated = manifest.read(stream)
            if stated.stage == STAGE and not names - {manifest.MANIFEST, *stated.files}:
                return True
    raise ConfigError(f"--out {out} is there and holds no sealed questions, or more than them. Name another folder.")


def account(tally: dict[str, Any]) -> dict[str, Any]:
    """What became of every row: read = questions + rejected + quarantined."""
    return {
        "read": tally["rows"]["read"],
        "questions": tally["rows"]["questions"],
        "rejected": tally["reasons"],
        "quarantined": tally["quarantined"],
    }


@contextmanager
def _standard_output(kept_clean: bool) -> Iterator[TextIO]:
    """Standard output; where it is kept clean, all that anybody prints goes to standard error meanwhile, also what
    libraries and child processes print."""
    if not kept_clean:
        yield sys.stdout
        return
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w") as answer, redirect_stdout(sys.stderr):
        os.dup2(2, 1)
        try:
            yield answer
        finally:
            os.dup2(answer.fileno(), 1)


def _check(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.questions check",
        description="Say what would become of a table's rows; exits with 1 when a flow would have nothing to do.",
    )
    parser.add_argument("path", help="the folder that questions.folder would name; or a table; or a URI of either")
    parser.add_argument("--images", help="the images' folder or zip; default: as the recipe says, or beside the table")
    parser.add_argument("--recipe", default="pocket", help="whose sources, curation and limits count; default: pocket")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="as of the flow")
    parser.add_argument("--limit", type=int, help="read at most this many rows of each table")
    options = parser.parse_args(arguments)
    with command_line.reporting_errors(STAGE):
        command_line.interrupt_on_sigterm()
        config = _checked_config(options)
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder)
            progress = Progress(STAGE)
            task = Task(config=config, run_dir=draft, inputs={}, draft=draft, progress=progress, metric=None)
            tally = questions.read(task)
            for line in _findings(config, tally, draft):
                print(line)
        lacking = shortage.told(tally, config.curation, config.limit)
        if tally.rows["questions"] and config.sources[0].reader != "folder" and config.folder is None:
            lacking = []  # one table of a set that has a table for each split
        for line in lacking:
            print(line)
        sys.exit(1 if lacking else 0)


def _checked_config(options: argparse.Namespace) -> QuestionsConfig:
    """The settings with which the flow of a recipe would read a folder; or a table by itself, whose form shows."""
    limits = [] if options.limit is None else [f"questions.limit={options.limit}"]
    config: QuestionsConfig = flow.resolve(options.recipe, [*options.set, *limits])["questions"]
    path = _whole(options.path)
    if is_folder := storage.kind(path) == "folder":
        sources = config.sources
    else:
        table = source.find(SourceConfig(table=path), "/").table
        sources = (SourceConfig(reader=_reader_of(table), table=table),)
    if options.images:
        sources = tuple(dataclasses.replace(one, images=_whole(options.images)) for one in sources)
    return dataclasses.replace(config, folder=path if is_folder else None, sources=sources)


def _reader_of(table: str) -> Any:
    """Which form a table has, by the names of its first row."""
    for _, row in table_readers.read(table, source.KNOWN):
        if isinstance(row, dict):
            names = {columns.plain(name) for name in row}
            return "matcha" if "vqa" in names else "pmc_vqa" if "figure_path" in names else "folder"
    return "folder"


def _findings(config: QuestionsConfig, tally: Tally, folder: Path) -> Iterator[str]:
    """What a person is told of the tables that were read into `folder`."""
    aside = pq.read_table(folder / f"{SetAside.stem}.parquet").to_pylist()
    for one, account_of in zip(config.sources, tally.facts["sources"], strict=True):
        found = source.find(one, config.folder or "/")
        yield f"{found.table} ({found.reader}): {account_of['read']} rows"
        yield from (f"  {done}" for done in account_of["written"])
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
    """What is rejected of one table, and why, with the first rows of each reason."""
    shown = _first_rows(found, aside)
    for fate in ("rejected", "quarantined"):
        for reason, count in account_of[fate].items():
            yield f"  {fate} {count}: {reason}, {MEANING.get(reason, reason)}"
            yield from (f"    row {number}: {shown[number]}" for number in _rows_of(aside, reason))
    if not aside:
        yield "  nothing is rejected"


def _rows_of(aside: list[dict[str, Any]], reason: str) -> list[int]:
    return [row["row"] for row in aside if row["reason"] == reason][:_ROWS_SHOWN]


def _first_rows(found: source.Source, aside: list[dict[str, Any]]) -> dict[int, str]:
    """The rows that stand for each reason, as they are in the table, shortened and harmless to a terminal."""
    wanted = {number for reason in {row["reason"] for row in aside} for number in _rows_of(aside, reason)}
    shown = {}
    for number, row in table_readers.read(found.table, READERS[found.reader].KNOWN) if wanted else ():
        if number in wanted:
            shown[number] = ascii(row)[:_SHOWN_CHARACTERS]
        if len(shown) == len(wanted):
            break
    return shown
