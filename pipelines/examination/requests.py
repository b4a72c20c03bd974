"""Served model and test question -> the requests of an examination, under each of its conditions."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.examination.config import ExaminationConfig
from pipelines.inference import prompts
from pipelines.inference.backends.engine_config import EngineConfig
from pipelines.inference.conditions import Substitutes
from pipelines.inference.config import InferenceConfig, Model, Sampling
from pipelines.inference.request_set import RequestSet
from pipelines.inference.requests import Request, request
from pipelines.records import TAUGHT, Arm, Condition, Question, Split, tables
from pipelines.records.endpoint import Endpoint, ServedModel


def inference(config: ExaminationConfig, served: ServedModel, endpoint: Endpoint) -> InferenceConfig:
    """How a served model is asked: greedily, and once."""
    return InferenceConfig(
        stage=config.stage,
        model=Model(
            name=served.name,
            digest=served.digest,
            base_digest=served.base_digest,
            revision=served.revision,
            engine=served.engine,
        ),
        sampling=Sampling(max_tokens=config.tokens_for(served.arm)),
        endpoint=served.base_url or endpoint.base_url,
        engine=EngineConfig(max_num_seqs=config.concurrency),
        advice="Start what serves it." if served.base_url else "Serve the run again: python -m serve.app RECIPE --wait",
        answer_first=served.arm is Arm.ANSWER_THEN_RATIONALE,
        timeout_s=config.seconds_for(served.arm),
        max_failed_share=config.max_failed_share,
        batch_size=config.batch_size,
    )


def examined_questions(questions_artifact: Path) -> Iterator[Question]:
    """The questions that examine, in their order."""
    return tables.stream(questions_artifact, Question, split=Split.TEST)


def request_set(
    config: ExaminationConfig,
    own: InferenceConfig,
    arm: Arm,
    conditions: Sequence[Condition],
    questions_artifact: Path,
    substitutes: Substitutes,
) -> RequestSet:
    """The requests to one model: every test question under each condition."""
    final_line = config.final_line and arm not in TAUGHT

    def requests_of(question: Question) -> list[Request]:
        return [_request(question, condition) for condition in conditions]

    def _request(question: Question, condition: Condition) -> Request:
        caption = substitutes.captions[question.id] if condition is Condition.CAPTIONED else None
        shown = substitutes.shuffled_from[question.id] if condition is Condition.SHUFFLED else question
        return request(own, shown, prompts.prompt(question, arm, caption, final_line=final_line), condition)

    return RequestSet(own, lambda: examined_questions(questions_artifact), requests_of)
