"""Verified rationale -> training example: what each arm reads and learns to write."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Gt, Le

from infra import command_line
from infra.manifest import Tally
from infra.stage import StageConfig, Task
from pipelines.inference import prompts
from pipelines.records import ARMS, IMAGES, Arm, Question, Split, TrainingExample, Verdict, check_arms, pairing, tables
from pipelines.records.evaluation_only import check_may_teach

NOT_ACCEPTED, NOT_SELECTED, SAME_QUESTION = "not_accepted", "not_selected", "same_question"


@dataclass(frozen=True, kw_only=True)
class ComposeConfig(StageConfig):
    """Compose training examples, one artifact for each arm.

    rationale_weight: in `multi_task`, how much a token of a rationale counts; a token of the answer's line counts 1.
    """

    stage: ClassVar[str] = "compose"
    module: ClassVar[str] = "pipelines.examples"
    contract: ClassVar[int] = 3
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
    """What an arm learns from a question. All arms learn from the same verdicts: those that are selected.

    An arm that learns to write rationales has one example for each of them. The answer's line is the same for all of
    them, so an arm that learns this line alone has one example of it, with the largest weight. rationale_weight: as in
    ComposeConfig.
    """
    selected = [verdict for verdict in verdicts if verdict.selected]
    asked = prompts.prompt(question, arm)
    learnt: list[tuple[Verdict, str, str]] = []  # for each example: its verdict, prompt and target
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
            split=question.split,
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
    """What an arm learns from a question where no rationale of the whole run was accepted: the gold answer."""
    return TrainingExample(
        question_id=question.id,
        split=question.split,
        rationale_id="",
        arm=arm,
        weight=1.0,
        images=question.images,
        image_digests=question.image_digests,
        prompt=prompts.prompt(question, arm),
        target=prompts.target(question, None),
    )


def run(task: Task) -> Tally:
    """Write `examples.parquet` for one arm: verdicts + answers = examples + reasons.

    answers: examples beyond one for each rationale that teaches. `multi_task` has one more for each question, which
    asks for the answer. Where no rationale of the run was accepted, which `verify.min_accepted=0` allows, all examples
    are of this kind. validation: examples of validation questions, which are never trained on.
    """
    arm = Arm(task.config.arms[0])
    folder = task.inputs["questions"].path
    check_may_teach(pairing.explained_questions(folder))
    has_rationales = any(verdict.selected for verdict in tables.stream(task.inputs["verdicts"].path, Verdict))
    num_verdicts = num_taught = 0
    splits: Counter[str] = Counter()
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
            splits[question.split] += len(own)
            num_taught += len(taught)
            reasons[NOT_ACCEPTED] += sum(not verdict.accepted for verdict in verdicts)
            reasons[NOT_SELECTED] += sum(verdict.accepted and not verdict.selected for verdict in verdicts)
            reasons[SAME_QUESTION] += sum(verdict.selected for verdict in verdicts) - len(taught)
    num_examples = splits.total()
    some = {"answers": num_examples - num_taught, "validation": splits[Split.VALIDATION]}
    return Tally(
        rows={"verdicts": num_verdicts, "examples": num_examples} | {name: num for name, num in some.items() if num},
        reasons={reason: count for reason, count in reasons.items() if count},
    )


if __name__ == "__main__":
    command_line.main("compose", "pipelines")
