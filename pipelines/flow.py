"""The whole flow on one page: which stages, in which order, each as a Ray job of its own.

`python -m pipelines.flow RECIPE [--run-dir DIR] [--set path.to.field=value] [--arms ARM ...] [--seeds N]
[--limit N] [--dry-run [--json] [--gpu-hour-price PRICE]]`.
A stage whose sealed output is what it would make now is not run again; a failed stage ends the flow with that stage's
error.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from infra import command_line, credentials, forecast, forecast_table, journal, recipes, run_lock, runner
from infra.errors import ConfigError
from infra.progress import Progress, Screen
from infra.resources import Workers
from infra.stage import StageConfig
from pipelines import preflight
from pipelines.preflight import PACKAGES
from pipelines.records import TAUGHT, Arm, Condition
from pipelines.records.entries import Entry

STAGES = (
    "draw",  # files as a user would bring them (pocket scale only)
    "questions",  # source -> questions
    "teach",  # question -> rationale
    "verify",  # rationale -> verdict
    "compose",  # verified rationale -> training examples, for each arm
    "fit",  # training examples -> adapter, for each arm
    "deploy",  # adapters -> served models behind one endpoint
    "examination",  # served model -> predictions
    "report",  # predictions -> report
)


def run(recipe: str, run_dir: Path, overrides: Sequence[str]) -> None:
    """Run every stage that is not up to date, in order. Raises StageError with the first failed stage's own error."""
    configs = resolve(recipe, overrides)
    _check(configs)
    needed = _needed(configs)
    screen = Screen()
    screen.show(f"flow: {recipe} in {run_dir}")
    with ExitStack() as running:
        recorder = running.enter_context(journal.recorder(run_dir, run_dir / journal.FOLDER, Progress("flow")))
        submit = None
        for name in STAGES:
            if not _is_pending(name, configs, run_dir):
                is_idle = needed[name] is None or needed[name].service
                screen.show(f"flow: {name} is {'not needed' if is_idle else 'up to date'}")
                continue
            if submit is None:
                hold = running.enter_context(run_lock.held(run_dir, f"the flow {recipe}", screen.show))
                credentials.remove_leftovers(run_dir)
                pending = [each for each in STAGES if _is_pending(each, configs, run_dir)]
                asked = {each: configs[each].resources() for each in pending}
                submit = running.enter_context(_job_runner(run_dir, screen, hold, asked))
            recorder.start()  # again for each stage: the one before may have ended with a store that was away
            started = time.monotonic()
            submit(name, _command(configs[name], recipe, run_dir, overrides))
            screen.show(f"flow: {name} took {time.monotonic() - started:.0f} s")
    screen.show(f"flow: the report is {run_dir / 'report' / 'index.html'}")


def _check(configs: dict[str, StageConfig]) -> None:
    """Find now what would otherwise be found after an engine has worked for hours. Raises ConfigError or InputError."""
    for name in STAGES:
        if configs[name] is not None:
            runner.check_prerequisites(configs[name])
    for finding in findings(configs):
        raise ConfigError(finding)


def findings(configs: Mapping[str, Any]) -> Iterator[str]:
    """What would end the flow late, as far as the settings tell: one line each, with what to type."""
    stages = {name: configs[name] for name in STAGES if configs[name] is not None}
    return preflight.findings(stages, configs["cluster"])


@contextmanager
def _job_runner(
    run_dir: Path, screen: Screen, hold: run_lock.Hold, asked: Mapping[str, Sequence[Workers]]
) -> Iterator[Callable[[str, list[str]], None]]:
    """A cluster and a function that runs a stage's command on it as a job. asked: what each stage will ask it for."""
    from infra import cluster, jobs  # heavy, and not needed when everything is up to date

    with cluster.cluster() as addresses, cluster.credentials_for(addresses, run_dir) as credentials_file:
        environment = cluster.job_environment(credentials_file, hold.token)
        cluster.require_all(asked)
        client = jobs.connect(addresses.jobs)
        where = jobs.Cluster(client, addresses.drivers, environment, hold.token, screen.show)
        if hold.killed:
            jobs.stop_leftovers(where, hold.killed)

        def submit(name: str, arguments: list[str]) -> None:
            jobs.run(where, name, arguments, run_dir / "logs" / f"{name}.log")

        yield submit


def _is_pending(name: str, configs: dict[str, StageConfig], run_dir: Path) -> bool:
    """Whether a stage has to run now. What a service leaves running is needed only while the examination is not
    done."""
    config = _needed(configs)[name]
    if config is None:
        return False
    made = configs["examination"] if config.service else config
    return runner.current_outputs(made, run_dir) is None


def resolve(recipe: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Stage name -> its config, over all packages; raises ConfigError for a wrong recipe or override."""
    parts = {package: recipes.known_recipes(package) for package in PACKAGES}
    having = [package for package, known in parts.items() if recipe in known]
    if having and len(having) < len(PACKAGES):
        whole = sorted(set.intersection(*map(set, parts.values())))
        raise ConfigError(
            f"{recipe} is a recipe of {' and '.join(having)} alone, not of the whole flow: python -m train.fit "
            f"{recipe} --run-dir DIR fits students on the examples of a run. Recipes of the flow: {', '.join(whole)}"
        )
    configs = recipes.resolve(recipe, PACKAGES, overrides)
    if configs["teach"].endpoint:  # what has the teacher serves it, as the stage itself finds in the rationales
        configs["deploy"] = dataclasses.replace(configs["deploy"], teacher=None)
    return configs


def describe(
    recipe: str, run_dir: Path, overrides: Sequence[str], gpu_hour_price: float | None = None
) -> dict[str, Any]:
    """What a dry run tells, as `infra.forecast` has it. Raises what the run would raise before its first stage."""
    configs = resolve(recipe, overrides)
    _check(configs)
    return forecast.forecast(recipe, run_dir, _needed(configs), configs["cluster"], gpu_hour_price)


def _needed(configs: Mapping[str, Any]) -> dict[str, Any]:
    """The stages in their order; None for one that the recipe leaves out, or whose output none reads."""
    stages = {name: configs[name] for name in STAGES}
    wanted = {read for config in stages.values() if config is not None for read in config.inputs()}
    drawn = stages["draw"]
    if drawn is not None and not wanted & set(drawn.outputs()):  # the questions come from the world
        stages["draw"] = None
    return stages


def rehearse(
    recipe: str, run_dir: Path, overrides: Sequence[str], num_questions: int = 16, *, with_engines: bool = True
) -> list[str]:
    """What would end the flow on its cluster, found here: see `pipelines.rehearsal`."""
    from pipelines.rehearsal import rehearse  # brings Ray

    configs = resolve(recipe, overrides)
    return rehearse.rehearse(
        recipe, _needed(configs), configs["cluster"], run_dir, num_questions, with_engines=with_engines
    )


def for_arms(recipe: str, arms: Sequence[str]) -> list[str]:
    """The overrides by which a recipe teaches, serves, examines and reports on these arms and no others.

    The recipe's other arms are composed and compared still, so that these ones learn the same questions as beside them.
    """
    configs = resolve(recipe, [])
    plan = _plan_for(configs["examination"].plan, arms)
    others = [arm for arm in configs["fit"].arms if arm not in arms]
    named = [f"{stage}.arms={json.dumps(arms)}" for stage in ("fit", "deploy", "report")]
    compared = [f"fit.compared_arms={json.dumps(others)}"] if others else []
    return [
        f"compose.arms={json.dumps([*arms, *others])}",
        *named,
        *compared,
        f"examination.plan={json.dumps(plan)}",
    ]


def for_seeds(seeds: int) -> list[str]:
    """The overrides by which a recipe fits, serves and examines as many adapters of each arm."""
    return [f"{stage}.seeds={seeds}" for stage in ("fit", "deploy", "examination")]


def _plan_for(plan: Sequence[str], arms: Sequence[str]) -> list[str]:
    """The entries of a plan that concern these arms or no taught one, and for an arm without any the real images."""
    kept = [entry for entry in plan if Entry.parse(entry).arm in (*arms, *(set(Arm) - set(TAUGHT)))]
    planned = {Entry.parse(entry).arm for entry in kept}
    return [*kept, *(f"{arm}/{Condition.REAL}" for arm in arms if arm not in planned)]


def _command(config: StageConfig, recipe: str, run_dir: Path, overrides: Sequence[str]) -> list[str]:
    """What Python is given to run a stage's own module, with the overrides that concern it."""
    recipe = str(Path(recipe).absolute()) if ":" in recipe else recipe
    settings = [word for text in overrides if text.partition(".")[0] == config.stage for word in ("--set", text)]
    return ["-m", config.command, recipe, "--run-dir", str(run_dir), *settings]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of the flow."""
    parser = command_line.argument_parser("python -m pipelines.flow", __doc__.splitlines()[0])
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=[str(arm) for arm in TAUGHT],
        metavar="ARM",
        help=f"what is taught, of {', '.join(TAUGHT)}; short for the `arms` of every stage, and examination.plan",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="how many adapters of each arm are fitted, served and examined; short for the `seeds` of these stages",
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="run all of it with small models, on the recipe's cluster in name only"
    )
    parser.add_argument("--questions", type=int, metavar="N", help="of each split, in a rehearsal; default 16")
    parser.add_argument(
        "--limit",
        type=int,
        help="read at most so many rows of each split of each source; short for --set questions.limit=N",
    )
    with command_line.reporting_errors("flow"):
        options = command_line.parsed(parser, arguments)
        arms = for_arms(options.recipe, options.arms) if options.arms else []
        seeds = [] if options.seeds is None else for_seeds(options.seeds)
        overrides = [
            *arms,
            *seeds,
            *options.set,
            *([] if options.limit is None else [f"questions.limit={options.limit}"]),
        ]
        num_questions = 16 if options.questions is None else options.questions
        if num_questions < 1:
            raise ConfigError(f"--questions {num_questions}: how many a rehearsal takes of each split, at least 1")
        if options.questions is not None and not options.rehearse:
            raise ConfigError(
                f"--questions {num_questions}: how many a rehearsal takes of each split. Add --rehearse, or for a run "
                f"of few questions: --limit {num_questions}"
            )
        if options.rehearse and options.dry_run:
            raise ConfigError("--rehearse runs what --dry-run only describes: choose one of them")
        run_dir = command_line.run_directory(options)
        if options.dry_run:
            told = describe(options.recipe, run_dir, overrides, options.gpu_hour_price)
            forecast_table.show(told, as_json=options.json)
            return
        command_line.interrupt_on_sigterm()
        if options.rehearse:
            sys.exit(1 if rehearse(options.recipe, run_dir, overrides, num_questions) else 0)
        run(options.recipe, run_dir, overrides)


if __name__ == "__main__":
    main()
