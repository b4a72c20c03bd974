"""Verified rationale -> training example: what each arm reads and learns to write."""

from collections.abc import Iterable

from infra import stage
from infra.errors import InputError
from infra.manifest import Tally
from infra.stage import Task
from pipelines import prompts, tables
from pipelines.records import Arm, Question, TrainingExample, Verdict


def compose(question: Question, verdict: Verdict, arm: Arm) -> TrainingExample:
    """The example of an arm. Both arms learn from the same questions, those with an accepted rationale."""
    rationale = verdict.body if arm is Arm.RATIONALE_THEN_ANSWER else None
    return TrainingExample(
        question_id=question.id,
        arm=arm,
        images=question.images,
        image_digests=question.image_digests,
        prompt=prompts.prompt(question, arm),
        target=prompts.target(question, rationale),
    )


def check_may_teach(questions: Iterable[Question]) -> None:
    """Raise InputError when one of these questions is of a source that may examine models and never teach one."""
    for question in questions:
        if question.evaluation_only:
            raise InputError(
                f"Question {question.id} of {question.source} {question.file} is for evaluation alone, so nothing may "
                f"learn from it; it came with split `{question.split}`. Give that source the split `test`."
            )


def run(task: Task) -> Tally:
    """Write `examples.parquet` for one arm."""
    questions = {question.id: question for question in tables.read(task.inputs["questions"].path, Question)}
    verdicts = tables.read(task.inputs["verdicts"].path, Verdict)
    check_may_teach(questions[verdict.question_id] for verdict in verdicts)
    (arm,) = task.config.arms
    examples = [compose(questions[v.question_id], v, Arm(arm)) for v in verdicts if v.accepted]
    tables.write(task.draft, TrainingExample, examples)
    return Tally(
        rows={"verdicts": len(verdicts), "examples": len(examples)},
        reasons={"not_accepted": len(verdicts) - len(examples)},
    )


if __name__ == "__main__":
    stage.main("compose", "pipelines")
