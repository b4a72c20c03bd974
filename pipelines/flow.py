"""The whole flow on one page: which stages, in which order, each as a Ray job of its own.

`python -m pipelines.flow RECIPE [--run-dir DIR] [--set path.to.field=value] [--arms ARM ...] [--limit N] [--dry-run]`.
A stage whose sealed output is what it would make now is not run again; a failed stage ends the flow with that stage's
error.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from infra import credentials, journal, recipes, stage
from infra.digests import digest_json
from infra.errors import ConfigError
from infra.progress import Progress, Screen
from infra.stage import StageConfig
from pipelines.records import TAUGHT
from pipelines.settings import plan_for

PACKAGES = ("pipelines", "train", "serve")
STAGES = (
    "draw",  # files as a user would bring them (pocket scale only)
    "questions",  # source -> questions
    "teach",  # question -> rationale
    "verify",  # rationale -> verdict
    "compose",  # verified rationale -> training examples, for each arm
    "fit",  # training examples -> adapter, for each arm
    "deploy",  # adapters -> served models behind one endpoint
    "examine",  # served model -> predictions
    "report",  # predictions -> report
)


def run(recipe: str, run_dir: Path, overrides: Sequence[str]) -> None:
    """Run every stage that is not up to date, in order. Raises StageError with the first failed stage's own error."""
    configs = resolve(recipe, overrides)
    _check(configs)
    screen = Screen()
    screen.show(f"flow: {recipe} in {run_dir}")
    credentials.remove_leftovers(run_dir)
    with ExitStack() as running:
        recorder = running.enter_context(journal.recorder(run_dir, run_dir / journal.FOLDER, Progress("flow")))
        submit = None
        for name in STAGES:
            if not _is_pending(name, configs, run_dir):
                idle = configs[name] is None or configs[name].service or not _is_read(name, configs)
                screen.show(f"flow: {name} is {'not needed' if idle else 'up to date'}")
                continue
            if submit is None:
                submit = running.enter_context(_job_runner(run_dir, screen))
            recorder.start()  # again for each stage: the one before may have ended with a store that was away
            started = time.monotonic()
            submit(name, _command(configs[name], recipe, run_dir, overrides))
            screen.show(f"flow: {name} took {time.monotonic() - started:.0f} s")
    screen.show(f"flow: the report is {run_dir / 'report' / 'index.html'}")


def _check(configs: dict[str, StageConfig]) -> None:
    """Find now what would otherwise be found after an engine has worked for hours. Raises ConfigError or InputError."""
    _check_inputs(configs)
    for name in STAGES:
        config = configs[name]
        if config is None:
            continue
        stage.check_materials(config)
        for material, path in config.materials().items():
            if not Path(path).is_absolute() and Path(path).exists() and Path(path).parts[0] not in PACKAGES:
                raise ConfigError(
                    f"{name}.{material}={path}: jobs run in another folder, so write {Path(path).absolute()}"
                )


def _check_inputs(configs: dict[str, StageConfig]) -> None:
    """Raise ConfigError when a stage reads what none before it makes, or an arm is examined that is not served."""
    made: set[str] = set()
    for name in STAGES:
        if (config := configs[name]) is not None:
            if missing := set(config.inputs()) - made:
                raise _contradiction(f"{name} reads {min(missing)}, which no stage before it makes", config)
            made |= set(config.outputs())
    teach: Any = configs["teach"]
    fit: Any = configs["fit"]
    if fit.distillation_weight and not teach.top_logprobs:
        raise ConfigError(
            f"fit.distillation_weight is {fit.distillation_weight:g}, and the teacher keeps nothing to learn from: "
            "--set teach.top_logprobs=8"
        )
    examine: Any = configs["examine"]
    _check_limits(configs["questions"], configs["deploy"], examine)
    if unserved := set(examine.inputs()) - set(configs["deploy"].inputs()):
        raise _contradiction(f"examine.plan asks {min(unserved)}, which deploy does not serve", examine)


def _check_limits(questions: Any, deploy: Any, examine: Any) -> None:
    """Raise ConfigError when the endpoint would refuse what the examination will ask."""
    for asked, named, limit, limited in (
        (examine.max_tokens, "examine.max_tokens", deploy.max_answer_tokens, "deploy.max_answer_tokens"),
        (questions.max_pixels, "questions.max_pixels", deploy.max_image_pixels, "deploy.max_image_pixels"),
    ):
        if asked > limit:
            raise ConfigError(
                f"{named} is {asked}, and the endpoint takes {limit}: --set {limited}={asked}, or ask for less."
            )


def _contradiction(what: str, config: StageConfig) -> ConfigError:
    """An error that says what to type. config: of the stage that lacks something, most likely one of its arms."""
    wanted = [arm for arm in TAUGHT if any(name.endswith(f"/{arm}") for name in config.inputs())]
    advice = f" Name the arms once for all stages, in the place of --set: --arms {' '.join(wanted)}" if wanted else ""
    return ConfigError(f"{what}.{advice}")


@contextmanager
def _job_runner(run_dir: Path, screen: Screen) -> Iterator[Callable[[str, list[str]], None]]:
    """A cluster and a function that runs a stage's command on it as a job."""
    from infra import cluster, jobs  # heavy, and not needed when everything is up to date

    with cluster.cluster() as addresses, cluster.credentials_for(addresses, run_dir) as credentials_file:
        client = jobs.connect(addresses.jobs)
        environment = cluster.job_environment(credentials_file)

        def submit(name: str, arguments: list[str]) -> None:
            log = run_dir / "logs" / f"{name}.log"
            jobs.run(client, name, arguments, addresses.drivers, environment, log, screen.show)

        yield submit


def _is_pending(name: str, configs: dict[str, StageConfig], run_dir: Path) -> bool:
    """Whether a stage has to run now. What a service leaves running is needed only while the examination is not
    done."""
    config = configs[name]
    if config is None or not _is_read(name, configs):
        return False
    made = configs["examine"] if config.service else config
    return stage.current_outputs(made, run_dir) is None


def _is_read(name: str, configs: dict[str, StageConfig]) -> bool:
    """Whether a stage makes what another one reads: nothing need be drawn where the questions come from the world."""
    wanted = {read for other in configs.values() if other is not None for read in other.inputs()}
    return name != "draw" or bool(wanted & set(configs[name].outputs()))


def resolve(recipe: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Stage name -> its config, over all packages; raises ConfigError for a wrong recipe or override."""
    return recipes.resolve(recipe, PACKAGES, overrides)


def describe(recipe: str, run_dir: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """What a dry run prints: the resolved config and its digest, what would run, at what cost, and where it would
    write."""
    configs = resolve(recipe, overrides)
    _check_inputs(configs)
    settings = {name: dataclasses.asdict(configs[name]) for name in STAGES if configs[name] is not None}
    settings = json.loads(json.dumps(settings))
    pending = [name for name in STAGES if _is_pending(name, configs, run_dir)]
    estimates = {name: configs[name].estimate(run_dir) for name in pending}
    return {
        "recipe": recipe,
        "config": settings,
        "config_digest": digest_json(settings),
        "pending": pending,
        "hardware": {name: configs[name].hardware() for name in STAGES if configs[name] is not None},
        "estimates": {name: estimate for name, estimate in estimates.items() if estimate is not None},
        "writes": [
            str(run_dir / output) for name in STAGES if configs[name] is not None for output in configs[name].outputs()
        ],
    }


def for_arms(recipe: str, arms: Sequence[str]) -> list[str]:
    """The overrides by which a recipe teaches, serves, examines and reports on these arms and no others."""
    plan = plan_for(resolve(recipe, [])["examine"].plan, arms)
    named = [f"{stage}.arms={json.dumps(arms)}" for stage in ("compose", "fit", "deploy", "report")]
    return [*named, f"examine.plan={json.dumps(plan)}"]


def _command(config: StageConfig, recipe: str, run_dir: Path, overrides: Sequence[str]) -> list[str]:
    """What Python is given to run a stage's own module, with the overrides that concern its package."""
    package = config.module.partition(".")[0]
    recipe = str(Path(recipe).absolute()) if ":" in recipe else recipe
    own = recipes.resolve(recipe, [package])
    concerning = [text for text in overrides if text.partition(".")[0] in own]
    settings = [word for text in concerning for word in ("--set", text)]
    return ["-m", config.module, recipe, "--run-dir", str(run_dir), *settings]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of the flow."""
    parser = stage.argument_parser("python -m pipelines.flow", __doc__.splitlines()[0])
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=[str(arm) for arm in TAUGHT],
        metavar="ARM",
        help=f"what is taught, of {', '.join(TAUGHT)}; short for the `arms` of every stage, and examine.plan",
    )
    parser.add_argument("--limit", type=int, help="read at most this many rows; short for --set questions.limit=N")
    with stage.reporting_errors("flow"):
        options = parser.parse_args(arguments)
        arms = for_arms(options.recipe, options.arms) if options.arms else []
        overrides = [*arms, *options.set, *([] if options.limit is None else [f"questions.limit={options.limit}"])]
        run_dir = stage.run_directory(options)
        if options.dry_run:
            print(json.dumps(describe(options.recipe, run_dir, overrides), indent=2))
            return
        stage.interrupt_on_sigterm()
        run(options.recipe, run_dir, overrides)


if __name__ == "__main__":
    main()
