"""The commands of `pipelines.questions`: the stage of a recipe, one source by itself, and the check of a table.

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

from infra import command_line, manifest, recipes, runner, storage
from infra.errors import ConfigError
from infra.progress import Progress
from pipelines.questions import check
from pipelines.questions import stage as questions
from pipelines.questions.config import QuestionsConfig
from pipelines.questions.curation import CurationConfig
from pipelines.questions.decontamination import Level
from pipelines.questions.sources.source import READERS, SourceConfig
from pipelines.records import Split

STAGE = QuestionsConfig.stage


def main(arguments: Sequence[str]) -> None:
    """Run the command that the first word names."""
    first = arguments[0] if arguments else ""
    if first == "check":
        check.main(arguments[1:])
    elif first in READERS:
        _read_one_source(arguments)
    else:
        parser = command_line.stage_parser(STAGE)
        parser.epilog = (
            "Instead of a recipe: `check PATH` says what would become of a table, and writes nothing; "
            f"{', '.join(sorted(READERS))} read one source in that form. Each has a --help of its own."
        )
        command_line.main(STAGE, "pipelines", arguments, parser)


def _read_one_source(arguments: Sequence[str]) -> None:
    options = _read_parser().parse_args(arguments)
    with command_line.reporting_errors(STAGE), _standard_output(only_answer=options.json) as answer:
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
            table=check.absolute(options.table),
            images=check.absolute(options.images) if options.images else None,
            split=Split(options.split) if options.split else None,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    limits = [] if options.limit is None else [f"limit={options.limit}"]
    config = QuestionsConfig(sources=(one,))
    if one.reader == "pmc_vqa":  # figures of one article show the same patients and share their caption
        config = dataclasses.replace(config, curation=CurationConfig(decontaminate_by=tuple(Level)))
    changed: QuestionsConfig = recipes.changed(config, STAGE, [*options.set, *limits])
    return changed


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
        if sealed_before:  # else its files would be replaced one by one, and for a while be a mixture of both
            storage.remove(out)
        storage.upload(place, out)
        return artifact.tally


def _is_sealed(out: str) -> bool:
    """Whether sealed questions are there; raises ConfigError when anything else is."""
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
    """What became of every row: read = questions + rejected + quarantined. tally: a manifest's."""
    return {
        "read": tally["rows"]["read"],
        "questions": tally["rows"]["questions"],
        "rejected": tally["reasons"],
        "quarantined": tally["quarantined"],
    }


@contextmanager
def _standard_output(*, only_answer: bool) -> Iterator[TextIO]:
    """Standard output. only_answer: meanwhile everything that is printed elsewhere, also by libraries and child
    processes, goes to standard error."""
    if not only_answer:
        yield sys.stdout
        return
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w") as answer, redirect_stdout(sys.stderr):
        os.dup2(2, 1)
        try:
            yield answer
        finally:
            os.dup2(answer.fileno(), 1)
