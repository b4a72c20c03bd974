"""The stage's command: another model at any endpoint, a bar to reach, and what a CI system is told."""

import json
import xml.etree.ElementTree as ET

import pytest

from infra import manifest
from infra.errors import ConfigError
from pipelines.examination import command
from pipelines.records import Prediction, tables
from pipelines.rehearsal import stub_endpoint
from tests.pipelines.examination.test_stage import about, picture
from tests.pipelines.fixtures import put_questions

NUM = 4


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("PRECEPTOR_API_KEY", raising=False)
    asked = [about(number) for number in range(NUM)]
    put_questions(tmp_path / "r", asked, {q.images[0]: picture(n) for n, q in enumerate(asked)})
    return tmp_path / "r"


def examined(run_dir, *words, reply=lambda _: "Answer: mill (A)", model="gpt-x", api_key=None):
    """The exit code, and the rows of the other model."""
    with stub_endpoint.endpoint(reply, [model], api_key) as base_url:
        code = 0
        try:
            command.main(["pocket", "--run-dir", str(run_dir), "--endpoint", base_url, "--model", model, *words])
        except SystemExit as end:
            code = end.code
    found = (manifest.find(path) for path in (run_dir / "examinations").glob("[!.]*"))
    (artifact,) = [artifact for artifact in found if artifact is not None] or [None]
    return code, artifact and tables.read(artifact.path, Prediction)


def test_any_model_is_examined_on_a_recipe_s_questions_without_anything_being_served_by_us(run_dir):
    bodies = []

    def reply(body):
        bodies.append(body)
        return "Answer: mill (A)"

    code, rows = examined(run_dir, reply=reply)
    assert code == 0
    assert {(p.arm, p.prompt, p.condition, p.model) for p in rows} == {("zero_shot", "answer", "real", "gpt-x")}
    assert len(rows) == NUM
    assert not (run_dir / "examination").exists()
    known = {"model", "messages", "max_tokens", "temperature", "top_p", "seed"}
    assert all(set(body) == known for body in bodies)  # OpenAI's own API refuses all others


def test_entries_of_its_own_are_asked_where_they_are_named(run_dir):
    code, rows = examined(
        run_dir, "--set", 'examination.plan=["zero_shot+letter/real", "zero_shot/blank", "teacher/real"]'
    )
    assert code == 0
    assert {(p.prompt, p.condition) for p in rows} == {("letter", "real"), ("answer", "blank")}


def test_a_plan_that_asks_only_models_of_ours_is_refused(run_dir, capsys):
    code, rows = examined(run_dir, "--set", 'examination.plan=["teacher/real"]')
    assert (code, rows) == (1, None)
    assert "has no entry for zero_shot, as which another model is asked" in capsys.readouterr().err


def test_the_key_of_the_environment_is_the_endpoint_s(run_dir, monkeypatch, capsys):
    assert examined(run_dir, api_key="k")[0] == 1
    assert "wants a key, and there is none in PRECEPTOR_API_KEY" in capsys.readouterr().err
    monkeypatch.setenv("PRECEPTOR_API_KEY", "k")
    assert examined(run_dir, api_key="k")[0] == 0


@pytest.mark.parametrize(("bar", "code"), [("0.5", 0), ("0.51", 1), ("0", 0), ("1", 1)])
def test_a_bar_decides_the_exit_code_and_the_result_file_says_the_same(run_dir, tmp_path, capsys, bar, code):
    path = tmp_path / "result.xml"
    assert examined(run_dir, "--fail-under", bar, "--junit", str(path))[0] == code
    suite = ET.parse(path).getroot().find("testsuite")
    assert suite.get("failures") == str(code)
    assert (f"accuracy 0.5000 (2 of 4) is below {bar}" in capsys.readouterr().err) == bool(code)


def test_a_bar_holds_for_questions_that_are_asked_in_rotation_too(run_dir, capsys):
    words = ("--set", 'examination.plan=["zero_shot+circular/real"]', "--fail-under", "0.51")
    assert examined(run_dir, *words)[0] == 1
    assert "zero_shot/real of gpt-x" in capsys.readouterr().err


def test_a_primary_entry_without_an_accuracy_is_no_result(run_dir, capsys):
    plan = '["zero_shot+rationale+prefilled/real", "zero_shot+rationale/real"]'
    words = ("--set", f"examination.plan={plan}", "--fail-under", "0.1")
    assert examined(run_dir, *words, reply=lambda _: "It is round.\nAnswer: mill (A)")[0] == 2
    assert "no accuracy of zero_shot+rationale+prefilled/real: name another primary" in capsys.readouterr().err


def test_no_result_is_never_taken_for_a_low_one(run_dir, capsys):
    assert examined(run_dir, "--fail-under", "0.1", reply=lambda _: 400)[0] == 2
    assert "most were not answered" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--endpoint", "http://127.0.0.1:9/v1"], "--endpoint and --model go together"),
        (["--fail-under", "64"], "64 is no accuracy from 0 to 1"),
        (["--fail-under", "nan"], "nan is no accuracy"),
        (["--dry-run", "--junit", "x.xml"], "need a result, and --dry-run has none"),
    ],
)
def test_words_that_make_no_sense_end_with_the_usage(run_dir, capsys, words, said):
    with pytest.raises(SystemExit) as end:
        command.main(["pocket", "--run-dir", str(run_dir), *words])
    assert end.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["examination.model=m"], "endpoint and model go together"),
        (["examination.model=m", "examination.endpoint=host/v1"], "name the base URL, such as https://host/v1"),
        (
            ["examination.model=m", "examination.endpoint=http://h/v1", 'examination.plan=["teacher/real"]'],
            "another model is asked as zero_shot",
        ),
        (["examination.primary=teacher/blank"], "primary is 'teacher/blank', which plan does not name"),
    ],
)
def test_settings_that_contradict_each_other_are_told(settings, why):
    with pytest.raises(ConfigError, match=why):
        command.recipes.resolve("pocket", ["pipelines"], settings, only="examination")


def test_a_primary_entry_of_ours_is_no_bar_for_another_model():
    named = command.for_model("pocket", ["examination.primary=teacher/real"], "http://h/v1", "m")
    assert "examination.primary=null" in named
    assert json.loads(named[0].partition("=")[2]) == ["zero_shot/real"]


def test_models_and_endpoints_of_like_names_have_artifacts_of_their_own():
    def output(endpoint, model):
        named = command.for_model("pocket", [], endpoint, model)
        return command.recipes.resolve("pocket", ["pipelines"], named)["examination"].output

    outputs = [
        output(endpoint, model)
        for endpoint in ("http://a/v1", "http://b/v1")
        for model in ("x/y", "x:y", "../x", "/", "x" * 500)
    ]
    assert len(set(outputs)) == len(outputs)
    for each in outputs:
        folder, _, name = each.partition("/")
        assert folder == "examinations"
        assert "/" not in name
        assert name[0] not in "."
        assert len(name) < 100
