"""Questions that may examine models and never teach one: the check that every stage makes before it teaches."""

from collections.abc import Iterable

from infra.errors import InputError
from pipelines.records import Question


def check_may_teach(questions: Iterable[Question]) -> None:
    """Raise InputError when one of these questions is of a source that may examine models and never teach one."""
    for question in questions:
        if question.evaluation_only:
            raise InputError(
                f"Question {question.id} of {question.source} {question.file} is for evaluation alone, so nothing may "
                f"learn from it; it came with split `{question.split}`. Give that source the split `test`."
            )
