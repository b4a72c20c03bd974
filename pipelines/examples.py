"""Verified rationale -> training example: what each arm reads and learns to write."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Gt, Le

from infra import command_line
from infra.errors import InputError
from infra.manifest import Tally
from infra.stage import StageConfig, Task
from pipelines.inference import prompts
from pipelines.records import ARMS, IMAGES, Arm, Question, Split, TrainingExample, Verdict, check_arms, pairing, tables

NOT_ACCEPTED, NOT_SELECTED, SAME_QUESTION = "not_accepted", "not_selected", "same_question"


@dataclass(frozen=True, kw_only=True)
class ComposeConfig(StageConfig):
    """Compose training examples, one artifact for each arm.

    rationale_weight: how much each token of a rationale counts beside one of the answer's line in `multi_task`.
    """

    stage: ClassVar[str] = "compose"
    module: ClassVar[str] = "pipelines.examples"
    contract: ClassVar[int] = 2
    digests_itself: ClassVar[tuple[str, ...]] = IMAGES
    arms: tuple[Arm, ...] = ARMS
    rationale_weight: Annotated[float, Gt(0), Le(1)] = 1.0

    def __post_init__(self) -> None:
        check_arms(self.arms)

    def outputs(self) -> dict[str, StageConfig]:
        return {f"examples/{arm}": replace(self, arms=(arm,)) for arm in self.arms}

    def prompt_digests(self) -> dict[str, str]:
        return {"prompts": prompts.digest()}

    def inputs(self) -> tuple[str, ...]:
        return ("questions", "verdicts")


def compose(
    question: Question, verdicts: Sequence[Verdict], arm: Arm, rationale_weight: float = 1.0
) -> list[TrainingExample]:
    """What an arm learns of a question. All arms learn from the same verdicts, the selected ones of these.

    Where a rationale is written, each of them is an example. Without their reasoning they are all one, which is learnt
    once, with the largest of the weights. rationale_weight: as in ComposeConfig.
    """
    selected = [verdict for verdict in verdicts if verdict.selected]
    asked = prompts.prompt(question, arm)
    learnt: list[tuple[Verdict, str, str]] = []  # of each example: what it rests on, its prompt, its target
    if arm in (Arm.ANSWER_ONLY, Arm.MULTI_TASK):
        heaviest = sorted(selected, key=lambda verdict: -verdict.weight)[:1]
        learnt += [(v, asked, prompts.target(question, None)) for v in heaviest]
    if arm in (Arm.RATIONALE_THEN_ANSWER, Arm.ANSWER_THEN_RATIONALE):
        answer_first = arm is Arm.ANSWER_THEN_RATIONALE
        learnt += [(v, asked, prompts.target(question, v.body, answer_first=answer_first)) for v in selected]
    if arm is Arm.MULTI_TASK:
        lighter = (dataclasses.replace(v, weight=v.weight * rationale_weight) for v in selected)
        learnt += [(v, prompts.explain_prompt(question), v.body) for v in lighter]
    return [
        TrainingExample(
            question_id=question.id,
            rationale_id=verdict.rationale_id,
            arm=arm,
            weight=verdict.weight,
            images=question.images,
            image_digests=question.image_digests,
            prompt=prompt,
            target=target,
        )
        for verdict, prompt, target in learnt
    ]


def answer_alone(question: Question, arm: Arm) -> TrainingExample:
    """What an arm learns of each question where no rationale of any was accepted: the gold answer, by its prompt."""
    return TrainingExample(
        question_id=question.id,
        rationale_id="",
        arm=arm,
        weight=1.0,
        images=question.images,
        image_digests=question.image_digests,
        prompt=prompts.prompt(question, arm),
        target=prompts.target(question, None),
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
    """Write `examples.parquet` for one arm: verdicts + answers = examples + reasons.

    answers: examples without a rationale: those of `multi_task` that ask for the answer, each beside those for its
    question's rationales; and all of them where no rationale was accepted, which verification lets pass on demand.
    """
    arm = Arm(task.config.arms[0])
    folder = task.inputs["questions"].path
    check_may_teach(tables.stream(folder, Question, split=Split.TRAIN))
    has_rationales = any(verdict.selected for verdict in tables.stream(task.inputs["verdicts"].path, Verdict))
    num_verdicts = num_examples = num_taught = 0
    reasons = Counter({NOT_ACCEPTED: 0, NOT_SELECTED: 0, SAME_QUESTION: 0})
    with tables.writer(task.draft, TrainingExample) as write:
        for question, verdicts in pairing.by_question(folder, tables.stream(task.inputs["verdicts"].path, Verdict)):
            own = (
                compose(question, verdicts, arm, task.config.rationale_weight)
                if has_rationales
                else [answer_alone(question, arm)]
            )
            for example in own:
                write(example)
            taught = {example.rationale_id for example in own if example.rationale_id}
            num_verdicts += len(verdicts)
            num_examples += len(own)
            num_taught += len(taught)
            reasons[NOT_ACCEPTED] += sum(not verdict.accepted for verdict in verdicts)
            reasons[NOT_SELECTED] += sum(verdict.accepted and not verdict.selected for verdict in verdicts)
            reasons[SAME_QUESTION] += sum(verdict.selected for verdict in verdicts) - len(taught)
    num_answers = num_examples - num_taught
    return Tally(
        rows={"verdicts": num_verdicts, "examples": num_examples} | ({"answers": num_answers} if num_answers else {}),
        reasons={reason: count for reason, count in reasons.items() if count},
    )


if __name__ == "__main__":
    command_line.main("compose", "pipelines")
