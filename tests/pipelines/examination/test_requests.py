"""What a model is asked in an examination, and under which digest."""

import dataclasses
import json

import pytest

from pipelines.examination import requests
from pipelines.examination.config import Budget, ExaminationConfig
from pipelines.examination.few_shot import FewShot
from pipelines.examination.requests import ArmRequests
from pipelines.inference import prompts
from pipelines.inference.conditions import Substitutes
from pipelines.records import Arm, Condition
from pipelines.records.endpoint import Endpoint, ServedModel
from pipelines.records.entries import parsed
from tests.pipelines.fixtures import question

OTHER = question(id="q2", images=("images/00000.zip/b.png",), image_digests=("b" * 64,))
# The answers to these are in ledgers: (arm, final_line) -> condition -> id of the request.
PINNED = {
    ("zero_shot", True): {
        "real": "39cc093dee082caa9eb568ea616d791c",
        "blank": "6682486accbff7fadc4ea8a1c6cd353e",
        "absent": "1ea0a2ad7e43a17927526ac520b6a9cb",
        "shuffled": "76075a62d06e7ae2ee2b4ebbd385d91d",
        "captioned": "cee92797e3fa9b9ab25bca46c91c221e",
    },
    ("zero_shot", False): {
        "real": "73e3435cc2de38bcae670c9fc1723eff",
        "blank": "27db5ce4b33dee292c52e78525dd8dba",
        "absent": "09b20ea8501569961c35ead7c70a8ce8",
        "shuffled": "0af3e3322fafb0188895e327a39b84e1",
        "captioned": "2e4e64cb44987d200a514772c89c53e0",
    },
    ("teacher", True): {
        "real": "5bba979bebf3999f553c470369a90558",
        "blank": "47a9bf50b09c8da4a054a5505b7a0477",
        "absent": "b13bd7e3d349a8bfab06f4ac4f67b04d",
        "shuffled": "193e07c2edd28e87d3db1ec0b3451382",
        "captioned": "41a588fb2d6a65b676b896ce04ccc597",
    },
    ("rationale_then_answer", True): {
        "real": "9e135a5c320e0d2d1888be424e4949b2",
        "blank": "4f029d4bc459aea043aadfacfed3f446",
        "absent": "8d02066668b591e23b3a9c1458d4f129",
        "shuffled": "4d3e2aa5c070fc496caa04b459ea7cc6",
        "captioned": "3553885d6e31612b617deac764ffa95a",
    },
}


def asking(*plan, few_shot=None, **settings):
    """What the first entry's arm is asked in these entries."""
    config = ExaminationConfig(plan=plan, **settings)
    entries = parsed(plan)
    served = ServedModel(name="m", arm=entries[0].arm, digest="d")
    own = requests.inference(config, served, Endpoint(base_url="http://127.0.0.1:9/v1", models=(served,)))
    found = Substitutes(shuffled_from={"q1": OTHER}, captions={"q1": "A caption."}, in_task={"q1": OTHER})
    return ArmRequests(config=config, own=own, entries=entries, substitutes=found, few_shot=few_shot)


@pytest.mark.parametrize(("arm", "final_line"), PINNED)
def test_what_ledgers_hold_already_is_still_asked_under_the_same_id(arm, final_line):
    plan = [f"{arm}/{condition}" for condition in PINNED[arm, final_line]]
    asked = asking(*plan, final_line=final_line).of(question(split="test"))
    assert {request.condition: request.id for request in asked} == PINNED[arm, final_line]


def test_every_condition_prompt_and_rotation_is_a_request_of_its_own():
    named = ["answer", "rationale", "answer_first", "chain_of_thought", "matcha", "letter"]
    plan = [f"zero_shot+{prompt}+circular/{condition}" for prompt in named for condition in Condition]
    asked = asking(*plan, repeat_share=1.0).of(question())
    assert len({request.id for request in asked}) == len(asked) == len(plan) * (4 + 1)


def test_the_untouched_base_is_asked_in_the_words_of_the_rationale_student_too():
    direct, reasoned = asking("zero_shot/real", "zero_shot+rationale/real").of(question())
    assert direct.prompt.startswith(prompts.prompt(question(), Arm.ANSWER_ONLY))
    assert reasoned.prompt == prompts.prompt(question(), Arm.RATIONALE_THEN_ANSWER, final_line=True)
    assert (direct.entry, reasoned.entry) == ("zero_shot/real", "zero_shot+rationale/real")


def test_a_system_message_goes_with_the_prompt_that_has_one_and_no_other():
    asked = asking("zero_shot+matcha/real", "zero_shot+letter/real", "zero_shot/real").of(question())
    assert [bool(request.system) for request in asked] == [True, False, False]


def test_all_rotations_are_asked_with_the_options_that_belong_to_them():
    asked = asking("answer_only+circular/real").of(question())
    assert [request.rotation for request in asked] == [0, 1, 2, 3]
    assert [request.options for request in asked] == [
        (),
        ("cast", "press", "die cast", "mill"),
        ("press", "die cast", "mill", "cast"),
        ("die cast", "mill", "cast", "press"),
    ]
    assert asked[1].prompt.splitlines()[1:5] == ["A. cast", "B. press", "C. die cast", "D. mill"]
    assert asked[0].id == asking("answer_only/real").of(question())[0].id


def test_options_that_refer_to_others_are_not_rotated_and_that_is_counted():
    arm = asking("answer_only+circular/real")
    asked = question(options=("a", "b", "Both A and B"), gold="A")
    assert [request.rotation for request in arm.of(asked)] == [0]
    assert [(str(entry), reason) for entry, reason in arm.left_out(asked)] == [
        ("answer_only+circular/real", requests.NOT_ROTATED)
    ]
    assert list(arm.left_out(question())) == []


def test_a_share_of_the_questions_is_asked_again_under_another_number_but_not_in_rotation():
    arm = asking("zero_shot+circular/real", repeat_share=0.2)
    asked = {n: arm.of(question(id=f"q{n}")) for n in range(500)}
    repeated = [n for n, own in asked.items() if len(own) == 5]
    assert 70 <= len(repeated) <= 130
    assert all(len(own) in (4, 5) for own in asked.values())
    first, again, *_ = asked[repeated[0]]
    assert (first.number, again.number, first.prompt) == (0, 1, again.prompt)
    assert first.seed(0) != again.seed(0)
    assert all(len(asking("zero_shot/real").of(question(id=f"q{n}"))) == 1 for n in range(50))


def test_a_caption_alone_goes_without_the_image_and_a_hidden_gold_option_is_not_in_the_prompt():
    caption, hidden = asking("zero_shot/caption_only", "zero_shot/gold_hidden").of(question())
    assert (caption.images, caption.prompt.splitlines()[0]) == ((), "Caption: A caption.")
    assert "B. None of the above" in hidden.prompt
    assert "B. cast" not in hidden.prompt
    assert hidden.images == question().images


def test_a_question_that_names_a_side_is_left_out_where_images_are_mirrored():
    arm = asking("zero_shot/real", "zero_shot/mirrored")
    asked = question(text="Which lung, left or right?")
    assert [request.condition for request in arm.of(asked)] == ["real"]
    assert [(str(entry), reason) for entry, reason in arm.left_out(asked)] == [("zero_shot/mirrored", "names_a_side")]


def test_each_arm_has_the_budget_that_is_its_own():
    budgets = (Budget(arm=Arm.TEACHER, max_tokens=8192, timeout_s=3600), Budget(arm=Arm.ZERO_SHOT, max_tokens=64))
    config = ExaminationConfig(plan=("teacher/real",), max_tokens=1024, timeout_s=60, budgets=budgets)
    assert [config.tokens_for(arm) for arm in (Arm.TEACHER, Arm.ZERO_SHOT, Arm.ANSWER_ONLY)] == [8192, 64, 1024]
    assert [config.seconds_for(arm) for arm in (Arm.TEACHER, Arm.ZERO_SHOT)] == [3600, 60]
    assert asking("teacher/real", budgets=budgets).own.sampling.max_tokens == 8192


def test_two_budgets_of_one_arm_are_refused():
    with pytest.raises(ValueError, match="budgets name an arm twice"):
        asking("zero_shot/real", budgets=(Budget(arm=Arm.TEACHER), Budget(arm=Arm.TEACHER)))


def test_examples_are_part_of_what_is_asked_and_in_its_words():
    pool = {"test": [question(id=f"t{n}", images=(f"{n}",), image_digests=(f"{n}",), gold="A") for n in range(3)]}
    arm = asking("zero_shot+letter+2shot/blank", "zero_shot+letter/blank", few_shot=FewShot(pool, None))
    shown, bare = arm.of(question())
    assert shown.id != bare.id
    assert [example.answer for example in shown.examples] == ["A", "A"]
    assert {example.prompt for example in shown.examples} == {shown.prompt}
    assert [example.images for example in shown.examples] == [("0",), ("1",)]
    assert (shown.num_images, bare.num_images) == (3, 1)
    other = dataclasses.replace(pool["test"][0], gold="C")
    again, _ = asking(
        "zero_shot+letter+2shot/blank", "zero_shot/real", few_shot=FewShot({"test": [other, *pool["test"][1:]]}, None)
    ).of(question())
    assert again.id != shown.id


def test_the_digest_of_an_examination_s_words_is_sealed_for_the_prompts_that_it_names():
    one = ExaminationConfig(plan=("zero_shot/real",)).prompt_digests()
    two = ExaminationConfig(plan=("zero_shot/real", "zero_shot+matcha/real")).prompt_digests()
    assert set(two) - set(one) == {"examined/matcha"}
    assert json.dumps(two)
