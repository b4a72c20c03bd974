"""Served model -> predictions: the endpoint is asked every test question over HTTP, by arm and condition.

Teacher, untouched base and every student go through the same code, greedily, and only their name tells them apart.
Every answer goes into the ledger at once, and none is asked for twice, so that a run that was killed goes on where it
was.
"""

import dataclasses
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
from pipelines.inference.answers import Missing, Reading
from pipelines.inference.backends import endpoint as endpoints
from pipelines.inference.config import InferenceConfig
from pipelines.inference.ledger import REFUSALS, Ledger
from pipelines.inference.progress import InferenceProgress
from pipelines.inference.request_set import Answered, Plan, RequestSet
from pipelines.inference.worker import InferenceJob
from pipelines.records import Arm, Prediction, Status, tables
from pipelines.records.endpoint import Endpoint, ServedModel

_PLANS = "plans"  # folder in the draft


def run(task: Task) -> Tally:
    """Carry out the plan; write `predictions.parquet`: by arm in the plan's order, then by question and condition.

    Raises InputError when too many requests of an arm fail under a condition.
    """
    config: ExaminationConfig = task.config
    endpoint = Endpoint.read(task.run_dir / "endpoint")
    models = _examined_models(endpoint, config, task.inputs)
    folder = task.inputs["questions"].path
    if next(requests.examined_questions(folder), None) is None:
        raise InputError("The questions have none with split `test`, so there is nothing to examine.")
    arms = [_Arm.planned(task, arm, models[arm], endpoint) for arm in config.conditions()]
    for arm in arms:
        if arm.plan.num_open:
            endpoints.check(arm.inference)  # all of them before the first answer is paid for
    account = _Account(config)
    for arm in arms:
        account.add(arm.ask(task))
    with tables.writer(task.draft, Prediction) as add:
        for arm in arms:
            for answered in arm.request_set.answers(Ledger(arm.ledger)):
                prediction = _prediction(answered, arm.model)
                account.count(prediction)
                add(prediction)
    shutil.rmtree(task.draft / _PLANS)
    account.check()
    return account.tally()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Arm:
    """An arm of the examination: who is asked, what, and where the answers go."""

    model: ServedModel
    inference: InferenceConfig
    request_set: RequestSet
    ledger: Path
    plan: Plan

    @classmethod
    def planned(cls, task: Task, arm: Arm, model: ServedModel, endpoint: Endpoint) -> "_Arm":
        """What the ledger does not settle yet."""
        config, folder = task.config, task.inputs["questions"].path
        own_conditions = config.conditions()[arm]
        inference = requests.inference(config, model, endpoint)
        substitutes = conditions.substitutes(folder, requests.examined_questions(folder), own_conditions, config.seed)
        request_set = requests.request_set(config, inference, arm, own_conditions, folder, substitutes)
        place = ledger.folder_of(ledger.root_of(config.ledger, task.run_dir), inference)
        (task.draft / _PLANS).mkdir(exist_ok=True)
        (task.draft / _PLANS / arm).mkdir()
        plan = request_set.write_plan(Ledger(place), task.draft / _PLANS / arm / "plan.arrow")
        if plan.num_settled:
            task.progress.say(f"{plan.num_settled} of {plan.num_requests} answers of {arm} are in the ledger, {place}")
        return cls(model=model, inference=inference, request_set=request_set, ledger=place, plan=plan)

    def ask(self, task: Task) -> dict[str, float]:
        """Send what is pending; the metrics of the work."""
        if not self.plan.num_open:
            return {}
        progress = InferenceProgress(task, self.inference, self.plan, self.model.arm)
        images = task.inputs["questions"].path
        job = InferenceJob(config=self.inference, images=images, ledger=self.ledger, plan=self.plan.path)
        for account in worker.work_through(job, self.plan):
            progress.add(account)
        return progress.metrics()


def _prediction(answered: Answered, model: ServedModel) -> Prediction:
    """An answer as a prediction. It is read from the text now, whatever an earlier reader found in it."""
    question, attempt = answered.question, answered.attempt
    is_answer = attempt.status == Status.ANSWERED
    reading = Reading(missing=Missing.FAILED_REQUEST)
    if is_answer:
        answer_first = model.arm is Arm.ANSWER_THEN_RATIONALE
        finish_reason = attempt.finish_reason
        reading = answers.read(attempt.text, question.options, finish_reason=finish_reason, answer_first=answer_first)
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
        letter=reading.letter,
        read_as=reading.how,
        missing=reading.missing,
        text_letter=reading.text_letter,
        lenient_letter=answers.lenient_letter(attempt.text, question.options) if is_answer else None,
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

    def add(self, metrics: Mapping[str, float]) -> None:
        """Add what was asked in this run, and how long it took."""
        names = ("attempts_now", "output_tokens_now", "seconds_now")
        self._metrics.update({name: metrics[name] for name in names if name in metrics})

    def count(self, prediction: Prediction) -> None:
        """Count a prediction in."""
        group = (prediction.arm, prediction.condition)
        self._asked[group] += 1
        self._rows.update(asked=1, answered=prediction.status == Status.ANSWERED, scored=prediction.letter is not None)
        self._metrics.update(prompt_tokens=prediction.num_prompt_tokens, output_tokens=prediction.num_output_tokens)
        if prediction.status == Status.ANSWERED:
            self._reasons.update({"no_answer": prediction.letter is None})
            return
        reason = str(prediction.error)
        self._failed.setdefault(group, Counter())[reason] += 1
        if prediction.status == Status.QUARANTINED:
            self._rows["quarantined"] += 1
            self._quarantined[reason] += 1
        else:
            self._rows["refused" if reason in REFUSALS else "failed"] += 1
            self._reasons[reason] += 1

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
