import json
import socket

import pytest
from mlflow import MlflowClient

from infra import manifest
from pipelines.records import Arm, Condition, Prediction, Question, Rationale, TrainingExample, Verdict, tables
from tests.flow.conftest import CANARY, SMALL, canaries_in, run

ARTIFACTS = (
    "source",
    "questions",
    "rationales",
    "verdicts",
    "examples/answer_only",
    "examples/rationale_then_answer",
    "adapters/answer_only",
    "adapters/rationale_then_answer",
    "examination",
    "report",
)


@pytest.fixture(scope="module")
def report(small_run):
    return json.loads((small_run.folder / "report/report.json").read_text())


def test_ctrl_c_ends_the_flow_and_every_child_of_it(small_run):
    assert small_run.interrupted.code == 130
    assert [process.name() for process in small_run.left_alive] == []


def test_an_interrupted_stage_leaves_nothing_and_the_next_run_continues_from_what_was_sealed(small_run):
    assert "draw is up to date" in small_run.finished.output
    assert "questions is up to date" in small_run.finished.output
    assert "teach is up to date" not in small_run.finished.output
    assert list(small_run.folder.glob(".*.draft-*")) == []


def test_every_artifact_is_sealed_with_the_digests_of_what_it_was_made_from(small_run):
    sealed = {name: manifest.find(small_run.folder / name) for name in ARTIFACTS}
    assert [name for name, artifact in sealed.items() if artifact is None] == []
    for artifact in sealed.values():
        for name, digest in artifact.made_from["inputs"].items():
            assert sealed[name].digest == digest


def test_every_question_is_accounted_for_from_the_source_to_the_report(small_run, report):
    folder = small_run.folder
    account = report["accounting"]
    questions = tables.read(folder / "questions", Question)
    rationales = tables.read(folder / "rationales", Rationale)
    verdicts = tables.read(folder / "verdicts", Verdict)
    assert (
        account["questions"]["rows"]["read"] == len(questions) + sum(account["questions"]["rejected"].values()) == 120
    )
    plain = [r for r in rationales if r.condition == Condition.REAL]
    assert [r.question_id for r in plain] == [q.id for q in questions if q.split == "train" for _ in range(2)]
    assert {r.condition for r in rationales} == {Condition.REAL, Condition.ABSENT, Condition.SHUFFLED}
    assert [v.rationale_id for v in verdicts] == [r.id for r in plain]
    kept_back = account["verdicts"]["rejected"] | account["verdicts"]["quarantined"]
    assert len(verdicts) == 2 * 96 == account["verdicts"]["rows"]["accepted"] + sum(kept_back.values())
    selected = [v for v in verdicts if v.selected]
    assert len({v.question_id for v in selected}) == len(selected) == account["verdicts"]["rows"]["questions_taught"]
    for arm in ("answer_only", "rationale_then_answer"):
        examples = tables.read(folder / "examples" / arm, TrainingExample)
        assert [e.rationale_id for e in examples] == [v.rationale_id for v in selected]
        trained = account[f"adapters/{arm}"]
        assert trained["rows"]["examples"] == len(examples)
        assert trained["rows"]["trained_on"] + sum(trained["rejected"].values()) == len(examples)


def test_the_report_scores_every_arm_and_condition_of_the_plan(report):
    entries = {(e["arm"], e["condition"]): e for e in report["examination"]}
    assert set(entries) == {
        (Arm.ZERO_SHOT, Condition.REAL),
        (Arm.ANSWER_ONLY, Condition.REAL),
        (Arm.RATIONALE_THEN_ANSWER, Condition.REAL),
        (Arm.RATIONALE_THEN_ANSWER, Condition.BLANK),
        (Arm.RATIONALE_THEN_ANSWER, Condition.SHUFFLED),
        (Arm.TEACHER, Condition.REAL),
    }
    for entry in entries.values():
        assert entry["asked"] == 24 == entry["scored"] + entry["unscored"]
        low, high = entry["interval"]
        assert low <= entry["accuracy"] <= high
        assert sum(stratum["asked"] for stratum in entry["strata"].values()) == 24
    assert entries[Arm.TEACHER, Condition.REAL]["accuracy"] > 0.5


def test_base_and_adapters_are_different_models_behind_one_endpoint(small_run):
    predictions = tables.read(small_run.folder / "examination", Prediction)
    said = {}
    for prediction in predictions:
        if prediction.condition == Condition.REAL:
            said.setdefault(prediction.arm, []).append(prediction.text)
    assert len({tuple(texts) for texts in said.values()}) == len(said) == 4
    assert all(prediction.error is None for prediction in predictions)


def test_adapters_are_plain_peft_folders_on_the_language_model_alone(small_run):
    from safetensors import safe_open

    for arm in ("answer_only", "rationale_then_answer"):
        folder = small_run.folder / "adapters" / arm
        assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
        with safe_open(folder / "adapter_model.safetensors", framework="np") as tensors:
            names = list(tensors.keys())
            assert all(name.startswith("base_model.model.model.language_model.layers.") for name in names)
            assert all(tensors.get_tensor(name).any() for name in names if "lora_B" in name)


def test_each_stage_is_a_run_under_one_parent_in_mlflow(small_run):
    client = MlflowClient(f"sqlite:///{small_run.folder.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("preceptor")
    runs = client.search_runs([experiment.experiment_id])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert len(parents) == 1
    finished = {r.data.tags["mlflow.runName"] for r in runs if r.info.status == "FINISHED"}
    assert finished >= {"draw", "questions", "teach", "verify", "fit answer_only", "deploy", "examination", "report"}
    assert {r.data.tags["mlflow.runName"] for r in runs if r.info.status != "FINISHED"} == {"teach"}
    assert "KILLED" in {r.info.status for r in runs if r.data.tags["mlflow.runName"] == "teach"}  # the interrupted one
    assert parents[0].info.status == "FINISHED"
    assert experiment.artifact_location == (small_run.folder.parent / "mlruns").as_uri()
    (fit,) = [r for r in runs if r.data.tags["mlflow.runName"] == "fit rationale_then_answer"]
    assert len(client.get_metric_history(fit.info.run_id, "loss")) > 1


def test_a_second_run_with_nothing_changed_starts_nothing(small_run):
    before = {name: manifest.find(small_run.folder / name).digest for name in ARTIFACTS}
    again = run("pipelines.flow", small_run.folder, *SMALL)
    assert again.code == 0
    assert "took" not in again.output
    assert {name: manifest.find(small_run.folder / name).digest for name in ARTIFACTS} == before


def test_prompts_and_rationales_stay_out_of_the_logs(small_run):
    logs = "".join(path.read_text(errors="replace") for path in (small_run.folder / "logs").iterdir())
    said = {r.text.splitlines()[0] for r in tables.read(small_run.folder / "rationales", Rationale) if r.text}
    assert "Which process route" not in logs
    assert "base64" not in logs
    assert [line for line in said if line in logs] == []


def test_nothing_of_the_flow_listens_beyond_loopback(small_run):
    names = " ".join(listener.process for listener in small_run.listeners)
    parts = ("gcs_server", "raylet", "dashboard.py", "WorkerActor", "RayTrainWorker", "ServeReplica")
    assert [part for part in parts if part not in names] == []
    assert ("127.0.0.1", 8123) in {(listener.address, listener.port) for listener in small_run.listeners}
    assert [listener for listener in small_run.listeners if not listener.is_loopback] == []


def test_no_secret_is_in_what_is_printed_the_run_folder_or_ray_s_files(small_run):
    assert small_run.leaks == []
    assert canaries_in(small_run.folder.parent) == []
    assert CANARY.decode() not in small_run.interrupted.output + small_run.finished.output


def test_ray_s_files_are_gone_when_the_flow_has_ended_also_those_of_the_interrupted_one(small_run):
    assert small_run.ray_folders == []


def test_the_endpoint_is_gone_when_the_flow_has_ended(small_run):
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", 8123)) != 0


def test_a_stage_runs_alone_and_a_port_in_use_says_what_to_type(small_run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run("serve.app", small_run.folder, f"deploy.port={port}")
    assert ended.code == 1
    (error,) = [line for line in ended.output.splitlines() if line.startswith("deploy: error: ")]
    assert str(port) in error
    assert "--set deploy.port=" in error


def test_a_cluster_that_does_not_answer_is_one_clear_error(tmp_path):
    ended = run("pipelines.flow", tmp_path / "r", RAY_ADDRESS="http://127.0.0.1:9")
    assert ended.code == 1
    assert ended.output.splitlines()[-1].startswith("flow: error: ")
    assert "127.0.0.1:9" in ended.output.splitlines()[-1]
    assert "Traceback" not in ended.output


def test_a_failed_stage_stops_the_flow_with_its_own_error_and_where_the_log_is(tmp_path):
    empty = tmp_path / "mine"
    empty.mkdir()
    ended = run("pipelines.flow", tmp_path / "runs/r", f"questions.folder={empty}")
    assert ended.code == 1
    assert "flow: error: " in ended.output
    assert "questions.jsonl is not there" in ended.output
    assert "logs/questions.log" in ended.output
    assert "teach" not in ended.output
