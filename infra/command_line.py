"""The command line of a stage, and the parts that it shares with the flow's; how a command ends on errors and signals.

`python -m PACKAGE.MODULE RECIPE --run-dir DIR [--set path.to.field=value] [--dry-run]`.
"""

import argparse
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from infra import credentials, recipes, run_lock, runner
from infra.errors import PreceptorError, in_one_line, prerequisite
from infra.progress import Progress
from infra.redaction import redacted


def main(
    stage: str,
    package: str,
    arguments: Sequence[str] | None = None,
    parser: argparse.ArgumentParser | None = None,
) -> None:
    """The command line of a stage's module; exits non-zero with one clear message when the user must mend something.

    parser: the module's `stage_parser`, if it has added options of its own.
    """
    parser = parser or stage_parser(stage)
    with reporting_errors(stage):
        options = parsed(parser, arguments)
        interrupt_on_sigterm()
        credentials.load()
        configs = recipes.resolve(options.recipe, [package], options.set, only=stage)
        run_dir, config = run_directory(options), configs[stage]
        runner.check_prerequisites(config)
        if options.dry_run:
            from infra import forecast, forecast_table

            price, shape = options.gpu_hour_price, configs.get("cluster")
            facts = forecast.forecast(options.recipe, run_dir, {stage: config}, shape, price)
            forecast_table.show(facts, as_json=options.json)
            return
        progress = Progress(stage)
        is_up_to_date = not config.service and runner.current_outputs(config, run_dir) is not None
        with nullcontext() if is_up_to_date else run_lock.held(run_dir, f"the stage {stage}", progress.say):
            runner.carry_out(config, run_dir, progress)


def stage_parser(stage: str) -> argparse.ArgumentParser:
    """The parser of a stage's command; the stage's module is the one that Python was started with."""
    module = sys.modules["__main__"]
    arrow = " ".join((module.__doc__ or "").partition("\n\n")[0].split()).removesuffix(" [edge]")
    name = module.__spec__.name.removesuffix(".__main__") if module.__spec__ else Path(sys.argv[0]).stem
    return argument_parser(f"python -m {name}", f"{arrow} This is the stage `{stage}` of a recipe, by itself.")


def argument_parser(program: str, description: str, *, dry_run: bool = True) -> argparse.ArgumentParser:
    """A parser with the options that every stage and the flow share. dry_run: whether `--dry-run` is one of them."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("recipe", help="a recipe's name, or path/to/file.py:function")
    parser.add_argument("--run-dir", help="folder of this run; default runs/RECIPE, or runs/FILE-FUNCTION")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="change a field of the recipe; as often as you like",
    )
    if dry_run:
        parser.add_argument("--dry-run", action="store_true", help="print what would run and what it costs, do nothing")
        parser.add_argument("--json", action="store_true", help="a dry run's answer as JSON, with the resolved config")
        parser.add_argument("--gpu-hour-price", type=float, metavar="PRICE", help="what one costs, for a dry run")
    return parser


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line's options; exits with the usage for options of a dry run without `--dry-run`."""
    options = parser.parse_args(arguments)
    if not options.dry_run and (options.json or options.gpu_hour_price is not None):
        parser.error("--json and --gpu-hour-price say how a dry run is printed: add --dry-run")
    return options


def run_directory(options: argparse.Namespace) -> Path:
    """The run's folder: absolute, since jobs run elsewhere, and without `..`, so that one folder has one name."""
    named = options.run_dir or f"runs/{recipes.run_name(options.recipe)}"
    if "://" in named:
        raise PreceptorError(f"--run-dir {named}: only folders of a local or shared file system hold a run so far")
    path = Path(named).absolute()
    if path.exists() and not path.is_dir():
        raise PreceptorError(f"--run-dir {named}: that is no folder. Name one that is, or that is not there yet")
    up = [number for number, part in enumerate(path.parts, 1) if part == ".."]
    return Path(*path.parts[: up[-1]]).resolve().joinpath(*path.parts[up[-1] :]) if up else path


class reporting_errors:  # reads as a statement: with reporting_errors("teach"):
    """Prints an error and exits 1: a PreceptorError as its message alone, any other with its traceback."""

    def __init__(self, stage: str) -> None:
        self._stage = stage

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, SystemExit):
            return
        if isinstance(error, KeyboardInterrupt):
            print(f"{self._stage}: interrupted; what was sealed is kept", file=sys.stderr, flush=True)
            sys.exit(130)
        if cause := prerequisite(error):
            print(f"{self._stage}: error: {cause}", file=sys.stderr, flush=True)
            sys.exit(1)
        whole = "".join(traceback.format_exception(error))
        print(redacted(f"{whole}{self._stage}: error: {in_one_line(error)}"), file=sys.stderr, flush=True)
        sys.exit(1)


def interrupt_on_sigterm() -> None:
    """Let SIGTERM, or the end of the terminal, end this process as Ctrl-C does: drafts are removed, jobs and children
    are stopped."""

    def interrupt(signal_number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
        signal.signal(signal.SIGHUP, interrupt)
