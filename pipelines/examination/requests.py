"""Served model and test question -> the requests of an examination: one or more for each entry of its plan."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from infra.digests import digest_json
from pipelines.examination.config import ExaminationConfig
from pipelines.examination.few_shot import FewShot
from pipelines.inference import conditions, prompts
from pipelines.inference.backends.engine_config import EngineConfig
from pipelines.inference.conditions import Substitutes
from pipelines.inference.config import InferenceConfig, Model, Sampling
from pipelines.inference.request_set import RequestSet
from pipelines.inference.requests import Request, request
from pipelines.records import TAUGHT, Arm, Condition, Question, Split, tables
from pipelines.records.endpoint import Endpoint, ServedModel
from pipelines.records.entries import Entry
from pipelines.records.option_references import refer_to_others

NOT_ROTATED = "options_refer_to_others_so_not_rotated"
_DRAW_DIGITS = 8


def inference(config: ExaminationConfig, served: ServedModel, endpoint: Endpoint) -> InferenceConfig:
    """How a served model is asked: greedily, and once."""
    advice = "Start what serves it." if served.base_url else "Serve the run again: python -m serve.app RECIPE --wait"
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
        advice="Name another one: --model NAME" if config.model else advice,
        answer_first=served.arm is Arm.ANSWER_THEN_RATIONALE,
        timeout_s=config.seconds_for(served.arm),
        max_failed_share=config.max_failed_share,
        batch_size=config.batch_size,
    )


def examined_questions(questions_artifact: Path) -> Iterator[Question]:
    """The questions that examine, in their order."""
    return tables.stream(questions_artifact, Question, split=Split.TEST)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArmRequests:
    """What one model is asked about each question.

    entries: those of its arm. own: how it is asked. few_shot: None where no entry shows examples.
    """

    config: ExaminationConfig
    own: InferenceConfig
    entries: Sequence[Entry]
    substitutes: Substitutes
    few_shot: FewShot | None

    @classmethod
    def gathered(
        cls, config: ExaminationConfig, own: InferenceConfig, entries: Sequence[Entry], questions_artifact: Path
    ) -> "ArmRequests":
        """With what these entries need of the questions. Raises InputError when a question lacks it."""
        asked = examined_questions(questions_artifact)
        shown = {entry.condition for entry in entries}
        shots = any(entry.num_shots for entry in entries)
        return cls(
            config=config,
            own=own,
            entries=entries,
            substitutes=conditions.substitutes(questions_artifact, asked, shown, config.seed),
            few_shot=FewShot.drawn(questions_artifact, config.few_shot_source, config.seed) if shots else None,
        )

    def request_set(self, questions_artifact: Path) -> RequestSet:
        """The requests about every test question. Raises InputError, as it is gone through, where examples lack."""
        return RequestSet(self.own, lambda: examined_questions(questions_artifact), self.of)

    def of(self, question: Question) -> list[Request]:
        """The requests about a question: by entry, then by rotation, a repeated one after its first."""
        repeats = 1 + is_repeated(question.id, self.config)
        return [
            self._request(question, entry, rotation, repeat)
            for entry in self.entries
            if conditions.why_not_asked(question, entry.condition, self.substitutes) is None
            for rotation in range(num_rotations(question, entry))
            for repeat in range(1 if rotation else repeats)
        ]

    def left_out(self, question: Question) -> Iterator[tuple[Entry, str]]:
        """The entries that this question is not asked in, or not in rotation, and why."""
        for entry in self.entries:
            if reason := conditions.why_not_asked(question, entry.condition, self.substitutes):
                yield entry, reason
            elif entry.circular and num_rotations(question, entry) == 1:
                yield entry, NOT_ROTATED

    def _request(self, question: Question, entry: Entry, rotation: int, repeat: int) -> Request:
        condition = entry.condition
        final_line = self.config.final_line and entry.arm not in TAUGHT
        as_asked = conditions.as_asked(question, condition, rotation)
        caption = self.substitutes.captions[question.id] if condition.tells_caption else None
        words = prompts.words(as_asked, entry.prompt, caption, final_line=final_line)
        return request(
            self.own,
            self._shown(question, condition),
            words.user,
            condition,
            repeat,
            system=words.system,
            examples=self.few_shot.before(question, entry, final_line=final_line)
            if self.few_shot and entry.num_shots
            else (),
            options=() if as_asked is question else as_asked.options,
            entry=str(dataclasses.replace(entry, circular=False)),
            rotation=rotation,
        )

    def _shown(self, question: Question, condition: Condition) -> Question:
        """The question whose images are shown."""
        if condition is Condition.SHUFFLED:
            return self.substitutes.shuffled_from[question.id]
        if condition is Condition.SHUFFLED_IN_TASK:
            return self.substitutes.in_task[question.id] or question
        return question


def num_rotations(question: Question, entry: Entry) -> int:
    """How often an entry asks a question, each time with its options in another place."""
    return len(question.options) if entry.circular and not refer_to_others(question.options) else 1


def is_repeated(question_id: str, config: ExaminationConfig) -> bool:
    """Whether a question is among the share that is asked once more; the same ones in every run and entry."""
    place = int(digest_json([config.seed, "repeat", question_id])[:_DRAW_DIGITS], 16)
    return bool(place < config.repeat_share * 16**_DRAW_DIGITS)
