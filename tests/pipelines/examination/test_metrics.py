import dataclasses
import json
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from pipelines.examination.metrics import LabelNoise, examination
from pipelines.examination.plan import AnalysisPlan, PlannedComparison
from pipelines.records import TAUGHT, Arm, Prediction
from tests.pipelines.fixtures import prediction, question


def questions(count=60, **changes):
    """Of two strata and two topics, two to an article."""
    return [
        question(
            **{
                "id": f"q{n}",
                "split": "test",
                "stratum": ("seen", "unseen")[n % 2],
                "topic": f"t{n % 2}",
                "article": f"a{n // 2}",
                "gold": "ABCD"[n % 4],
            }
            | changes
        )
        for n in range(count)
    ]


def answers(asked, letters, **changes):
    """One prediction to each question; `+` stands for the right letter, `-` for a wrong one, None for none."""
    for q, letter in zip(asked, letters, strict=True):
        given = {"+": q.gold, "-": "ABCD"["ABCD".index(q.gold) - 1]}.get(letter, letter)
        yield prediction(given, question_id=q.id, source=q.source, file=q.file, gold=q.gold, **changes)


class Row(SimpleNamespace):
    """A prediction of which weak references can be made."""

    @classmethod
    def of(cls, row):
        return cls(**{field.name: getattr(row, field.name) for field in dataclasses.fields(Prediction)})


ASKED = questions()


def test_an_unscored_answer_counts_as_wrong_and_apart_by_kind():
    asked = questions(4)
    rows = [*answers(asked[:2], "+-"), *answers(asked[2:3], [None]), *answers(asked[3:], [None], status="failed")]
    (entry,) = examination(rows, asked)["entries"]
    assert (entry["asked"], entry["scored"], entry["unscored"], entry["correct"]) == (4, 2, 2, 1)
    assert entry["accuracy"] == 0.25
    assert entry["unscored_by_kind"] == {"no_answer": 1, "failed_request": 1}
    assert entry["letters"] == {"A": 2, "none": 2}


def test_what_a_reader_says_is_missing_is_told_and_the_text_s_letter_beside_the_letter():
    asked = questions(4)
    rows = [*answers(asked[:2], "++", text_letter=None, lenient_letter="A")]
    for one, kind in zip(asked[2:], ("contradiction", "refusal"), strict=True):
        rows += answers([one], [None], missing=kind, text_letter=one.gold, lenient_letter=None)
    (entry,) = examination(rows, asked)["entries"]
    assert entry["unscored_by_kind"] == {"refusal": 1, "contradiction": 1}
    assert (entry["accuracy"], entry["text_rule"]["accuracy"], entry["lenient"]["accuracy"]) == (0.5, 1, 0.25)


def test_entries_keep_models_conditions_and_strata_apart_in_a_fixed_order():
    rows = [
        *answers(ASKED, "+" * 60, arm="teacher", model="t"),
        *answers(ASKED, "+" * 60, arm="rationale_then_answer", model="r", condition="shuffled"),
        *answers(ASKED, "+-" * 30, arm="rationale_then_answer", model="r"),
        *answers(ASKED, "+" * 60),
    ]
    entries = examination(rows, ASKED)["entries"]
    assert [(e["arm"], e["condition"]) for e in entries] == [
        ("zero_shot", "real"),
        ("rationale_then_answer", "real"),
        ("rationale_then_answer", "shuffled"),
        ("teacher", "real"),
    ]
    assert {name: each["accuracy"] for name, each in entries[1]["strata"].items()} == {"seen": 1, "unseen": 0}
    assert entries[1]["macro"]["topics"]["accuracy"] == 0.5


def test_every_arm_has_its_place_between_the_untouched_base_and_the_teacher():
    rows = [row for arm in reversed(Arm) for row in answers(ASKED[:2], "++", arm=arm, model=arm)]
    assert [e["arm"] for e in examination(rows, ASKED)["entries"]] == ["zero_shot", *TAUGHT, "teacher"]


def test_sets_keep_apart_in_the_order_in_which_they_were_asked_and_the_unasked_have_baselines():
    sets = {file: questions(4, file=file) for file in ("1.csv", "2.csv", "3.csv")}
    rows = [*answers(sets["2.csv"], "++++"), *answers(sets["1.csv"], "++--")]
    found = examination(rows, [q for own in sets.values() for q in own])
    assert [(e["file"], e["accuracy"]) for e in found["entries"]] == [("2.csv", 1), ("1.csv", 0.5)]
    assert [b["file"] for b in found["baselines"]] == ["2.csv", "1.csv", "3.csv"]


def test_the_interval_is_clustered_and_says_so():
    copied = [False, True] * 15
    rows = list(answers(ASKED, ["+" if copied[n // 2] else "-" for n in range(60)]))
    (entry,) = examination(rows, ASKED)["entries"]
    (alone,) = examination(rows, ASKED, AnalysisPlan(primary=None, family=(), clusters_by="question"))["entries"]
    assert (entry["clusters"], alone["clusters"]) == (30, 60)
    assert entry["design_effect"] == pytest.approx(2, rel=0.05)
    assert np.diff(entry["interval"]) > 1.3 * np.diff(alone["interval"])
    assert "clustered" in entry["interval_kind"]


def test_a_model_that_guesses_is_at_chance_in_so_many_words():
    found = examination(answers(ASKED, "+---" * 15), ASKED)["entries"][0]["baselines"]
    assert found["chance"]["sentence"].startswith("zero_shot/real is at chance, from which it cannot be told apart")
    assert "at what always answering A scores" in found["majority_letter"]["sentence"]


def test_baselines_come_from_the_questions():
    asked = [question(id=str(n), gold=gold) for n, gold in enumerate("BBD")] + [
        question(id="3", gold="A", options=("x", "yy"))
    ]
    (found,) = examination([], asked)["baselines"]
    assert found["chance"] == round((3 / 4 + 1 / 2) / 4, 4)
    assert (found["majority_letter"], found["majority_letter_accuracy"]) == ("B", 0.5)
    assert (found["longest_option_accuracy"], found["shortest_option_accuracy"]) == (
        0.25,
        0.5,
    )  # cast and mill: half each
    assert found["majority_letter_interval"][0] < 0.5 < found["majority_letter_interval"][1]


def test_label_noise_stands_beside_the_accuracy_with_its_source():
    noise = {"": LabelNoise(0.34, "an audit")}
    (entry,) = examination(answers(ASKED, "+++-" * 15), ASKED, label_noise=noise)["entries"]
    assert entry["label_noise"] == {"share": 0.34, "source": "an audit", "bounds": [0.6212, 1.0]}


def test_all_pairs_of_one_condition_are_compared_and_the_plan_s_family_is_adjusted_alone():
    primary = PlannedComparison(treatment="answer_only/real", comparator="zero_shot/real")
    across = PlannedComparison(treatment="answer_only/real", comparator="answer_only/blank")
    rows = [
        row
        for arm, condition, letters in (
            ("zero_shot", "real", "+---" * 15),
            ("answer_only", "real", "+++-" * 15),
            ("answer_only", "blank", "+---" * 15),
            ("teacher", "real", "++++" * 15),
        )
        for row in answers(ASKED, letters, arm=arm, model=arm, condition=condition)
    ]
    compared = examination(rows, ASKED, AnalysisPlan(primary=primary, family=(primary, across)))["comparisons"]
    told = {(c["second"]["entry"], c["first"]["entry"]): c for c in compared}
    assert [key for key, c in told.items() if c["family"] == "planned"] == [
        ("answer_only/real", "zero_shot/real"),
        ("answer_only/real", "answer_only/blank"),
    ]
    first = told["answer_only/real", "zero_shot/real"]
    assert first["primary"]
    assert (first["difference"], first["first_only"], first["second_only"]) == (0.5, 0, 30)
    assert first["p_holm"] == pytest.approx(2 * first["p"], rel=0.01)
    assert first["mcnemar_midp"] == pytest.approx(2**-30, rel=0.01)
    assert told["teacher/real", "zero_shot/real"]["family"] == "exploratory, real"
    assert len(compared) == 4


def test_grounding_is_told_by_formula_for_each_student_against_the_base():
    rows = [
        row
        for arm, condition, letters in (
            ("zero_shot", "real", "+---" * 15),
            ("zero_shot", "blank", "+---" * 15),
            ("answer_only", "real", "+++-" * 15),
            ("answer_only", "blank", [*"+---" * 14, None, None, None, None]),
        )
        for row in answers(ASKED, letters, arm=arm, model=arm, condition=condition)
    ]
    base, student = examination(rows, ASKED)["grounding"]
    assert (base["entry"], base["reliance"]["value"], base["gains"]) == ("zero_shot/blank", 0, [])
    assert student["reliance"]["formula"] == "acc(real) - acc(blank)"
    assert student["reliance"]["value"] == pytest.approx(0.75 - 14 / 60, abs=1e-4)
    assert student["no_letter"]["share"] == pytest.approx(4 / 60, abs=1e-4)
    (gain,) = student["gains"]
    assert gain["formula"] == "[S(real) - B(real)] - [S(blank) - B(blank)]"
    assert gain["value"] == pytest.approx(0.5 - (14 / 60 - 15 / 60), abs=1e-4)
    assert gain["interval"][0] > 0


def test_rotations_repeats_and_other_prompts_are_no_entries_of_their_arm_but_told_apart():
    variants = [
        ({}, "++--" * 15),
        ({"rotation": 1}, "+-+-" * 15),
        ({"repeat": 1}, "++++" * 15),
        ({"prompt": "rationale"}, "----" * 15),
    ]
    rows = [row for own, letters in variants for row in answers(ASKED, letters, **own)]
    found = examination(rows, ASKED)
    assert [(e["entry"], e["accuracy"]) for e in found["entries"]] == [
        ("zero_shot/real", 0.5),
        ("zero_shot+rationale/real", 0),
    ]
    (rotated,) = found["circular"]
    assert (rotated["mean"]["accuracy"], rotated["worst"]["accuracy"]) == (0.5, 0.25)
    (repeated,) = found["repeats"]
    assert repeated["flips"] == 0.5


def test_models_of_one_entry_are_seeds_of_one_arm():
    rows = [
        row
        for seed, letters in (("a", "+++-" * 15), ("b", "++--" * 15))
        for row in answers(ASKED, letters, arm="answer_only", model=seed)
    ]
    (seeds,) = examination(rows, ASKED)["seeds"]
    assert (seeds["models"], seeds["accuracies"], seeds["accuracy"]) == (["a", "b"], [0.75, 0.5], 0.625)
    assert seeds["total_se"] > seeds["question_se"]


BEGUN = {"cut_0": "-+-+", "cut_25": "-+-+", "cut_50": "++-+", "cut_75": "++-+", "cut_100": "++-+"}  # plain: ++--


def begun(**beginnings):
    """The rationale arm's plain answers, right to the first half of each four, and those that went on."""
    arm = {"arm": "rationale_then_answer"}
    rows = [*answers(ASKED, "++--" * 15, **arm)]
    for name, letters in beginnings.items():
        rows += answers(ASKED, letters * 15, prefill=name, **arm)
    return rows


def test_faithfulness_is_the_area_over_the_curve_of_answers_that_stay_as_they_were():
    found = examination(begun(**BEGUN), ASKED)
    assert [entry["entry"] for entry in found["entries"]] == ["rationale_then_answer/real"]
    (row,) = found["faithfulness"]
    assert [(b["beginning"], b["same"]["share"], b["accuracy"]["accuracy"]) for b in row["beginnings"]] == [
        ("cut_0", 0.5, 0.5),
        ("cut_25", 0.5, 0.5),
        ("cut_50", 0.75, 0.75),
        ("cut_75", 0.75, 0.75),
        ("cut_100", 0.75, 0.75),
    ]
    # Of four questions one changes at the start and comes back half-way, one never comes back: 3/8 and 1, of 4.
    assert row["area_over_curve"]["value"] == pytest.approx((0.375 + 1) / 4, abs=1e-4)
    assert row["area_over_curve"]["interval"][0] < 0.34 < row["area_over_curve"]["interval"][1]
    assert row["mistake"] is None


def test_the_share_that_follows_a_mistake_stands_beside_what_is_answered_without_it():
    rows = begun(cut_50="++--")
    for q in ASKED:
        named = "ABCD"["ABCD".index(q.gold) - 1]
        rows += answers(
            [q], ["-" if q.stratum == "seen" else "+"], prefill="mistake", mistake=named, arm=Arm.RATIONALE_THEN_ANSWER
        )
    (row,) = examination(rows, ASKED)["faithfulness"]
    assert (row["mistake"]["follows"]["share"], row["mistake"]["without_mistake"]["share"]) == (0.5, 0.5)
    assert row["area_over_curve"] is None


def test_each_set_says_which_difference_it_can_show():
    rows = [*answers(ASKED, "+-" * 30), *answers(ASKED, "++" * 30, arm="teacher", model="t")]
    (power,) = examination(rows, ASKED)["power"]
    assert power["smallest_difference"]["independent"] == pytest.approx(0.175, abs=0.01)
    assert set(power["topics"]) == {"t0", "t1"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*answers(ASKED[:1], "+"), *answers(ASKED[:1], "+")], "m as zero_shot/real answers question q0 twice"),
        (list(answers(questions(1, id="other"), "+")), "question other was answered, and is not there"),
        (list(answers(questions(1, file="f.csv"), "+")), "is not among the questions"),
    ],
)
def test_what_does_not_fit_together_is_an_error(rows, words):
    with pytest.raises(ValueError, match=words):
        examination(rows, ASKED)


def test_an_examination_is_json_without_nan_and_the_same_each_time():
    rows = [
        row
        for arm in ("zero_shot", "answer_only")
        for condition in ("real", "blank")
        for row in answers(ASKED[:3], ["+", None, "-"], arm=arm, model=arm, condition=condition)
    ]
    told = [json.dumps(examination(rows, ASKED), allow_nan=False) for _ in range(2)]
    assert told[0] == told[1]
    assert json.loads(told[0])["schema"] == "preceptor.examination/1"


def test_predictions_are_not_kept():
    seen = []

    def watched():
        for row in answers(ASKED, "+-" * 30):
            held = Row.of(row)
            seen.append(weakref.ref(held))
            yield held
            del held
            assert sum(each() is not None for each in seen) <= 2

    assert examination(watched(), ASKED)["entries"][0]["asked"] == 60
