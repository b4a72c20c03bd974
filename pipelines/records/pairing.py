"""Questions and rows about them, both in the questions' order -> each question with its rows, a question at a time."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from infra.errors import InputError
from pipelines.records import Question, Split, tables


class _AboutQuestion(Protocol):
    @property
    def question_id(self) -> str: ...


R = TypeVar("R", bound=_AboutQuestion)


def explained_questions(folder: Path) -> Iterator[Question]:
    """The questions that the teacher explains, in their order: students train on those of the split `train`, and are
    watched on those of `validation` meanwhile. folder: of the questions' table."""
    return (question for question in tables.stream(folder, Question) if question.split != Split.TEST)


def by_question(folder: Path, rows: Iterator[R]) -> Iterator[tuple[Question, list[R]]]:
    """Each question that rows are about, with all of its rows, in their order.

    folder: of the questions' table. Raises InputError for a row about a question that is not explained, and for one
    that is out of the questions' order.
    """
    questions = explained_questions(folder)
    for question_id, own in itertools.groupby(rows, lambda row: row.question_id):
        question = next((question for question in questions if question.id == question_id), None)
        if question is None:
            raise InputError(_why_not(folder, question_id))
        yield question, list(own)


def _why_not(folder: Path, question_id: str) -> str:
    if any(question.id == question_id for question in explained_questions(folder)):
        return (
            f"The rows about question {question_id} are not together, or not in the order of {folder}. "
            "Run the stage that wrote them again."
        )
    return (
        f"A row is about question {question_id}, and {folder} has no such question for training or validation. "
        "Run the flow again."
    )
