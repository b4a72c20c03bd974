import pytest

from pipelines.examination.plan import AnalysisPlan, PlannedComparison, default_plan
from pipelines.report import outcomes
from tests.pipelines.report.reports import answered, asked, sheets

QUESTIONS = asked(("s", "", 6, ("",)))


def examined(*letters, conditions=None):
    """One set; a model for each string of letters, `-` for a refusal."""
    arms = ("zero_shot", "answer_only", "rationale_then_answer", "teacher")
    rows = []
    for at, own in enumerate(letters):
        about = {"arm": arms[at], "model": arms[at], "condition": (conditions or ["real"] * len(letters))[at]}
        for q, letter in zip(QUESTIONS, own, strict=True):
            missing = {"missing": "refusal"} if letter == "-" else {}
            rows += answered([q], [None if letter in "-?" else letter], **about, **missing)
    return sheets(QUESTIONS, rows)[0]


def test_an_outcome_is_told_for_each_question_and_model():
    assert outcomes.patterns(examined("BA-?BB", "BBBBAA")) == ["rr", "wr", "xr", "nr", "rw", "rw"]


def test_questions_that_all_models_miss_come_in_the_order_of_their_agreement():
    missed = outcomes.missed_by_all(examined("BACA-B", "BADAAA", "AAAC?A"))
    assert (missed["n"], missed["models"], missed["missed"]) == (6, 3, 4)
    assert [(q["id"], q["most_answered"], q["times"]) for q in missed["questions"]] == [
        ("s1", "A", 3),
        ("s3", "A", 2),
        ("s2", "A", 1),
        ("s4", "A", 1),
    ]
    assert missed["expected"] == pytest.approx(6 * (4 / 6) * (5 / 6) * 1, abs=0.1)


def test_one_model_or_another_image_says_nothing_about_a_question():
    assert outcomes.missed_by_all(examined("AAAAAA")) is None
    assert outcomes.missed_by_all(examined("AAAAAA", "AAAAAA", conditions=["real", "blank"])) is None


def test_rare_outcomes_are_chosen_as_fully_as_frequent_ones_and_those_named_first():
    one = examined("BBBBBA", "BBBBBB")
    assert outcomes.chosen([one], {"s4": None}, None, 4) == ["s4", "s0", "s5", "s1"]
    assert outcomes.chosen([one], {}, None, 0) == []
    assert outcomes.chosen(sheets(QUESTIONS, []), {}, None, 4) == []  # nobody was asked


@pytest.mark.parametrize(
    ("plan", "columns"),
    [
        (default_plan(["zero_shot/real", "answer_only/real", "rationale_then_answer/real"]), (0, 2)),
        (None, (0, 1)),
        (default_plan(["zero_shot/real", "teacher/real"]), (0, 1)),
    ],
)
def test_the_two_to_begin_with_are_those_of_the_primary_comparison(plan, columns):
    assert outcomes.pair(examined("BBBBBB", "BBBBBB", "BBBBBB"), plan) == columns
    assert outcomes.pair(examined("BBBBBB"), plan) == (0, 0)


def test_a_plan_about_another_condition_is_followed_too():
    across = PlannedComparison(treatment="zero_shot/real", comparator="answer_only/blank")
    plan = AnalysisPlan(primary=across, family=(across,))
    assert outcomes.pair(examined("BBBBBB", "BBBBBB", conditions=["real", "blank"]), plan) == (1, 0)
