import pytest

from pipelines import examples
from pipelines.records import Arm
from pipelines.verification import verify
from tests.pipelines.fixtures import question, rationale


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (rationale("It is round.\nAnswer: cast (B)"), "accepted"),
        (rationale("It is round.\nAnswer: mill (A)"), "answer_disagrees_with_gold"),
        (rationale("It is round."), "no_answer"),
        (rationale("Answer: cast (B)"), "no_reasoning"),
        (rationale("It is round.\nAnswer: cast (B)", finish_reason="length"), "truncated"),
        (rationale("", error="missing_image", finish_reason="error"), "failed"),
    ],
)
def test_each_verdict_has_its_reason(said, reason):
    verdict = verify(said, question())
    assert verdict.reason == reason
    assert verdict.accepted == (reason == "accepted")
    assert verdict.text == said.text


def test_both_arms_learn_the_same_question_and_answer_with_and_without_the_rationale():
    verdict = verify(rationale("It is round.\nAnswer: B"), question())
    answer_only = examples.compose(question(), verdict, Arm.ANSWER_ONLY)
    with_rationale = examples.compose(question(), verdict, Arm.RATIONALE_THEN_ANSWER)
    assert answer_only.target == "Answer: cast (B)"
    assert with_rationale.target == "It is round.\nAnswer: cast (B)"
    assert answer_only.question_id == with_rationale.question_id
    assert answer_only.images == with_rationale.images
    assert answer_only.image_digests == with_rationale.image_digests
