"""Question -> rationale: Ray Data feeds a pool of engines, whose every answer goes into the ledger at once. [edge]

What the ledger holds is never asked again, so that a run that was killed, anywhere and at any moment, goes on where it
was. The artifact is written from the ledger in the end, in the order of the questions.
"""

import atexit
import dataclasses
import logging
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data

from infra import cluster
from infra.errors import ArtifactError, ClusterError, InputError
from infra.manifest import Artifact, Tally
from infra.stage import Task
from pipelines.inference import backends, ledger
from pipelines.inference.ledger import Ledger
from pipelines.inference.requests import Teacher, teacher_digest
from pipelines.inference.worker import Account, Explainer, Work, num_lives
from pipelines.records import Condition, Fate, Rationale, TopLogprobs, tables
from pipelines.teaching.config import TeachConfig
from pipelines.teaching.plan import Asking, Plan

_STDERR = 2
_DIED = 70  # exit code of an actor whose engine is gone; Ray starts it again
_MAX_LIVES = 20
_PAUSE_S = 5.0
_ANSWERED = ("no_answer", "truncated")  # reasons of requests that the teacher has answered, if of no use
_MOST_UNANSWERED = 0.5
_MIN_SETTLED_TO_STOP = 100
_METRICS_EVERY_S = 10.0
_MAX_BLOCKS = 1000

StartEngine = Callable[[TeachConfig], backends.Engine]


class TeacherActor:
    """One engine in a Ray actor, which is given numbers of batches, and gives back what became of them."""

    def __init__(self, work: Work, start: StartEngine) -> None:
        # What engines are built on complains of itself when Python ends; nothing that matters is said by then.
        atexit.register(os.dup2, os.open(os.devnull, os.O_WRONLY), _STDERR)
        name = ray.get_runtime_context().get_actor_id()
        try:
            self._explainer = Explainer(work, name, start)
        except ClusterError:
            raise
        except Exception:
            # What the dead one's children hold, such as a GPU's memory, can take a while to be given back.
            if not 1 < num_lives(work, name) < _MAX_LIVES:
                raise
            time.sleep(_PAUSE_S)
            os._exit(_DIED)

    async def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Explain the batches of a plan; one JSON account for each."""
        try:
            return {"account": [(await self._explainer.explain(int(number))).as_json() for number in batch["number"]]}
        except backends.EngineDiedError:
            # An engine cannot be started twice in one process; Ray gives the next one the same batches.
            os._exit(_DIED)
        except ArtifactError as error:
            return {"account": [Account(stopped=str(error)).as_json()]}  # Ray Data would bury it in words of its own


def sends(config: TeachConfig, inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """For a rehearsal: the arguments of each vLLM engine that the stage would start. Raises ClusterError when the
    recipe's endpoint does not have the teacher."""
    if config.endpoint:
        backends.check(config)
        return []
    return [backends.vllm_arguments(config.teacher, config.engine, config.revision)]


def run(task: Task, start: StartEngine = backends.start) -> Tally:
    """Explain every training question as often as the recipe asks; write `rationales.parquet`.

    start: what starts an engine in an actor. Raises InputError when too many requests fail.
    """
    config: TeachConfig = task.config
    folder = task.inputs["questions"].path
    teacher = Teacher.of(config, teacher_digest(config))
    attempts = ledger.folder_of(ledger.root_of(config, task.run_dir), teacher)
    asking = Asking(folder, config, teacher)
    workspace = task.draft / "plan"
    workspace.mkdir()
    plan = asking.write_plan(Ledger(attempts), workspace / "plan.arrow")
    if not plan.num_questions:
        raise InputError("The questions have none with split `train`, so there is nothing to explain.")
    figures = {}
    if plan.num_open:
        if plan.num_open < plan.num_questions:
            settled = plan.num_questions - plan.num_open
            task.progress.say(f"{settled} of {plan.num_questions} questions are in the ledger, {attempts}")
        figures = _explain(task, plan, Work(config=config, images=folder, ledger=attempts, plan=plan.path), start)
    shutil.rmtree(workspace)
    tally = _seal(task.draft, asking.rationales(Ledger(attempts)))
    check_failures(tally, config.max_failed_share)
    tally.figures |= figures
    return tally


def _explain(task: Task, plan: Plan, work: Work, start: StartEngine) -> dict[str, float]:
    """Have the plan carried out; the figures of the work."""
    # What the questions have, the engine must take: the recipe need not know how many images that is.
    config = dataclasses.replace(work.config, engine=work.config.engine.taking(plan.max_images))
    work = dataclasses.replace(work, config=config)
    engine, least = config.engine, config.min_replicas or config.engine.replicas
    backends.check(config)
    cluster.connect()
    if config.endpoint:
        task.progress.say(f"asking {config.teacher} at {config.endpoint}")
    else:
        cluster.require(task.progress.say, cpus=least * engine.cpus, gpus=least * engine.gpus)
        task.progress.say(f"starting {engine.replicas} engine(s) for {config.teacher}")
    sofar = _Progress(task, plan)
    for account in _accounts(plan, work, start):
        sofar.add(account)
    return sofar.figures()


def _accounts(plan: Plan, work: Work, start: StartEngine) -> Iterator[Account]:
    """The account of each batch, in the order in which engines finish them."""
    config, engine = work.config, work.config.engine
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A full pool grows; Ray Data would wait until its engines had nearly twice the work that they are given.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    num_at_once = _batches_at_once(config)
    sizes = (
        {"min_size": config.min_replicas, "max_size": engine.replicas}
        if config.min_replicas
        else {"size": engine.replicas}
    )
    done = ray.data.from_blocks(_numbers(plan.num_batches)).map_batches(
        TeacherActor,
        fn_constructor_kwargs={"work": work, "start": start},
        batch_size=1,
        # Small batches, many at a time, and the next ones waiting beside the engine, so that it never runs empty.
        compute=ray.data.ActorPoolStrategy(
            **sizes, max_concurrent_calls_per_actor=num_at_once, max_tasks_in_flight_per_actor=num_at_once + 2
        ),
        num_cpus=engine.cpus,
        num_gpus=0 if config.endpoint else engine.gpus,
    )
    for row in done.iter_rows():
        account = Account.from_json(row["account"])
        if account.stopped:
            raise ArtifactError(account.stopped)
        yield account


def _numbers(num_batches: int) -> list[pa.Table]:
    """The numbers of all batches as blocks, one for each batch unless there are too many.

    Made here, since Ray Data would otherwise have a task read each of them, which costs as much as the batch. By
    `from_blocks`, since `from_arrow` would start two workers to look at the tables before it starts the engines'.
    """
    step = math.ceil(num_batches / _MAX_BLOCKS)
    return [pa.table({"number": range(start, min(start + step, num_batches))}) for start in range(0, num_batches, step)]


def _batches_at_once(config: TeachConfig) -> int:
    """How many batches fill an engine and its queue, with some to spare: of each, the last rows are waited for."""
    requests = config.batch_size * config.num_rationales
    return max(2, math.ceil(3 * config.engine.max_num_seqs / requests))


class _Progress:
    """Says how far the work is, and at what cost; stops it when too much of it fails."""

    def __init__(self, task: Task, plan: Plan) -> None:
        self._task = task
        self._plan = plan
        self._sum = Account()
        self._uptime_s: dict[str, float] = {}
        self._started = self._logged = time.monotonic()
        self._first: float | None = None
        self._tokens_at_first = 0

    def add(self, account: Account) -> None:
        """Count a batch in."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._tokens_at_first = now, account.output_tokens
            self._task.progress.say(f"first rationales after {now - self._started:.1f} s")
        whole = self._sum
        for name in ("questions", "asked", "right", "made", "prompt_tokens", "output_tokens"):
            setattr(whole, name, getattr(whole, name) + getattr(account, name))
        whole.settled += account.settled
        whole.reasons += account.reasons
        self._uptime_s[account.engine] = max(account.uptime_s, self._uptime_s.get(account.engine, 0.0))
        self._stop_if_too_much_failed()
        self._task.progress(
            whole.questions,
            self._plan.num_open,
            "questions",
            tokens_per_s=round(self._speed()),
            right=f"{whole.right / max(whole.asked, 1):.2f}",
            failed=self._num_failed(),
        )
        if now - self._logged >= _METRICS_EVERY_S:
            self._logged = now
            for name, value in self.figures().items():
                self._task.metric(f"teach.{name}", value, whole.questions)

    def _speed(self) -> float:
        """Tokens a second since the first rationales came; what was before is start-up."""
        seconds = time.monotonic() - (self._first or self._started)
        return (self._sum.output_tokens - self._tokens_at_first) / max(seconds, 1e-3)

    def _num_failed(self) -> int:
        return self._sum.settled[Fate.FAILED] + self._sum.settled[Fate.QUARANTINED]

    def _stop_if_too_much_failed(self) -> None:
        asked, settled = self._sum.settled.total(), self._sum.settled
        if asked >= _MIN_SETTLED_TO_STOP and self._num_failed():
            reasons = dict(self._sum.reasons)
            rows = {"asked": asked, "explained": settled[Fate.EXPLAINED]}
            check_failures(Tally(rows=rows, reasons=reasons), self._task.config.max_failed_share)

    def figures(self) -> dict[str, float]:
        """Numbers of the work so far, in this run; the seconds count the engines' starts too."""
        engine_seconds = sum(self._uptime_s.values())
        gpus = 0 if self._task.config.endpoint else self._task.config.engine.gpus
        return {
            "tokens_per_s": self._speed(),
            "right_share": self._sum.right / max(self._sum.asked, 1),
            "attempts_now": self._sum.made,
            "prompt_tokens_now": self._sum.prompt_tokens,
            "output_tokens_now": self._sum.output_tokens,
            "seconds_to_first": (self._first or time.monotonic()) - self._started,
            "engine_seconds_now": engine_seconds,
            "gpu_seconds_now": engine_seconds * gpus,
            "output_tokens_per_right": self._sum.output_tokens / max(self._sum.right, 1),
            "gpu_seconds_per_right": engine_seconds * gpus / max(self._sum.right, 1),
        }


def check_failures(tally: Tally, limit: float) -> None:
    """Raise InputError when a larger share than the limit failed, with the most frequent reasons; or, whatever the
    limit, when most were not answered at all, which is no weakness of the teacher's."""
    asked = tally.rows["asked"]
    failed = asked - tally.rows["explained"]
    reasons = Counter(tally.reasons) + Counter(tally.quarantined)
    unanswered = failed - sum(reasons[reason] for reason in _ANSWERED)
    if failed <= limit * asked and unanswered <= _MOST_UNANSWERED * asked:
        return
    told = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(3))
    told = f"{failed} of {asked} requests failed ({told})"
    if failed <= limit * asked:
        raise InputError(f"{told}: most were not answered. What succeeded is kept. Mend that, and run the stage again.")
    raise InputError(
        f"{told}: more than the recipe's share of {limit:g}. What succeeded is kept. Mend the cause, or allow more "
        "with --set teach.max_failed_share=SHARE, and run the stage again."
    )


def _seal(draft: Path, rationales: Iterator[tuple[Rationale, TopLogprobs | None]]) -> Tally:
    """Write the tables and count them."""
    rows: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    quarantined: Counter[str] = Counter()
    figures: Counter[str] = Counter()
    with tables.writer(draft, Rationale) as add, tables.writer(draft, TopLogprobs) as keep:
        for rationale, kept in rationales:
            add(rationale)
            if kept is not None:
                keep(kept)
            rows.update(
                asked=1,
                explained=rationale.fate == Fate.EXPLAINED,
                probes=rationale.condition != Condition.REAL,
                hinted=rationale.hinted,
                top_logprobs=kept is not None,
            )
            reasons = {Fate.FAILED: failed, Fate.QUARANTINED: quarantined}.get(Fate(rationale.fate))
            if reasons is not None and rationale.error:
                reasons[rationale.error] += 1
            figures.update(
                prompt_tokens=rationale.num_prompt_tokens,
                output_tokens=rationale.num_output_tokens,
                attempts=rationale.attempts,
                stray_tokens=rationale.num_stray_tokens,
            )
    counted = {name: count for name, count in rows.items() if count or name in ("asked", "explained")}
    return Tally(rows=counted, reasons=dict(failed), quarantined=dict(quarantined), figures=dict(figures))
