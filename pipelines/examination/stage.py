"""Served model -> predictions: the endpoint is asked every test question over HTTP, by arm and condition.

Teacher, untouched base and every student go through the same code, greedily, and only their name tells them apart.
Every answer goes into the ledger at once, and none is asked for twice, so that a run that was killed goes on where it
was.
"""

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from infra.errors import ClusterError, InputError
from infra.manifest import Artifact, Tally
from infra.stage import Task
from pipelines.examination import requests
from pipelines.examination.config import ExaminationConfig
from pipelines.inference import answers, conditions, failures, ledger, worker
from pipelines.inference.backends import endpoint as endpoints
from pipelines.inference.config import InferenceConfig
from pipelines.inference.ledger import REFUSALS, Ledger
from pipelines.inference.progress import InferenceProgress
from pipelines.inference.request_set import Answered, RequestSet
from pipelines.inference.worker import InferenceJob
from pipelines.records import Arm, Prediction, Status, tables
from pipelines.records.endpoint import Endpoint, ServedModel


def run(task: Task) -> Tally:
    """Carry out the plan; write `predictions.parquet`: by arm in the plan's order, then by question and condition.

    Raises InputError when too many requests of an arm fail under a condition.
    """
    config: ExaminationConfig = task.config
    endpoint = Endpoint.read(task.run_dir / "endpoint")
    models = _examined_models(endpoint, config, task.inputs)
    folder = task.inputs["questions"].path
    asked = list(requests.examined_questions(folder))
    if not asked:
        raise InputError("The questions have none with split `test`, so there is nothing to examine.")
    planned = config.conditions()
    substitutes = conditions.substitutes(folder, asked, {each for own in planned.values() for each in own}, config.seed)
    account = _Account(config)
    with tables.writer(task.draft, Prediction) as add:
        for arm, own_conditions in planned.items():
            own = requests.inference(config, models[arm], endpoint)
            request_set = requests.request_set(config, own, arm, own_conditions, folder, substitutes)
            answers_folder = ledger.folder_of(ledger.root_of(config.ledger, task.run_dir), own)
            _ask(task, own, arm, request_set, answers_folder)
            for answered in request_set.answers(Ledger(answers_folder)):
                prediction = _prediction(answered, models[arm])
                account.count(prediction)
                add(prediction)
    account.check()
    return account.tally()


def _ask(task: Task, own: InferenceConfig, arm: Arm, request_set: RequestSet, answers_folder: Path) -> None:
    """Send what the ledger does not settle."""
    workspace = task.draft / "plan"
    workspace.mkdir()
    plan = request_set.write_plan(Ledger(answers_folder), workspace / "plan.arrow")
    if plan.num_pending < plan.num_requests:
        settled = plan.num_requests - plan.num_pending
        task.progress.say(f"{settled} of {plan.num_requests} answers of {arm} are in the ledger, {answers_folder}")
    if plan.num_open:
        endpoints.check(own)
        progress = InferenceProgress(task, own, plan, arm)
        job = InferenceJob(config=own, images=task.inputs["questions"].path, ledger=answers_folder, plan=plan.path)
        for account in worker.work_through(job, plan):
            progress.add(account)
    shutil.rmtree(workspace)


def _prediction(answered: Answered, model: ServedModel) -> Prediction:
    """An answer as a prediction. The letter is read from the text now, whatever an earlier reader found in it."""
    question, attempt = answered.question, answered.attempt
    is_answer = attempt.status == Status.ANSWERED
    answer_first = model.arm is Arm.ANSWER_THEN_RATIONALE
    return Prediction(
        request_id=answered.request.id,
        question_id=question.id,
        source=question.source,
        file=question.file,
        model=model.name,
        arm=model.arm,
        condition=answered.request.condition,
        stratum=question.stratum,
        gold=question.gold,
        status=attempt.status,
        text=attempt.text,
        thoughts=attempt.thoughts,
        letter=answers.read_letter(attempt.text, question.options, answer_first=answer_first) if is_answer else None,
        finish_reason=attempt.finish_reason,
        num_prompt_tokens=attempt.num_prompt_tokens,
        num_output_tokens=attempt.num_output_tokens,
        error=attempt.error,
    )


class _Account:
    """What became of every request: asked = answered + refused + failed + quarantined."""

    def __init__(self, config: ExaminationConfig) -> None:
        self._config = config
        self._rows: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._quarantined: Counter[str] = Counter()
        self._metrics: Counter[str] = Counter()
        self._asked: Counter[tuple[str, str]] = Counter()
        self._failed: dict[tuple[str, str], Counter[str]] = {}

    def count(self, prediction: Prediction) -> None:
        """Count a prediction in."""
        group = (prediction.arm, prediction.condition)
        self._asked[group] += 1
        self._rows.update(asked=1, answered=prediction.status == Status.ANSWERED, scored=prediction.letter is not None)
        self._metrics.update(prompt_tokens=prediction.num_prompt_tokens, output_tokens=prediction.num_output_tokens)
        if prediction.error is None:
            self._reasons.update({"no_answer": prediction.letter is None})
            return
        self._failed.setdefault(group, Counter())[prediction.error] += 1
        if prediction.status == Status.QUARANTINED:
            self._rows["quarantined"] += 1
            self._quarantined[prediction.error] += 1
        else:
            self._rows["refused" if prediction.error in REFUSALS else "failed"] += 1
            self._reasons[prediction.error] += 1

    def check(self) -> None:
        """Raise InputError when too many requests of an arm failed under a condition."""
        for (arm, condition), reasons in self._failed.items():
            what = f"requests of {arm} under the condition `{condition}`"
            asked = self._asked[arm, condition]
            failures.check(what, asked, reasons, self._config.max_failed_share, self._config.stage)

    def tally(self) -> Tally:
        """The counts as they are sealed."""
        names = ("asked", "answered", "scored", "refused", "failed", "quarantined")
        return Tally(
            rows={name: self._rows[name] for name in names},
            reasons=dict(+self._reasons),
            quarantined=dict(self._quarantined),
            metrics=dict(self._metrics),
        )


def _examined_models(
    endpoint: Endpoint, config: ExaminationConfig, inputs: Mapping[str, Artifact]
) -> dict[Arm, ServedModel]:
    """Arm -> served model; raises ClusterError when the endpoint serves something else than what this run made."""
    served = {Arm(model.arm): model for model in endpoint.models}
    for arm in config.conditions():
        if arm not in served:
            raise ClusterError(
                f"{endpoint.base_url} serves no model for {arm}; it serves {', '.join(served)}. Name in deploy.arms "
                "what examination.plan asks, or an engine in deploy.teacher, and run the stage deploy again."
            )
        adapter = inputs.get(f"adapters/{arm}")
        if adapter is not None and adapter.digest != served[arm].digest:
            raise ClusterError(f"{served[arm].name} is not the adapter in {adapter.path}; run the stage deploy again.")
    return served
