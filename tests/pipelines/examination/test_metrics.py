import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.examination import metrics
from pipelines.records import TAUGHT, Arm
from tests.pipelines.fixtures import prediction, question


@given(st.integers(0, 400), st.integers(0, 400))
def test_an_interval_holds_the_share_and_stays_within_0_and_1(correct, wrong):
    asked = correct + wrong
    low, high = metrics.wilson_interval(correct, asked)
    assert 0 <= low <= high <= 1
    if asked:
        assert low - 1e-9 <= correct / asked <= high + 1e-9


def test_the_interval_is_wilson_s():
    low, high = metrics.wilson_interval(1298, 2000)
    assert (round(low, 4), round(high, 4)) == (0.6278, 0.6696)


def test_more_correct_than_asked_is_refused():
    with pytest.raises(ValueError, match="3 correct of 2"):
        metrics.wilson_interval(3, 2)


def test_an_unscored_answer_counts_as_wrong_and_apart():
    score = metrics.score([prediction("B"), prediction("A"), prediction(None), prediction(None, error="timeout")])
    assert (score["asked"], score["scored"], score["unscored"], score["correct"]) == (4, 2, 2, 1)
    assert score["accuracy"] == 0.25


def test_examinations_keep_models_conditions_and_strata_apart_in_a_fixed_order():
    entries = metrics.examination(
        [
            prediction("B", arm="teacher", model="t"),
            prediction("B", arm="rationale_then_answer", model="r", condition="shuffled"),
            prediction("A", arm="rationale_then_answer", model="r", stratum="unseen"),
            prediction("B", arm="rationale_then_answer", model="r"),
            prediction("B"),
        ]
    )
    assert [(e["arm"], e["condition"], e["asked"]) for e in entries] == [
        ("zero_shot", "real", 1),
        ("rationale_then_answer", "real", 2),
        ("rationale_then_answer", "shuffled", 1),
        ("teacher", "real", 1),
    ]
    assert entries[1]["strata"]["unseen"]["correct"] == 0
    assert entries[1]["strata"]["seen"]["correct"] == 1


def test_every_arm_has_its_place_between_the_untouched_base_and_the_teacher():
    entries = metrics.examination([prediction("B", arm=arm, model=arm) for arm in reversed(Arm)])
    assert [e["arm"] for e in entries] == ["zero_shot", *TAUGHT, "teacher"]


def test_examinations_keep_sets_apart_in_the_order_in_which_they_were_asked():
    asked = [("s", "2.csv"), ("s", "1.csv"), ("r", "")]
    predictions = [
        prediction(letter, arm=arm, source=source, file=file)
        for arm in ("teacher", "zero_shot")
        for source, file in asked
        for letter in ("B", "A" if file else "B")
    ]
    entries = metrics.examination(predictions)
    assert [(e["source"], e["file"]) for e in entries[::2]] == asked
    assert [e["arm"] for e in entries] == ["zero_shot", "teacher"] * 3
    assert [e["accuracy"] for e in entries] == [0.5, 0.5, 0.5, 0.5, 1.0, 1.0]


def test_chance_and_the_majority_letter_come_from_the_questions():
    asked = [question(gold="B"), question(gold="B"), question(gold="A", options=("x", "y"))]
    (baselines,) = metrics.baselines(asked)
    assert baselines["chance"] == round((1 / 4 + 1 / 4 + 1 / 2) / 3, 4)
    assert (baselines["majority_letter"], baselines["majority_letter_accuracy"]) == ("B", 0.6667)


def test_every_set_has_its_own_baselines():
    asked = [question(gold="B"), question(gold="A", file="f.csv", options=("x", "y")), question(gold="B")]
    baselines = metrics.baselines(asked)
    assert [(b["source"], b["file"], b["n"], b["chance"]) for b in baselines] == [
        ("test", "", 2, 0.25),
        ("test", "f.csv", 1, 0.5),
    ]
