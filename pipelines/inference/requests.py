"""Question -> the requests that explain it: what is asked, with which images, under which digest."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from infra import materials
from infra.digests import digest_json
from pipelines.inference import prompts
from pipelines.records import Arm, Condition, Question
from pipelines.teaching.config import TeachConfig

_ID_DIGITS = 32
_SEED_DIGITS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
    """Who is asked, and how: what the digest of a request holds beside the question.

    digest: of the model folder, or of the hub's id. sampling: the settings that decide what is written.
    """

    name: str
    digest: str
    sampling: Mapping[str, Any]

    @classmethod
    def of(cls, config: TeachConfig, digest: str) -> "Teacher":
        """The teacher of a recipe."""
        kept = ("top_logprobs",) if config.top_logprobs else ()  # an answer that has none is another answer
        names = ("temperature", "top_p", "top_k", "max_tokens", "seed", *kept)
        name = f"{config.teacher}@{config.revision}" if config.revision else config.teacher
        return cls(name=name, digest=digest, sampling={each: getattr(config, each) for each in names})

    @property
    def sampling_digest(self) -> str:
        """Digest of the settings, the recipe's seed among them."""
        return digest_json(dict(self.sampling))


def teacher_digest(config: TeachConfig) -> str:
    """Digest of the teacher: of its folder, or of its name where it is elsewhere, and of the revision that is named."""
    if not config.endpoint:
        return materials.digest(config, "teacher")
    digest = digest_json({"id": config.teacher})
    return digest_json([digest, config.revision]) if config.revision else digest


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One thing to ask the teacher.

    id: digest of all that decides the answer, so that the same request is the same row in every run. condition,
    number, hinted: as in Rationale. images: paths below the questions artifact, in order.
    """

    id: str
    condition: str
    number: int
    hinted: bool
    prompt: str
    images: tuple[str, ...]
    image_digests: tuple[str, ...]

    @property
    def is_probe(self) -> bool:
        """Whether it is asked only to find out if the images are needed."""
        return self.condition != Condition.REAL

    def seed(self, attempt: int) -> int:
        """The seed of an attempt, from 0: it depends on what is asked, never on its place in a run."""
        return int(digest_json([self.id, attempt])[:_SEED_DIGITS], 16)


def requests_of(
    question: Question, config: TeachConfig, teacher: Teacher, donor: Question | None = None
) -> list[Request]:
    """Everything that a question is asked for.

    donor: the question whose images are shown in the place of its own, where the teacher is tried for grounding; None
    where it is not. The hinted request comes last, and is only sent when no other one was answered rightly.
    """
    asked = [_request(question, config, teacher, Condition.REAL, number) for number in range(config.num_rationales)]
    if donor is not None:
        asked.append(_request(question, config, teacher, Condition.ABSENT))
        asked.append(_request(question, config, teacher, Condition.SHUFFLED, shown=donor))
    if config.rationalise:
        asked.append(_request(question, config, teacher, Condition.REAL, hinted=True))
    return asked


def is_probed(question_id: str, config: TeachConfig) -> bool:
    """Whether a question is among the share that is tried for grounding; the same ones in every run."""
    place = int(digest_json([config.seed, "grounding", question_id])[:_SEED_DIGITS], 16)
    return bool(place < config.grounding_share * 16**_SEED_DIGITS)


def prompt_digest(prompt: str) -> str:
    """Digest of a prompt's words."""
    return digest_json(prompt)


def _request(
    question: Question,
    config: TeachConfig,
    teacher: Teacher,
    condition: Condition,
    number: int = 0,
    *,
    hinted: bool = False,
    shown: Question | None = None,
) -> Request:
    shown = shown or question
    images, digests = ((), ()) if condition is Condition.ABSENT else (shown.images, shown.image_digests)
    prompt = prompts.prompt(question, Arm.TEACHER, hinted=hinted, final_line=config.final_line)
    identity = {
        "images": digests,
        "prompt": prompt,
        # Another question's image with the words of this one may be a question too, and is then asked as that.
        "condition": condition,
        "teacher": teacher.digest,
        "sampling": teacher.sampling,
        "number": number,
    }
    return Request(
        id=digest_json(identity)[:_ID_DIGITS],
        condition=condition,
        number=number,
        hinted=hinted,
        prompt=prompt,
        images=images,
        image_digests=digests,
    )
