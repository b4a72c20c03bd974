import dataclasses

import pytest

from infra.errors import ArtifactError
from pipelines.examination import plan as plans
from pipelines.examination.plan import AnalysisPlan, PlannedComparison, default_plan

GAIN = PlannedComparison(treatment="rationale_then_answer/real", comparator="zero_shot/real")


def test_the_default_compares_the_rationale_arm_with_the_untouched_base_under_the_real_image():
    plan = default_plan(
        ["rationale_then_answer+circular/real", "rationale_then_answer/blank", "answer_only/real", "zero_shot/real"]
    )
    assert plan.primary == GAIN
    assert [(each.treatment, each.comparator) for each in plan.family] == [
        ("answer_only/real", "zero_shot/real"),
        ("rationale_then_answer/real", "zero_shot/real"),
        ("rationale_then_answer/real", "answer_only/real"),
    ]


@pytest.mark.parametrize(
    ("entries", "primary"),
    [
        (["zero_shot/real"], None),
        (["answer_only/real", "zero_shot/real", "teacher/real"], ("answer_only/real", "zero_shot/real")),
        (["zero_shot/real", "zero_shot+rationale/real"], ("zero_shot+rationale/real", "zero_shot/real")),
        (["zero_shot/blank", "answer_only/blank"], None),
    ],
)
def test_without_a_rationale_arm_the_default_takes_what_there_is(entries, primary):
    plan = default_plan(entries)
    assert (plan.primary and (plan.primary.treatment, plan.primary.comparator)) == primary


def test_a_primary_entry_that_is_named_is_the_treatment_and_none_is_compared_from_its_middle():
    entries = ["zero_shot+answer/real", "rationale_then_answer/real", "rationale_then_answer+prefilled/real"]
    plan = default_plan([*entries, "answer_only/real"], "answer_only/real")
    assert plan.primary == PlannedComparison(treatment="answer_only/real", comparator="zero_shot/real")
    assert default_plan(entries, "zero_shot/real").primary == GAIN  # which has nothing to be compared with
    assert default_plan(entries).family == (GAIN,)


def test_a_plan_is_read_from_where_it_was_sealed_and_one_that_was_changed_is_refused(tmp_path):
    assert plans.sealed(tmp_path) is None
    plan = default_plan(["zero_shot/real", "rationale_then_answer/real"])
    plans.seal(plan, tmp_path)
    assert plans.sealed(tmp_path) == plan
    path = tmp_path / "analysis_plan.json"
    path.write_text(path.read_text().replace("0.05", "0.25"))
    with pytest.raises(ArtifactError, match="was changed"):
        plans.sealed(tmp_path)
    path.write_text("[]")
    with pytest.raises(ArtifactError, match="is no plan"):
        plans.sealed(tmp_path)


def test_a_sealed_plan_is_read_back_with_its_digest():
    plan = AnalysisPlan(primary=GAIN, family=(GAIN,), exclusions=("questions without an image",), clusters_by="figure")
    assert AnalysisPlan.from_dict(plan.as_dict()) == plan
    assert AnalysisPlan.from_dict(plan.as_dict()).digest == plan.digest
    assert dataclasses.replace(plan, alpha=0.01).digest != plan.digest


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"clusters_by": "journal"}, "name one of article"),
        ({"family": ()}, "not in the family"),
        ({"family": (GAIN, GAIN)}, "named twice"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        AnalysisPlan(**({"primary": GAIN, "family": (GAIN,)} | changes))


@pytest.mark.parametrize("entry", ["base/real", "zero_shot/clear", "zero_shot"])
def test_only_what_can_be_asked_is_compared(entry):
    with pytest.raises(ValueError, match="is no arm/condition"):
        PlannedComparison(treatment=entry, comparator="answer_only/real")


def test_nothing_is_compared_with_itself():
    with pytest.raises(ValueError, match="compared with itself"):
        PlannedComparison(treatment="zero_shot/real", comparator="zero_shot/real")


def test_a_plan_of_another_schema_is_refused():
    plan = AnalysisPlan(primary=None, family=()).as_dict() | {"schema": "preceptor.analysis_plan/9"}
    with pytest.raises(ValueError, match="analysis_plan/9"):
        AnalysisPlan.from_dict(plan)
