"""Question -> the requests that explain it, to the teacher that the recipe names."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from infra import materials
from infra.digests import digest_json
from pipelines.inference import conditions, prompts
from pipelines.inference.config import InferenceConfig, Model, Sampling
from pipelines.inference.request_set import RequestSet
from pipelines.inference.requests import Request, request
from pipelines.records import Arm, Condition, Question, pairing
from pipelines.records.evaluation_only import check_may_teach
from pipelines.teaching.config import TeachConfig

_DRAW_DIGITS = 8


def inference(config: TeachConfig) -> InferenceConfig:
    """How the teacher is asked. Raises InputError when its folder is not there."""
    return InferenceConfig(
        stage=config.stage,
        model=Model(
            name=config.teacher,
            digest=teacher_digest(config),
            revision=config.revision,
            engine={} if config.endpoint else config.engine.answer_settings(),
        ),
        sampling=Sampling(
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            max_tokens=config.max_tokens,
            seed=config.seed,
            logprobs=True,
            top_logprobs=config.top_logprobs,
        ),
        endpoint=config.endpoint,
        engine=config.engine,
        advice="Start what serves the teacher, or name it: --set teach.endpoint=URL --set teach.teacher=NAME",
        attempts=config.attempts,
        timeout_s=config.timeout_s,
        max_failed_share=config.max_failed_share,
        batch_size=config.batch_size,
    )


def teacher_digest(config: TeachConfig) -> str:
    """Digest of the teacher: of its folder, or of its name where it is elsewhere, and of the revision that is named."""
    if not config.endpoint:
        return materials.digest(config, "teacher")
    digest = digest_json({"id": config.teacher})
    return digest_json([digest, config.revision]) if config.revision else digest


def request_set(config: TeachConfig, own: InferenceConfig, questions_artifact: Path) -> RequestSet:
    """The requests of every question of the splits `train` and `validation`.

    Raises InputError for a question that may only examine.
    """

    def questions() -> Iterator[Question]:
        for question in pairing.explained_questions(questions_artifact):
            check_may_teach([question])
            yield question

    # Only the questions that are asked under other conditions too are held, since any of them may lend its images.
    probed = (question for question in questions() if config.grounding_share and is_probed(question.id, config))
    shuffled_from = conditions.shuffled_from(probed, config.seed) if config.grounding_share else {}
    return RequestSet(own, lambda: ((each, requests_of(each, config, own, shuffled_from)) for each in questions()))


def requests_of(
    question: Question, config: TeachConfig, own: InferenceConfig, shuffled_from: Mapping[str, Question | None]
) -> list[Request]:
    """Everything that a question is asked.

    shuffled_from: question id -> the question whose images are shown in the place of its own, for questions that are
    asked under other conditions too. The hinted request comes last: it is sent when no other was answered rightly.
    """
    prompt = prompts.prompt(question, Arm.TEACHER, final_line=config.final_line)
    numbers = range(config.num_rationales)
    asked = [request(own, question, prompt, Condition.REAL, number, needs_answer=True) for number in numbers]
    other = shuffled_from.get(question.id)
    if other is not None:
        asked.append(request(own, question, prompt, Condition.ABSENT))
        asked.append(request(own, other, prompt, Condition.SHUFFLED))
    if config.rationalise:
        hinted = prompts.prompt(question, Arm.TEACHER, hinted=True, final_line=config.final_line)
        asked.append(request(own, question, hinted, Condition.REAL, hinted=True, needs_answer=True))
    return asked


def is_probed(question_id: str, config: TeachConfig) -> bool:
    """Whether a question is among the share that is asked under other conditions too; the same ones in every run."""
    place = int(digest_json([config.seed, "grounding", question_id])[:_DRAW_DIGITS], 16)
    return bool(place < config.grounding_share * 16**_DRAW_DIGITS)
