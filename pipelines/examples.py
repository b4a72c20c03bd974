"""Verified rationale -> training example: what each arm reads and learns to write."""

from infra import stage
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
        image=question.image,
        image_digest=question.image_digest,
        prompt=prompts.prompt(question, arm),
        target=prompts.target(question, rationale),
    )


def run(task: Task) -> Tally:
    """Write `examples.parquet` for one arm."""
    questions = {question.id: question for question in tables.read(task.inputs["questions"].path, Question)}
    verdicts = tables.read(task.inputs["verdicts"].path, Verdict)
    (arm,) = task.config.arms
    examples = [compose(questions[v.question_id], v, Arm(arm)) for v in verdicts if v.accepted]
    tables.write(task.draft, TrainingExample, examples)
    return Tally(
        rows={"verdicts": len(verdicts), "examples": len(examples)},
        reasons={"not_accepted": len(verdicts) - len(examples)},
    )


if __name__ == "__main__":
    stage.main("compose", "pipelines")
