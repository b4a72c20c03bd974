"""Predictions and questions -> answer sheets: what each model answered to each question of a set, in a few bytes."""

import dataclasses
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.examination.measures.clusters import Clusters, cluster_codes
from pipelines.inference.answers import Missing
from pipelines.records import LETTERS, Arm, Condition, Prediction, Question
from pipelines.records.entries import Entry, Prompt

NOT_ASKED, NO_LETTER = -2, -1
KINDS = tuple(Missing)  # why there is no letter
_NUMBERS: dict[str | None, int] = {letter: number for number, letter in enumerate(LETTERS)} | {None: NO_LETTER}


class Answered(NamedTuple):
    """What a sheet takes of a prediction, under the same names: all but its texts, which are most of it."""

    question_id: str
    source: str
    file: str
    model: str
    arm: str
    seed: int
    prompt: str
    num_shots: int
    condition: str
    rotation: int
    repeat: int
    prefill: str
    mistake: str | None
    gold: str
    letter: str | None
    missing: str | None
    text_letter: str | None
    lenient_letter: str | None


class Asked(NamedTuple):
    """Who was asked how: the fit of an arm by its seed's number, the words, after so many examples, under a condition,
    with the options moved up by `rotation` places, for which time (`repeat`, from 0), and going on from which beginning
    of an answer (`prefill`)."""

    model: str
    arm: str
    seed: int
    prompt: str
    num_shots: int
    condition: str
    rotation: int
    repeat: int
    prefill: str

    @classmethod
    def of(cls, prediction: Prediction | Answered) -> "Asked":
        """How a prediction's question was asked."""
        return cls(
            prediction.model,
            prediction.arm,
            prediction.seed,
            prediction.prompt,
            prediction.num_shots,
            prediction.condition,
            prediction.rotation,
            prediction.repeat,
            prediction.prefill,
        )

    @property
    def entry(self) -> str:
        """As a plan names it, without its rotations."""
        named = Entry(
            arm=Arm(self.arm),
            prompt=Prompt(self.prompt),
            num_shots=self.num_shots,
            prefilled=bool(self.prefill),
            condition=Condition(self.condition),
        )
        return str(named)

    @property
    def is_main(self) -> bool:
        """What counts: the options as they are, the first answer, from its beginning."""
        return not (self.rotation or self.repeat or self.prefill)

    def under(self, condition: str) -> "Asked":
        """The same under another condition."""
        return self._replace(condition=condition)


@dataclasses.dataclass(frozen=True, eq=False)
class AnswerSheet:
    """The answers of one model that was asked in one way, (n,) int8 in the order of the set's questions.

    letters: numbers from 0, NO_LETTER, or NOT_ASKED. gold: the right letter as it stood in the question asked, where
    it was asked. missing: number among KINDS where there is no letter, else -1. text_letters: as the option's text says
    where it is given, else the letter. lenient_letters: what a scorer says that takes the nearest option. mistakes: the
    letter that a mistake in the answer's beginning names, else NO_LETTER.
    """

    key: Asked
    letters: NDArray[np.int8]
    gold: NDArray[np.int8]
    missing: NDArray[np.int8]
    text_letters: NDArray[np.int8]
    lenient_letters: NDArray[np.int8]
    mistakes: NDArray[np.int8]

    @property
    def asked(self) -> NDArray[np.bool_]:
        """Which questions were asked."""
        return np.asarray(self.letters != NOT_ASKED)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which answers are right; never one without a letter."""
        return np.asarray((self.letters >= 0) & (self.letters == self.gold))


@dataclasses.dataclass(frozen=True, eq=False)
class ExaminedSet:
    """The questions of one file of a source, (n,), and what was answered to them.

    ids: of the questions. clusters: codes of what is not independent. gold: right letters as numbers. lengths: (n, K)
    characters of each option, -1 where there is none. strata, topics: number of each question's among stratum_names,
    topic_names. sheets: in the order of arms, conditions, prompts, seeds and models.
    """

    source: str
    file: str
    ids: tuple[str, ...]
    clusters: NDArray[np.int64]
    gold: NDArray[np.int8]
    lengths: NDArray[np.int32]
    strata: NDArray[np.int32]
    stratum_names: tuple[str, ...]
    topics: NDArray[np.int32]
    topic_names: tuple[str, ...]
    sheets: dict[Asked, AnswerSheet]

    @property
    def num_options(self) -> NDArray[np.int64]:
        """Of each question."""
        return np.asarray((self.lengths >= 0).sum(axis=1))

    def of(self, inside: NDArray[np.bool_] | slice = slice(None)) -> Clusters:
        """The clusters of some of the questions, or of all."""
        return Clusters.of(self.clusters[inside])


def examined_sets(
    predictions: Iterable[Prediction | Answered], questions: Iterable[Question], clusters_by: str = "article"
) -> list[ExaminedSet]:
    """One set for each file of a source, in the order in which they were asked, those that nobody was asked last.

    Predictions are read once and not kept. Raises ValueError for one to a question that is not there, or a second one
    of the same model under the same condition to the same question.
    """
    groups: dict[tuple[str, str], list[Question]] = {}
    for question in questions:
        groups.setdefault((question.source, question.file), []).append(question)
    filled = {key: _Filled(group) for key, group in groups.items()}
    asked: dict[tuple[str, str], None] = {}
    for prediction in predictions:
        key = (prediction.source, prediction.file)
        if key not in filled:
            raise ValueError(f"question {prediction.question_id} of {key} was answered, and is not among the questions")
        filled[key].add(prediction)
        asked[key] = None
    unasked = [key for key in groups if key not in asked]
    return [_examined(key, groups[key], filled[key], clusters_by) for key in [*asked, *unasked]]


class _Filled:
    """The sheets of a set while they are filled: columns of bytes, which take a value sooner than NumPy's do."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self._numbers = {question.id: number for number, question in enumerate(questions)}
        if len(self._numbers) < len(questions):
            raise ValueError("two questions have the same id")
        self._columns: dict[Asked, _Columns] = {}

    def add(self, prediction: Prediction | Answered) -> None:
        """Write an answer down."""
        key = Asked.of(prediction)
        columns = self._columns.get(key)
        if columns is None:
            columns = self._columns[key] = _Columns.empty(len(self._numbers))
        at = self._numbers.get(prediction.question_id)
        if at is None:
            raise ValueError(f"question {prediction.question_id} was answered, and is not there")
        if columns.letters[at] != NOT_ASKED:
            raise ValueError(f"{key.model} as {key.entry} answers question {prediction.question_id} twice")
        columns.letters[at] = letter = _NUMBERS[prediction.letter]
        columns.gold[at] = _NUMBERS[prediction.gold]
        if letter < 0:
            columns.missing[at] = KINDS.index(prediction.missing or Missing.NO_ANSWER)
        columns.text_letters[at] = _NUMBERS[prediction.text_letter or prediction.letter]
        columns.lenient_letters[at] = _NUMBERS[prediction.lenient_letter]
        columns.mistakes[at] = _NUMBERS[prediction.mistake]

    def sheets(self) -> dict[Asked, AnswerSheet]:
        """In the order of arms, conditions, prompts and models."""
        return {key: self._columns[key].sheet(key) for key in sorted(self._columns, key=_place)}


class _Columns(NamedTuple):
    letters: "array[int]"
    gold: "array[int]"
    missing: "array[int]"
    text_letters: "array[int]"
    lenient_letters: "array[int]"
    mistakes: "array[int]"

    @classmethod
    def empty(cls, length: int) -> "_Columns":
        """Of questions that were not asked."""
        return cls(
            *(array("b", [value]) * length for value in (NOT_ASKED, NO_LETTER, -1, NOT_ASKED, NOT_ASKED, NO_LETTER))
        )

    def sheet(self, key: Asked) -> AnswerSheet:
        """The same as arrays."""
        return AnswerSheet(key, *(np.frombuffer(column, dtype=np.int8) for column in self))


def _place(key: Asked) -> tuple[Any, ...]:
    arm, condition = list(Arm).index(Arm(key.arm)), list(Condition).index(Condition(key.condition))
    return arm, condition, key.prompt, key.num_shots, key.seed, key.model, key.rotation, key.repeat, key.prefill


def _examined(key: tuple[str, str], questions: Sequence[Question], filled: _Filled, clusters_by: str) -> ExaminedSet:
    stratum_names, strata = _coded([question.stratum for question in questions])
    topic_names, topics = _coded([question.topic for question in questions])
    lengths = np.full((len(questions), max(len(q.options) for q in questions)), -1, dtype=np.int32)
    for row, question in enumerate(questions):
        lengths[row, : len(question.options)] = [len(option) for option in question.options]
    return ExaminedSet(
        *key,
        ids=tuple(question.id for question in questions),
        clusters=cluster_codes(questions, clusters_by),
        gold=np.array([_NUMBERS[question.gold] for question in questions], dtype=np.int8),
        lengths=lengths,
        strata=strata,
        stratum_names=stratum_names,
        topics=topics,
        topic_names=topic_names,
        sheets=filled.sheets(),
    )


def _coded(names: Sequence[str]) -> tuple[tuple[str, ...], NDArray[Any]]:
    """The different names, sorted, and the number of each name among them."""
    different = sorted(set(names))
    numbers = {name: number for number, name in enumerate(different)}
    return tuple(different), np.array([numbers[name] for name in names], dtype=np.int32)
