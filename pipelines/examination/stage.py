"""Served model -> predictions: the endpoint is asked every test question over HTTP, by the entries of the plan.

Teacher, untouched base, every student and any other model go through the same code, greedily, and only their name tells
them apart.
Every answer goes into the ledger at once, and none is asked for twice, so that a run that was killed goes on where it
was.
"""

import dataclasses
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from infra.digests import digest_json
from infra.errors import ClusterError, InputError
from infra.manifest import Artifact, Tally
from infra.stage import Task
from pipelines.examination import plan as plans
from pipelines.examination import prefill, requests
from pipelines.examination.config import ExaminationConfig
from pipelines.examination.prefill import Reasoning
from pipelines.examination.requests import ArmRequests
from pipelines.inference import answers, conditions, failures, ledger, worker
from pipelines.inference.answers import Missing, Reading
from pipelines.inference.backends import endpoint as endpoints
from pipelines.inference.config import InferenceConfig
from pipelines.inference.ledger import REFUSALS, Ledger
from pipelines.inference.progress import InferenceProgress
from pipelines.inference.request_set import Answered, Plan, RequestSet
from pipelines.inference.worker import InferenceJob
from pipelines.records import TAUGHT, Arm, Prediction, Status, adapter_of, tables
from pipelines.records.endpoint import Endpoint, ServedModel
from pipelines.records.entries import Entry, Prompt, by_arm

_PLANS = "plans"  # folder in the draft


def run(task: Task) -> Tally:
    """Carry out the plan; write `predictions.parquet`: by arm in the plan's order and seed, then by question and entry.

    How the answers will be analysed is written first, as `analysis_plan.json`. What goes on from these answers is
    asked, and written, after all others.

    Raises InputError when too many requests of an entry fail.
    """
    config: ExaminationConfig = task.config
    endpoint = _other_endpoint(config) or Endpoint.read(task.run_dir / "endpoint")
    models = _examined_models(endpoint, config, task.inputs)
    analysis = plans.default_plan(config.plan, config.primary)
    plans.seal(analysis, task.draft)  # before the first question is asked
    account, reasoning = _Account(config), _Reasonings(config)
    with tables.writer(task.draft, Prediction) as add:
        for is_prefilled in (False, True):
            chosen = by_arm([entry for entry in config.entries() if entry.prefilled is is_prefilled])
            arms = [
                _Arm.planned(task, own, model, endpoint, reasoning.of(model.name))
                for arm, own in chosen.items()
                for model in models[arm]
            ]
            for prediction in _predictions(task, arms, account):
                account.count(prediction)
                reasoning.keep(prediction)
                add(prediction)
    account.check()
    tally = account.tally()
    tally.facts["analysis_plan"] = analysis.digest
    return tally


def _predictions(task: Task, arms: "Sequence[_Arm]", account: "_Account") -> Iterator[Prediction]:
    """What these arms answer, asked as far as the ledger does not have it."""
    if not arms:
        return
    _leave_out(arms, task.inputs["questions"].path, account)
    for arm in arms:
        if arm.plan.num_open:
            endpoints.check(arm.inference)  # all of them before the first answer is paid for
    for arm in arms:
        account.add(arm.ask(task))
    for arm in arms:
        for answered in arm.request_set.answers(Ledger(arm.ledger)):
            yield _prediction(answered, arm)
    shutil.rmtree(task.draft / _PLANS)


def _other_endpoint(config: ExaminationConfig) -> Endpoint | None:
    """Where another model than the run's own is examined. Nothing but its address and name is known of it, so these
    tell its answers from all others."""
    if config.endpoint is None or config.model is None:
        return None
    digest = digest_json({"endpoint": config.endpoint, "model": config.model})
    return Endpoint(
        base_url=config.endpoint, models=(ServedModel(name=config.model, arm=Arm.ZERO_SHOT, digest=digest),)
    )


def _leave_out(arms: "Sequence[_Arm]", questions_artifact: Path, account: "_Account") -> None:
    """Count the questions that make no sense in an entry. Raises InputError where there are none to ask."""
    num_questions = 0
    for question in requests.examined_questions(questions_artifact):
        num_questions += 1
        for arm in arms:
            for entry, reason in arm.requests.left_out(question) if not arm.model.seed else ():
                account.leave_out(entry, reason)
    if not num_questions:
        raise InputError("The questions have none with split `test`, so there is nothing to examine.")
    for named, reasons in account.left_out.items():
        asked = num_questions - sum(count for reason, count in reasons.items() if reason != requests.NOT_ROTATED)
        if not asked:
            raise InputError(
                f"{named} makes no sense for any of the {num_questions} test questions "
                f"({', '.join(f'{reason} {count}' for reason, count in reasons.items())}). Leave it out of "
                "examination.plan."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Arm:
    """A model of an arm: who is asked, what, and where the answers go."""

    model: ServedModel
    inference: InferenceConfig
    requests: ArmRequests
    request_set: RequestSet
    ledger: Path
    plan: Plan

    @classmethod
    def planned(
        cls,
        task: Task,
        entries: Sequence[Entry],
        model: ServedModel,
        endpoint: Endpoint,
        reasoning: Mapping[str, Mapping[str, Reasoning]],
    ) -> "_Arm":
        """What the ledger does not settle yet of these entries. reasoning: that they may go on from."""
        config, folder, arm = task.config, task.inputs["questions"].path, model.arm
        inference = requests.inference(config, model, endpoint)
        asked = ArmRequests.gathered(config, inference, entries, folder, reasoning)
        request_set = asked.request_set(folder)
        place = ledger.folder_of(ledger.root_of(config.ledger, task.run_dir), inference)
        own = task.draft / _PLANS / f"{arm}-{model.seed}"
        own.mkdir(parents=True)
        plan = request_set.write_plan(Ledger(place), own / "plan.arrow")
        if plan.num_settled:
            settled = f"{plan.num_settled} of {plan.num_requests} answers of {model.name}"
            task.progress.say(f"{settled} are in the ledger, {place}")
        return cls(model=model, inference=inference, requests=asked, request_set=request_set, ledger=place, plan=plan)

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


class _Reasonings:
    """What the answers that count reasoned, of the entries that others go on from, until these are asked.

    Of the ledger's answers, so that a run that was killed goes on from the same ones.
    """

    def __init__(self, config: ExaminationConfig) -> None:
        self._needed = {str(entry.plain) for entry in config.entries() if entry.prefilled}
        self._found: dict[str, dict[str, dict[str, Reasoning]]] = {}

    def of(self, model: str) -> dict[str, dict[str, Reasoning]]:
        """Entry -> question id -> what this model reasoned."""
        return self._found.setdefault(model, {entry: {} for entry in self._needed})

    def keep(self, prediction: Prediction) -> None:
        """Keep an answer's reasoning, where it is needed."""
        if not self._needed or prediction.rotation or prediction.repeat or prediction.prefill:
            return
        own = self.of(prediction.model).get(str(Entry.of(prediction)))
        if own is not None and (made := prefill.reasoning(prediction.text, prediction.letter)):
            own[prediction.question_id] = made


def _prediction(answered: Answered, arm: _Arm) -> Prediction:
    """An answer as a prediction. It is read from the text now, whatever an earlier reader found in it."""
    question, asked, attempt, model = answered.question, answered.request, answered.attempt, arm.model
    entry = Entry.parse(asked.entry)
    is_answer = attempt.status == Status.ANSWERED
    as_asked = conditions.as_asked(question, entry.condition, asked.rotation)
    written = f"{prefill.LEAD}{attempt.text}" if asked.prefill else attempt.text
    reading = Reading(missing=Missing.FAILED_REQUEST)
    if is_answer:
        answer_first, finish_reason = entry.prompt is Prompt.ANSWER_FIRST, attempt.finish_reason
        reading = answers.read(written, as_asked.options, finish_reason=finish_reason, answer_first=answer_first)
    return Prediction(
        request_id=asked.id,
        question_id=question.id,
        source=question.source,
        file=question.file,
        model=model.name,
        arm=model.arm,
        seed=model.seed,
        prompt=entry.prompt,
        num_shots=entry.num_shots,
        condition=entry.condition,
        rotation=asked.rotation,
        repeat=asked.number,
        prefill=asked.variant,
        mistake=arm.requests.mistake(question, entry) if asked.variant == "mistake" else None,
        stratum=question.stratum,
        gold=as_asked.gold,
        status=attempt.status,
        text=attempt.text,
        thoughts=attempt.thoughts,
        letter=reading.letter,
        read_as=reading.how,
        missing=reading.missing,
        text_letter=reading.text_letter,
        lenient_letter=answers.lenient_letter(written, as_asked.options) if is_answer else None,
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
        self._asked: Counter[str] = Counter()
        self._failed: dict[str, Counter[str]] = {}
        self.left_out: dict[str, Counter[str]] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        """Add what was asked in this run, and how long it took."""
        names = ("attempts_now", "output_tokens_now", "seconds_now")
        self._metrics.update({name: metrics[name] for name in names if name in metrics})

    def leave_out(self, entry: Entry, reason: str) -> None:
        """Count a question that an entry leaves out, or does not rotate."""
        self.left_out.setdefault(str(entry), Counter())[reason] += 1

    def count(self, prediction: Prediction) -> None:
        """Count a prediction in."""
        group = str(Entry.of(prediction))
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
        """Raise InputError when too many requests of an entry failed."""
        for entry, reasons in self._failed.items():
            what = f"requests of {entry}"
            failures.check(what, self._asked[entry], reasons, self._config.max_failed_share, self._config.stage)

    def tally(self) -> Tally:
        """The counts as they are sealed."""
        names = ("asked", "answered", "scored", "refused", "failed", "quarantined")
        return Tally(
            rows={name: self._rows[name] for name in names},
            reasons=dict(+self._reasons),
            quarantined=dict(self._quarantined),
            metrics=dict(self._metrics),
            facts={"left_out": {entry: dict(reasons) for entry, reasons in self.left_out.items()}},
        )


def _examined_models(
    endpoint: Endpoint, config: ExaminationConfig, inputs: Mapping[str, Artifact]
) -> dict[Arm, list[ServedModel]]:
    """Arm -> its served models, by seed; raises ClusterError when the endpoint serves something else than what this run
    made."""
    served = {(model.arm, model.seed): model for model in endpoint.models}
    asked = [(arm, seed) for arm in config.by_arm() for seed in range(config.seeds if arm in TAUGHT else 1)]
    for arm, seed in asked:
        if (arm, seed) not in served:
            which = f"{arm} with seed {seed}" if seed else arm
            raise ClusterError(
                f"{endpoint.base_url} serves no model for {which}; it serves "
                f"{', '.join(dict.fromkeys(model.arm for model in endpoint.models))}. Name in deploy.arms what "
                "examination.plan asks, in deploy.seeds its seeds, or an engine in deploy.teacher, and run the stage "
                "deploy again."
            )
        adapter = inputs.get(adapter_of(arm, seed))
        if adapter is not None and adapter.digest != served[arm, seed].digest:
            raise ClusterError(
                f"{served[arm, seed].name} is not the adapter in {adapter.path}; run the stage deploy again."
            )
    return {arm: [served[each] for each in asked if each[0] == arm] for arm in config.by_arm()}
