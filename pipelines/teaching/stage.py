"""Question -> rationale: a pool of engines, or an endpoint, explains every question of the splits `train` and
`validation`.

What the ledger holds is never asked again, so that a run that was killed, anywhere and at any moment, goes on where it
was. The artifact is written from the ledger in the end, in the order of the questions.
"""

import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from infra.errors import InputError
from infra.manifest import Artifact, Tally
from infra.stage import Task
from pipelines.inference import failures, ledger, logprobs, worker
from pipelines.inference.backends import endpoint
from pipelines.inference.backends.vllm_engine import vllm_arguments
from pipelines.inference.config import InferenceConfig
from pipelines.inference.ledger import Ledger
from pipelines.inference.progress import InferenceProgress
from pipelines.inference.request_set import Answered, Plan
from pipelines.inference.requests import prompt_digest
from pipelines.inference.worker import Account, InferenceJob, StartBackend
from pipelines.records import Condition, Rationale, Status, TopLogprobs, tables
from pipelines.teaching import requests
from pipelines.teaching.config import TeachConfig

WorkThrough = Callable[[InferenceJob, Plan, StartBackend], Iterator[Account]]


def sends(config: TeachConfig, inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """For a rehearsal: the arguments of each vLLM engine that the stage would start. Raises ClusterError when the
    recipe's endpoint does not have the teacher."""
    if config.endpoint:
        endpoint.check(requests.inference(config))
        return []
    return [vllm_arguments(config.teacher, config.engine, config.revision)]


def run(task: Task, start: StartBackend = worker.start, work_through: WorkThrough | None = None) -> Tally:
    """Explain every question as often as the recipe asks; write `rationales.parquet`.

    start: what starts a worker's backend. work_through: what settles a plan, in the place of the pool on Ray. Raises
    InputError when too many requests fail.
    """
    config: TeachConfig = task.config
    folder = task.inputs["questions"].path
    own = requests.inference(config)
    attempts = ledger.folder_of(ledger.root_of(config.ledger, task.run_dir), own)
    asked = requests.request_set(config, own, folder)
    workspace = task.draft / "plan"
    workspace.mkdir()
    plan = asked.write_plan(Ledger(attempts), workspace / "plan.arrow")
    if not plan.num_questions:
        raise InputError("The questions have none with split `train`, so there is nothing to explain.")
    metrics = {}
    if plan.num_open:
        if plan.num_open < plan.num_questions:
            settled = plan.num_questions - plan.num_open
            task.progress.say(f"{settled} of {plan.num_questions} questions are in the ledger, {attempts}")
        # What the questions have, the engine must take: the recipe need not know how many images that is.
        own = dataclasses.replace(own, engine=own.engine.taking(plan.max_images))
        job = InferenceJob(config=own, images=folder, ledger=attempts, plan=plan.path)
        metrics = _explain(task, plan, job, start, work_through or _on_ray(task, own))
    shutil.rmtree(workspace)
    tally = _seal(task.draft, asked.answers(Ledger(attempts)), own)
    reasons = Counter(tally.reasons) + Counter(tally.quarantined)
    failures.check("requests", tally.rows["asked"], reasons, config.max_failed_share, config.stage)
    tally.metrics |= metrics
    return tally


def _explain(
    task: Task, plan: Plan, job: InferenceJob, start: StartBackend, work_through: WorkThrough
) -> dict[str, float]:
    """Have the plan carried out; the metrics of the work."""
    endpoint.check(job.config)
    progress = InferenceProgress(task, job.config, plan)
    for account in work_through(job, plan, start):
        progress.add(account)
    return progress.metrics()


def _on_ray(task: Task, own: InferenceConfig) -> WorkThrough:
    """What settles a plan on the cluster."""
    min_workers: int | None = task.config.min_replicas

    def work_through(job: InferenceJob, plan: Plan, start: StartBackend) -> Iterator[Account]:
        from infra import cluster
        from pipelines.inference import pool

        engine, least = own.engine, min_workers or own.engine.replicas
        cluster.connect()
        if own.endpoint:
            task.progress.say(f"asking {own.model.name} at {own.endpoint}")
        else:
            cluster.require(task.progress.say, cpus=least * engine.cpus, gpus=least * engine.gpus)
            task.progress.say(f"starting {engine.replicas} engine(s) for {own.model.name}")
        return pool.work_through(job, plan, start, min_workers=min_workers)

    return work_through


def _rationale(answered: Answered, own: InferenceConfig) -> tuple[Rationale, TopLogprobs | None]:
    """An answer as a rationale, and its top tokens, where they are kept."""
    request, attempt = answered.request, answered.attempt
    stored = dataclasses.asdict(attempt)
    del stored["letter"], stored["top_logprobs"]
    revision = own.model.revision
    rationale = Rationale(
        **stored,
        question_id=answered.question.id,
        condition=request.condition,
        number=request.number,
        hinted=request.hinted,
        attempts=answered.num_attempts,
        teacher=f"{own.model.name}@{revision}" if revision else own.model.name,
        teacher_digest=own.model.digest,
        prompt_digest=prompt_digest(request.prompt),
        sampling_digest=own.sampling.digest,
    )
    return rationale, logprobs.row_of(attempt.id, attempt.top_logprobs) if attempt.top_logprobs else None


def _seal(draft: Path, answers: Iterator[Answered], own: InferenceConfig) -> Tally:
    """Write the tables and count them."""
    rows: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    quarantined: Counter[str] = Counter()
    metrics: Counter[str] = Counter()
    with tables.writer(draft, Rationale) as add, tables.writer(draft, TopLogprobs) as keep:
        for answered in answers:
            rationale, kept = _rationale(answered, own)
            add(rationale)
            if kept is not None:
                keep(kept)
            rows.update(
                asked=1,
                answered=rationale.status == Status.ANSWERED,
                probes=rationale.condition != Condition.REAL,
                hinted=rationale.hinted,
                top_logprobs=kept is not None,
            )
            reasons = {Status.FAILED: failed, Status.QUARANTINED: quarantined}.get(Status(rationale.status))
            if reasons is not None and rationale.error:
                reasons[rationale.error] += 1
            metrics.update(
                prompt_tokens=rationale.num_prompt_tokens,
                output_tokens=rationale.num_output_tokens,
                attempts=rationale.attempts,
                stray_tokens=rationale.num_stray_tokens,
            )
    counted = {name: count for name, count in rows.items() if count or name in ("asked", "answered")}
    return Tally(rows=counted, reasons=dict(failed), quarantined=dict(quarantined), metrics=dict(metrics))
