from types import SimpleNamespace

import pytest

from infra.errors import InputError
from pipelines import examples
from pipelines.examples import ComposeConfig
from pipelines.inference import prompts
from pipelines.records import TAUGHT, Arm, Question, TrainingExample, Verdict, tables
from tests.pipelines.fixtures import put, question, verdict

RATIONALE_ARMS = (Arm.RATIONALE_THEN_ANSWER, Arm.ANSWER_THEN_RATIONALE)
ARMS = (Arm.ANSWER_ONLY, *RATIONALE_ARMS)  # those that learn an example of a question with one rationale


def compose(folder, asked, verdicts, arm=Arm.ANSWER_ONLY, **settings):
    """Run the stage on these. Returns its tally and the examples that it wrote."""
    inputs = {
        "questions": put(folder, "questions", lambda d: tables.write(d, Question, asked)),
        "verdicts": put(folder, "verdicts", lambda d: tables.write(d, Verdict, verdicts)),
    }
    draft = folder / "draft"
    draft.mkdir()
    config = ComposeConfig(arms=(arm,), **settings)
    tally = examples.run(SimpleNamespace(config=config, inputs=inputs, draft=draft))
    return tally, tables.read(draft, TrainingExample)


def test_all_arms_learn_the_same_question_and_answer_with_and_without_the_rationale_before_or_behind():
    made = {arm: examples.compose(question(), [verdict(weight=0.5)], arm) for arm in TAUGHT}
    assert {arm: [example.target for example in own] for arm, own in made.items()} == {
        Arm.ANSWER_ONLY: ["Answer: cast (B)"],
        Arm.RATIONALE_THEN_ANSWER: ["It is round.\nAnswer: cast (B)"],
        Arm.ANSWER_THEN_RATIONALE: ["Answer: cast (B)\nIt is round."],
        Arm.MULTI_TASK: ["Answer: cast (B)", "It is round."],
    }
    for arm, own in made.items():
        for example in own:
            assert (example.question_id, example.rationale_id, example.arm, example.weight) == ("q1", "r1", arm, 0.5)
            assert (example.images, example.image_digests) == (question().images, question().image_digests)
        assert own[0].prompt == prompts.prompt(question(), arm)


def test_the_multi_task_arm_learns_the_answer_once_and_each_rationale_by_a_prompt_of_its_own(tmp_path):
    weights = [0.5, 1.0, 1.0]
    verdicts = [verdict(rationale_id=f"r{n}", weight=weight, body=str(n)) for n, weight in enumerate(weights)]
    spare = verdict(rationale_id="r3", selected=False)
    tally, (answer, *rationales) = compose(
        tmp_path, [question()], [*verdicts, spare], Arm.MULTI_TASK, rationale_weight=0.25
    )
    assert (answer.rationale_id, answer.weight, answer.target) == ("r1", 1.0, "Answer: cast (B)")
    assert answer.prompt == prompts.prompt(question(), Arm.ANSWER_ONLY)
    assert [(e.rationale_id, e.weight, e.target) for e in rationales] == [
        ("r0", 0.125, "0"),
        ("r1", 0.25, "1"),
        ("r2", 0.25, "2"),
    ]
    assert {example.prompt for example in rationales} == {prompts.explain_prompt(question())}
    assert tally.rows == {"verdicts": 4, "examples": 4, "answers": 1}
    assert tally.reasons == {"not_selected": 1}


def test_a_question_without_a_selected_rationale_teaches_no_arm():
    for arm in TAUGHT:
        assert examples.compose(question(), [verdict(selected=False)], arm) == []


def test_an_example_has_all_images_of_its_question(tmp_path):
    both = question(images=("images/0.zip/a.png", "images/1.zip/b.png"), image_digests=("a", "b"))
    _, (example,) = compose(tmp_path, [both], [verdict()])
    assert (example.images, example.image_digests) == (both.images, both.image_digests)


def test_only_what_is_selected_teaches_and_the_rest_is_counted(tmp_path):
    asked = [question(id=f"q{n}") for n in range(3)]
    rejected = verdict(question_id="q0", status="rejected", reason="too_short", selected=False)
    verdicts = [
        rejected,
        verdict(question_id="q0", rationale_id="r2"),
        verdict(question_id="q0", rationale_id="r3", selected=False),
        verdict(question_id="q2", rationale_id="r4"),
    ]
    for arm in ARMS:
        tally, made = compose(tmp_path / arm, asked, verdicts, arm)
        assert [(e.question_id, e.rationale_id) for e in made] == [("q0", "r2"), ("q2", "r4")]
        assert tally.rows == {"verdicts": 4, "examples": 2}
        assert tally.reasons == {"not_accepted": 1, "not_selected": 1}


def test_the_answer_only_arm_learns_a_question_once_with_its_largest_weight(tmp_path):
    weights = [0.5, 1.0, 1.0]
    verdicts = [verdict(rationale_id=f"r{n}", weight=weight, body=str(n)) for n, weight in enumerate(weights)]
    tally, (example,) = compose(tmp_path / "a", [question()], verdicts)
    assert (example.rationale_id, example.weight) == ("r1", 1.0)
    assert tally.rows["verdicts"] == tally.rows["examples"] + sum(tally.reasons.values()) == 3
    assert tally.reasons == {"same_question": 2}
    for arm in RATIONALE_ARMS:
        tally, made = compose(tmp_path / arm, [question()], verdicts, arm)
        assert [e.weight for e in made] == weights
        assert [set(e.target.splitlines()) for e in made] == [{str(n), "Answer: cast (B)"} for n in range(3)]
        assert tally.reasons == {}


@pytest.mark.parametrize("arm", TAUGHT)
def test_where_no_rationale_of_any_question_was_accepted_every_arm_learns_the_answers_alone(tmp_path, arm):
    asked = [question(id=f"q{n}", gold="ABCD"[n]) for n in range(3)]
    rejected = [
        verdict(question_id=q.id, rationale_id=f"{q.id}{n}", status="rejected", reason="no_answer", selected=False)
        for q in asked
        for n in range(2)
    ]
    tally, made = compose(tmp_path, asked, rejected, arm)
    assert [(e.question_id, e.target) for e in made] == [(q.id, prompts.target(q, None)) for q in asked]
    assert [(e.prompt, e.rationale_id, e.weight) for e in made] == [(prompts.prompt(q, arm), "", 1.0) for q in asked]
    assert tally.rows == {"verdicts": 6, "examples": 3, "answers": 3}
    assert tally.reasons == {"not_accepted": 6}


def test_nothing_is_written_when_a_question_for_evaluation_alone_would_teach(tmp_path):
    held = question(id="q2", source="MedXpertQA", file="MM/dev.jsonl", evaluation_only=True)
    with pytest.raises(InputError, match=r"q2 of MedXpertQA MM/dev\.jsonl is for evaluation alone"):
        compose(tmp_path, [question(), held], [verdict(), verdict(question_id="q2")])
    assert list((tmp_path / "draft").iterdir()) == []


def test_a_question_for_evaluation_alone_may_stand_beside_those_that_teach(tmp_path):
    held = question(id="q2", split="test", evaluation_only=True)
    _, made = compose(tmp_path / "a", [question(), held], [verdict()])
    assert len(made) == 1
    with pytest.raises(InputError, match="has no such question for training or validation"):
        compose(tmp_path / "b", [question(), held], [verdict(), verdict(question_id="q2")])


def test_examples_of_validation_questions_are_marked_and_counted_apart(tmp_path):
    asked = [question(id="q0"), question(id="q1", split="validation"), question(id="q2", split="test")]
    verdicts = [verdict(question_id=q.id, rationale_id=f"r{q.id}") for q in asked[:2]]
    tally, made = compose(tmp_path, asked, verdicts, Arm.RATIONALE_THEN_ANSWER)
    assert [(e.question_id, e.split) for e in made] == [("q0", "train"), ("q1", "validation")]
    assert tally.rows == {"verdicts": 2, "examples": 2, "validation": 1}
