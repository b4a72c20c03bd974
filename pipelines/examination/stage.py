"""Served model -> predictions: the endpoint is asked every test question over HTTP, by arm and condition.

Teacher, untouched base and every student go through the same code, greedily, and nothing but their name tells them
apart.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack

from infra.errors import ClusterError, InputError
from infra.manifest import Artifact, Tally
from infra.stage import Task
from pipelines.examination.config import ExamineConfig
from pipelines.inference import answers, conditions, prompts
from pipelines.inference.client import API_KEY_VARIABLE, Answer, Client, Endpoint, RequestError, ServedModel
from pipelines.inference.conditions import Showing
from pipelines.questions import stage as questions
from pipelines.records import TAUGHT, Arm, Condition, Prediction, Question, Split, tables

_MAX_FAILED_SHARE = 0.02


def run(task: Task) -> Tally:
    """Carry out the plan; write `predictions.parquet`, in the plan's order and the questions' order."""
    config: ExamineConfig = task.config
    endpoint = Endpoint.read(task.run_dir / "endpoint")
    models = _examined_models(endpoint, config, task.inputs)
    folder = task.inputs["questions"].path
    asked = questions.of_split(folder, Split.TEST)
    if not asked:
        raise InputError("The questions have none with split `test`, so there is nothing to examine.")
    plan = [(models[Arm(arm)], Condition(condition)) for arm, condition in _entries(config)]
    showing = conditions.prepare(folder, asked, {condition for _, condition in plan}, config.seed)
    total = len(plan) * len(asked)
    count = _counter(lambda done, unscored: task.progress(done, total, "answers", unscored=unscored))

    async def examine() -> list[Prediction]:
        async with AsyncExitStack() as running:
            clients = {}
            for model in {model for model, _ in plan}:
                clients[model] = await running.enter_async_context(_client(model, endpoint, config))
                await _check_endpoint(clients[model], model.base_url or endpoint.base_url)
            calls = (
                _predict(clients[model], model, condition, question, showing, config)
                for model, condition in plan
                for question in asked
            )
            return await _in_order(calls, config.concurrency, count)

    predictions = asyncio.run(examine())
    _check_failures(predictions)
    tables.write(task.draft, Prediction, predictions)
    return _tally(predictions)


def _client(model: ServedModel, endpoint: Endpoint, config: ExamineConfig) -> Client:
    """A client of the endpoint that has a model, as patient as that model's arm needs it."""
    return Client(
        model.base_url or endpoint.base_url,
        concurrency=config.concurrency,
        timeout_s=config.seconds_for(model.arm),
        api_key=os.environ.get(API_KEY_VARIABLE),
    )


async def _in_order(
    calls: Iterator[Coroutine[None, None, Prediction]], num_at_once: int, count: Callable[[Prediction], None]
) -> list[Prediction]:
    """What the calls return, in their order. Each is made when its turn comes, so that few exist at a time."""
    numbered = enumerate(calls)
    predictions: dict[int, Prediction] = {}

    async def work() -> None:
        for number, call in numbered:
            predictions[number] = await call
            count(predictions[number])

    await asyncio.gather(*(work() for _ in range(num_at_once)))
    return [predictions[number] for number in range(len(predictions))]


async def _predict(
    client: Client,
    model: ServedModel,
    condition: Condition,
    question: Question,
    showing: Showing,
    config: ExamineConfig,
) -> Prediction:
    error, arm = None, Arm(model.arm)
    shows_line = config.final_line and arm not in TAUGHT
    prompt = prompts.prompt(question, arm, showing.caption(question, condition), final_line=shows_line)
    answer_first = arm is Arm.ANSWER_THEN_RATIONALE
    try:
        answer = await client.ask(
            model.name, prompt, lambda: showing.image_urls(question, condition), config.tokens_for(arm)
        )
    except RequestError as failure:
        answer, error = Answer("", "error", 0), str(failure)
    return Prediction(
        question_id=question.id,
        source=question.source,
        file=question.file,
        model=model.name,
        arm=model.arm,
        condition=condition,
        stratum=question.stratum,
        gold=question.gold,
        text=answer.text,
        letter=answers.read_letter(answer.text, question.options, answer_first=answer_first) if error is None else None,
        finish_reason=answer.finish_reason,
        num_output_tokens=answer.num_output_tokens,
        error=error,
    )


def _examined_models(
    endpoint: Endpoint, config: ExamineConfig, inputs: Mapping[str, Artifact]
) -> dict[Arm, ServedModel]:
    """Arm -> served model; raises ClusterError when the endpoint serves something else than what this run made."""
    served = {Arm(model.arm): model for model in endpoint.models}
    for arm in {Arm(arm) for arm, _ in _entries(config)}:
        if arm not in served:
            raise ClusterError(
                f"{endpoint.base_url} serves no model for {arm}; it serves {', '.join(served)}. Name in deploy.arms "
                "what examine.plan asks, or an engine in deploy.teacher, and run the stage deploy again."
            )
        adapter = inputs.get(f"adapters/{arm}")
        if adapter is not None and adapter.digest != served[arm].digest:
            raise ClusterError(f"{served[arm].name} is not the adapter in {adapter.path}; run the stage deploy again.")
    return served


def _entries(config: ExamineConfig) -> list[tuple[str, str]]:
    return [(entry.partition("/")[0], entry.partition("/")[2]) for entry in config.plan]


async def _check_endpoint(client: Client, base_url: str) -> None:
    try:
        await client.check()
    except RequestError as error:
        raise ClusterError(
            f"Nothing answers at {base_url} ({error}). Serve the run again: python -m serve.app RECIPE --wait"
        ) from error


def _counter(show: Callable[[int, int], None]) -> Callable[[Prediction], None]:
    done = unscored = 0

    def count(prediction: Prediction) -> None:
        nonlocal done, unscored
        done += 1
        unscored += prediction.letter is None
        show(done, unscored)

    return count


def _check_failures(predictions: list[Prediction]) -> None:
    failures = Counter(prediction.error for prediction in predictions if prediction.error)
    if failures.total() > _MAX_FAILED_SHARE * len(predictions):
        raise ClusterError(f"The endpoint failed {failures.total()} of {len(predictions)} requests: {dict(failures)}.")


def _tally(predictions: list[Prediction]) -> Tally:
    reasons = Counter(p.error or "no_answer" for p in predictions if p.letter is None)
    return Tally(
        rows={"asked": len(predictions), "scored": len(predictions) - reasons.total()},
        reasons=dict(reasons),
        figures={"output_tokens": sum(p.num_output_tokens for p in predictions)},
    )
