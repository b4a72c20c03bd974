"""The command of the stage, for any model at any endpoint too, with a bar to reach and a result file for a CI system.

`RECIPE --endpoint URL --model NAME` examines that model on the recipe's test questions: nothing has to be served by us.
Exit codes with `--fail-under`: 0 where the primary entry reaches the bar on every set, 1 where it does not, 2 where
there is no result.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from infra import command_line, manifest, recipes
from infra.errors import ArtifactError, ConfigError
from pipelines.examination import junit
from pipelines.examination.config import ExaminationConfig
from pipelines.records import Arm, Prediction, tables

STAGE = ExaminationConfig.stage
_BELOW, _NO_RESULT = 1, 2


def main(arguments: Sequence[str]) -> None:
    """Run the stage; then write the result file, and hold the result against the bar."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.endpoint is None) != (options.model is None):
        parser.error("--endpoint and --model go together: where a model is served, and under which name")
    if options.dry_run and (options.junit is not None or options.fail_under is not None):
        parser.error("--junit and --fail-under need a result, and --dry-run has none")
    try:
        with command_line.reporting_errors(STAGE):
            named = for_model(options.recipe, options.set, options.endpoint, options.model) if options.model else []
        words = [word for override in named for word in ("--set", override)]
        command_line.main(STAGE, "pipelines", [*arguments, *words], parser)
        if options.dry_run:
            return
        with command_line.reporting_errors(STAGE):
            lines = _judged(options, [*options.set, *named])
    except SystemExit as end:
        if options.fail_under is not None and end.code == 1:  # an error, which must not look like a low result
            sys.exit(_NO_RESULT)
        raise
    for line in lines:
        print(f"{STAGE}: {line}", file=sys.stderr, flush=True)
    if lines:
        sys.exit(_BELOW)


def for_model(recipe: str, overrides: Sequence[str], endpoint: str, model: str) -> list[str]:
    """The overrides by which a recipe examines another model: in the entries of its plan that concern models to which
    we taught nothing. Raises ConfigError where it has none."""
    config: ExaminationConfig = recipes.resolve(recipe, ["pipelines"], overrides, only=STAGE)[STAGE]
    plan = [str(entry) for entry in config.entries() if entry.arm is Arm.ZERO_SHOT]
    if not plan:
        raise ConfigError(
            f"examination.plan has no entry for {Arm.ZERO_SHOT}, as which another model is asked: name some, "
            f"--set 'examination.plan=[\"{Arm.ZERO_SHOT}/real\"]'"
        )
    primary = [] if str(config.primary_entry()) in plan else ["examination.primary=null"]
    said = {"plan": plan, "endpoint": endpoint, "model": model}
    return [*(f"examination.{name}={json.dumps(value)}" for name, value in said.items()), *primary]


def _parser() -> argparse.ArgumentParser:
    parser = command_line.stage_parser(STAGE)
    parser.add_argument("--endpoint", metavar="URL", help="an OpenAI-compatible endpoint with another model, with /v1")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help=f"the model's name there; it is asked as {Arm.ZERO_SHOT}. PRECEPTOR_API_KEY is the endpoint's key",
    )
    parser.add_argument(
        "--fail-under",
        type=_share,
        metavar="ACCURACY",
        help="exit with 1 where examination.primary is less accurate, on any set; with 2 where there is no result",
    )
    parser.add_argument(
        "--junit", type=Path, metavar="FILE", help="write accuracies as JUnit XML, by entry and stratum"
    )
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no accuracy from 0 to 1")
    return value


def _judged(options: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    """Write the result file, if one is named; what is below the bar, if there is one, a line each."""
    if options.junit is None and options.fail_under is None:
        return []
    config: ExaminationConfig = recipes.resolve(options.recipe, ["pipelines"], overrides, only=STAGE)[STAGE]
    artifact = manifest.find(command_line.run_directory(options) / config.output)
    if artifact is None:
        raise ArtifactError(f"{config.output} is not sealed, so there is no result.")
    scores = junit.scores(tables.stream(artifact.path, Prediction))
    # Of a question that is asked in rotation, the answer that counts is the one to its options as they are.
    primary_name = str(replace(config.primary_entry(), circular=False))
    if options.junit is not None:
        junit.write(options.junit, scores, primary_name, options.fail_under)
    if options.fail_under is None:
        return []
    if primary_name not in {score.entry for score in scores}:
        raise ArtifactError(f"{config.output} has no accuracy of {config.primary_entry()}: name another primary entry.")
    return [score.below(options.fail_under) for score in scores if score.misses(primary_name, options.fail_under)]
