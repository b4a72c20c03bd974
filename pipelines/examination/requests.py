"""Served model and test question -> the requests of an examination: one or more for each entry of its plan."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from infra.digests import digest_json
from pipelines.examination import prefill
from pipelines.examination.config import ExaminationConfig
from pipelines.examination.few_shot import FewShot
from pipelines.examination.prefill import Reasoning
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
NO_REASONING = "no_reasoning_to_go_on_from"
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

    entries: those of its arm. own: how it is asked. few_shot: None where no entry shows examples. reasoning: plain
    entry -> question id -> what was reasoned, for entries that go on from it.
    """

    config: ExaminationConfig
    own: InferenceConfig
    entries: Sequence[Entry]
    substitutes: Substitutes
    few_shot: FewShot | None
    reasoning: Mapping[str, Mapping[str, Reasoning]] = dataclasses.field(default_factory=dict)

    @classmethod
    def gathered(
        cls,
        config: ExaminationConfig,
        own: InferenceConfig,
        entries: Sequence[Entry],
        questions_artifact: Path,
        reasoning: Mapping[str, Mapping[str, Reasoning]],
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
            reasoning=reasoning,
        )

    def request_set(self, questions_artifact: Path) -> RequestSet:
        """The requests about every test question. Raises InputError, as it is gone through, where examples lack."""
        return RequestSet(self.own, lambda: ((each, self.of(each)) for each in examined_questions(questions_artifact)))

    def of(self, question: Question) -> list[Request]:
        """The requests about a question: by entry, then by rotation, a repeated one after its first."""
        repeats = 1 + is_repeated(question.id, self.config)
        return [
            self._request(question, entry, rotation, repeat, *beginning)
            for entry in self.entries
            if self._why_not_asked(question, entry) is None
            for beginning in self._beginnings(question, entry)
            for rotation in range(num_rotations(question, entry))
            for repeat in range(1 if rotation or entry.prefilled else repeats)
        ]

    def mistake(self, question: Question, entry: Entry) -> str:
        """The letter that the mistake in a prefilled answer names."""
        return prefill.mistake(question, self.reasoning[str(entry.plain)][question.id], self.config.seed)

    def left_out(self, question: Question) -> Iterator[tuple[Entry, str]]:
        """The entries that this question is not asked in, or not in rotation, and why."""
        for entry in self.entries:
            if reason := self._why_not_asked(question, entry):
                yield entry, reason
            elif entry.circular and num_rotations(question, entry) == 1:
                yield entry, NOT_ROTATED

    def _why_not_asked(self, question: Question, entry: Entry) -> str | None:
        if reason := conditions.why_not_asked(question, entry.condition, self.substitutes):
            return reason
        lacks = entry.prefilled and question.id not in self.reasoning.get(str(entry.plain), {})
        return NO_REASONING if lacks else None

    def _beginnings(self, question: Question, entry: Entry) -> Iterable[tuple[str, str]]:
        """The beginnings of an answer that are given, each with its name; one without any where none is."""
        if not entry.prefilled:
            return [("", "")]
        other = self._others[str(entry.plain)].get(question.id)
        own = self.reasoning[str(entry.plain)][question.id]
        as_asked = conditions.as_asked(question, entry.condition)
        return prefill.beginnings(as_asked, own, other, self.config.seed).items()

    @functools.cached_property
    def _others(self) -> Mapping[str, Mapping[str, Reasoning]]:
        return {entry: prefill.in_turn(found, self.config.seed) for entry, found in self.reasoning.items()}

    def _request(
        self, question: Question, entry: Entry, rotation: int, repeat: int, variant: str, beginning: str
    ) -> Request:
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
            prefill=beginning,
            variant=variant,
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
