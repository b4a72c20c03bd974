"""Verified rationale -> training example: what each arm reads and learns to write."""

from collections import Counter
from collections.abc import Iterable, Sequence

from infra import stage
from infra.errors import InputError
from infra.manifest import Tally
from infra.stage import Task
from pipelines import pairing, prompts, tables
from pipelines.records import Arm, Question, Split, TrainingExample, Verdict

NOT_ACCEPTED, NOT_SELECTED, SAME_QUESTION = "not_accepted", "not_selected", "same_question"


def compose(question: Question, verdict: Verdict, arm: Arm) -> TrainingExample:
    """The example of an arm. Both arms learn from the same questions, those with a selected rationale."""
    rationale = verdict.body if arm is Arm.RATIONALE_THEN_ANSWER else None
    return TrainingExample(
        question_id=question.id,
        rationale_id=verdict.rationale_id,
        arm=arm,
        weight=verdict.weight,
        images=question.images,
        image_digests=question.image_digests,
        prompt=prompts.prompt(question, arm),
        target=prompts.target(question, rationale),
    )


def taught(verdicts: Sequence[Verdict], arm: Arm) -> list[Verdict]:
    """Those of a question's verdicts that an arm learns from: all selected ones, an example each.

    Without their reasoning they are all one example, which the answer-only arm learns once, with the largest of the
    weights.
    """
    selected = [verdict for verdict in verdicts if verdict.selected]
    if arm is Arm.RATIONALE_THEN_ANSWER or not selected:
        return selected
    return [max(selected, key=lambda verdict: verdict.weight)]


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
    arm = Arm(task.config.arms[0])
    folder = task.inputs["questions"].path
    check_may_teach(tables.stream(folder, Question, split=Split.TRAIN))
    num_verdicts = num_examples = 0
    reasons = Counter({NOT_ACCEPTED: 0, NOT_SELECTED: 0, SAME_QUESTION: 0})
    with tables.writer(task.draft, TrainingExample) as write:
        for question, verdicts in pairing.by_question(folder, tables.stream(task.inputs["verdicts"].path, Verdict)):
            own = taught(verdicts, arm)
            for verdict in own:
                write(compose(question, verdict, arm))
            num_verdicts += len(verdicts)
            num_examples += len(own)
            reasons[NOT_ACCEPTED] += sum(not verdict.accepted for verdict in verdicts)
            reasons[NOT_SELECTED] += sum(verdict.accepted and not verdict.selected for verdict in verdicts)
            reasons[SAME_QUESTION] += sum(verdict.selected for verdict in verdicts) - len(own)
    return Tally(
        rows={"verdicts": num_verdicts, "examples": num_examples},
        reasons={reason: count for reason, count in reasons.items() if count},
    )


if __name__ == "__main__":
    stage.main("compose", "pipelines")
