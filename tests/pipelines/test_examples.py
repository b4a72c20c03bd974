from types import SimpleNamespace

import pytest

from infra.errors import InputError
from pipelines import examples, tables
from pipelines.records import Arm, Question, TrainingExample, Verdict
from tests.pipelines.fixtures import put, question, verdict

ARMS = (Arm.ANSWER_ONLY, Arm.RATIONALE_THEN_ANSWER)


def compose(folder, asked, verdicts, arm=Arm.ANSWER_ONLY):
    """Run the stage on these. Returns its tally and the examples that it wrote."""
    inputs = {
        "questions": put(folder, "questions", lambda d: tables.write(d, Question, asked)),
        "verdicts": put(folder, "verdicts", lambda d: tables.write(d, Verdict, verdicts)),
    }
    draft = folder / "draft"
    draft.mkdir()
    tally = examples.run(SimpleNamespace(config=SimpleNamespace(arms=(arm,)), inputs=inputs, draft=draft))
    return tally, tables.read(draft, TrainingExample)


def test_both_arms_learn_the_same_question_and_answer_with_and_without_the_rationale():
    answer_only, with_rationale = (examples.compose(question(), verdict(weight=0.5), arm) for arm in ARMS)
    assert answer_only.target == "Answer: cast (B)"
    assert with_rationale.target == "It is round.\nAnswer: cast (B)"
    for name in ("question_id", "rationale_id", "images", "image_digests", "weight"):
        assert getattr(answer_only, name) == getattr(with_rationale, name)
    assert (answer_only.rationale_id, answer_only.weight) == ("r1", 0.5)


def test_an_example_has_all_images_of_its_question(tmp_path):
    both = question(images=("images/0.zip/a.png", "images/1.zip/b.png"), image_digests=("a", "b"))
    _, (example,) = compose(tmp_path, [both], [verdict()])
    assert (example.images, example.image_digests) == (both.images, both.image_digests)


def test_only_what_is_selected_teaches_and_the_rest_is_counted(tmp_path):
    asked = [question(id=f"q{n}") for n in range(3)]
    rejected = verdict(question_id="q0", fate="rejected", reason="too_short", selected=False)
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
    tally, made = compose(tmp_path / "b", [question()], verdicts, Arm.RATIONALE_THEN_ANSWER)
    assert [e.weight for e in made] == weights
    assert [e.target for e in made] == [f"{n}\nAnswer: cast (B)" for n in range(3)]
    assert tally.reasons == {}


def test_nothing_is_written_when_a_question_for_evaluation_alone_would_teach(tmp_path):
    held = question(id="q2", source="MedXpertQA", file="MM/dev.jsonl", evaluation_only=True)
    with pytest.raises(InputError, match=r"q2 of MedXpertQA MM/dev\.jsonl is for evaluation alone"):
        compose(tmp_path, [question(), held], [verdict(), verdict(question_id="q2")])
    assert list((tmp_path / "draft").iterdir()) == []


def test_a_question_for_evaluation_alone_may_stand_beside_those_that_teach(tmp_path):
    held = question(id="q2", split="test", evaluation_only=True)
    _, made = compose(tmp_path / "a", [question(), held], [verdict()])
    assert len(made) == 1
    with pytest.raises(InputError, match="has no such training question"):
        compose(tmp_path / "b", [question(), held], [verdict(), verdict(question_id="q2")])
