import re

from pipelines.report import tracked
from tests.pipelines.report.reports import answered, asked, everything, made, written


def test_accuracies_and_the_primary_difference_are_metrics_with_their_intervals():
    questions, rows, plan = everything()
    report = made(questions, rows, plan)
    found = tracked.metrics(report)
    entry = next(e for e in report["examination"] if e["entry"] == "rationale_then_answer/real")
    name = "rationale_then_answer/real"
    assert found[f"accuracy/{name}"] == entry["accuracy"]
    assert [found[f"accuracy_low/{name}"], found[f"accuracy_high/{name}"]] == entry["interval"]
    assert found[f"unscored/{name}"] == 10 / 80
    assert {"accuracy/answer_only/real/seed 0", "accuracy/answer_only/real/seed 1"} <= found.keys()
    told = "rationale_then_answer real minus zero_shot real"
    assert found[f"difference_low/{told}"] < found[f"difference/{told}"] < found[f"difference_high/{told}"]


def test_names_are_those_that_mlflow_allows_and_none_is_the_folder_of_another():
    questions = asked(("a/b", "c+d%.csv", 4, ("",)), ("s", "../2.csv", 4, ("",)))
    rows = [row for prompt in ("answer", "rationale") for row in answered(questions, "ABBBABBB", prompt=prompt)]
    names = tracked.metrics(made(questions, rows)).keys()
    assert len(names) == 4 * 4
    assert all(re.fullmatch(r"[\w. /-]{1,250}", name, re.ASCII) for name in names)
    assert not [name for name in names for other in names if other.startswith(f"{name}/")]
    assert not [name for name in names if "//" in name or "/../" in name]
    assert "accuracy/a b c-d-.csv/zero_shot-rationale/real" in names


def test_there_are_never_more_than_some_hundred():
    report = written(("s", "", 2, ("",)))
    many = [report["examination"][0] | {"entry": f"zero_shot/{n}"} for n in range(1000)]
    assert len(tracked.metrics(report | {"examination": many})) == tracked.MOST
