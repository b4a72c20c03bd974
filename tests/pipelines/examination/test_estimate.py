"""How much an examination asks, and how long that takes."""

import pytest

from pipelines.examination import estimate
from pipelines.examination.config import ExaminationConfig
from pipelines.recipes import PLAN
from pipelines.records import Question, tables
from tests.pipelines.fixtures import put, question


def rows(run_dir, **told):
    put(run_dir, "questions", lambda draft: (draft / "x").write_text("x"), rows=told)


def test_every_test_question_is_asked_for_every_entry_of_the_plan(tmp_path):
    assert estimate.estimate(ExaminationConfig(plan=PLAN), tmp_path)["hours"].value is None
    rows(tmp_path, test=600, train=5)
    said = estimate.estimate(ExaminationConfig(plan=PLAN, max_tokens=100), tmp_path)
    assert said["answers"] == 3600
    assert said["tokens"].value is None
    assert "at most 100 tokens of each of 3,600 answers" in said["tokens"].why
    assert "--set examination.expected_answers_per_s=ANSWERS" in said["hours"].why
    told = estimate.estimate(ExaminationConfig(plan=PLAN, expected_answers_per_s=0.5), tmp_path)["hours"]
    assert (told.value, told.why) == (2.0, "3,600 answers / 0.5 a second, from the recipe")


def test_what_was_measured_the_last_time_counts_more(tmp_path):
    rows(tmp_path, test=600)
    metrics = {"attempts_now": 100, "output_tokens_now": 2000, "seconds_now": 1.0}
    put(tmp_path, "examination", lambda draft: (draft / "x").write_text("x"), metrics=metrics)
    said = estimate.estimate(ExaminationConfig(plan=PLAN, expected_answers_per_s=0.5), tmp_path)
    assert said["hours"].value == pytest.approx(0.01)
    assert said["hours"].why == "3,600 answers / 100 a second, measured the last time"
    assert said["tokens"].value == 72_000


def test_what_the_ledger_had_already_says_nothing_about_speed(tmp_path):
    rows(tmp_path, test=600)
    metrics = {"output_tokens": 72_000, "attempts_now": 2, "output_tokens_now": 40, "seconds_now": 0.01}
    put(tmp_path, "examination", lambda draft: (draft / "x").write_text("x"), metrics=metrics)
    said = estimate.estimate(ExaminationConfig(plan=PLAN, expected_answers_per_s=0.5), tmp_path)
    assert said["hours"].why == "3,600 answers / 0.5 a second, from the recipe"


def test_every_adapter_of_a_taught_arm_is_asked(tmp_path):
    rows(tmp_path, test=600)
    plan = ("zero_shot/real", "answer_only/real", "answer_only/blank", "teacher/real")
    assert estimate.estimate(ExaminationConfig(plan=plan, seeds=3), tmp_path)["answers"] == 600 * (1 + 3 * 2 + 1)


def test_rotations_and_repeats_are_answers_too(tmp_path):
    asked = [question(id=f"q{n}", split="test", options=("x", "y", "z")[: 2 + n % 2]) for n in range(10)]
    asked.append(question(id="t", split="train"))
    put(tmp_path, "questions", lambda draft: tables.write(draft, Question, asked), rows={"test": 10})
    plan = ("zero_shot+circular/real", "teacher/real", "zero_shot+rationale/real")
    assert estimate.estimate(ExaminationConfig(plan=plan), tmp_path)["answers"] == 25 + 10 + 10
    repeated = ExaminationConfig(plan=plan, repeat_share=0.1)
    assert estimate.estimate(repeated, tmp_path)["answers"] == 25 + 10 + 10 + 3
