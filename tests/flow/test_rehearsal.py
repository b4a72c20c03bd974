"""Every shipped recipe is rehearsed; and each fault that a cluster once found after hours is found by a rehearsal."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infra import cluster, recipes
from infra.resources import ClusterShape, Workers
from pipelines import flow
from pipelines.questions.sources import pocket
from pipelines.rehearsal import stub_endpoint
from tests.flow.conftest import PROJECT

pytestmark = pytest.mark.filterwarnings("default")  # Ray Data and vLLM warn about themselves
SHIPPED = sorted(recipes.known_recipes("pipelines"))
ON_REAL_ENGINES = "pmc_vqa_8xh200_thinking"  # the longest contexts and answers
BESIDE = '{"cpus": 8, "gpus": 8, "max_model_len": 8192}'


def rehearsed(recipe: str, folder: Path, *overrides: str) -> list[str]:
    return flow.rehearse(recipe, folder, overrides, num_questions=6, with_engines=False)


def has(findings: list[str], pattern: str) -> bool:
    return any(re.search(pattern, finding) for finding in findings)


@pytest.mark.parametrize("recipe", [name for name in SHIPPED if name != ON_REAL_ENGINES])
def test_a_shipped_recipe_reaches_its_report(tmp_path, recipe, capfd):
    assert rehearsed(recipe, tmp_path) == []
    assert (tmp_path / "rehearsal/report/index.html").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["rehearsal"]  # nothing that a run would take for its own
    assert '"asctime"' not in capfd.readouterr().err


def test_a_shipped_recipe_is_fitted_served_and_examined_on_real_engines(tmp_path):
    words = [ON_REAL_ENGINES, "--rehearse", "--questions", "8", "--run-dir", str(tmp_path), "--set", "deploy.port=8127"]
    words += ["--arms", "answer_only"]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.flow", *words], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rehearse: no findings in" in done.stdout
    assert "report: teacher/real " in done.stdout
    assert (tmp_path / "rehearsal/adapters/answer_only/adapter_model.safetensors").is_file()


def test_every_fault_of_a_recipe_is_found_in_one_rehearsal(tmp_path, monkeypatch):
    from serve import app, catalogue

    deployment = app.engine_deployment
    scattered = {"placement_group_strategy": "PACK"}
    monkeypatch.setattr(app, "engine_deployment", lambda *asked: deployment(*asked).options(**scattered))
    monkeypatch.setattr(catalogue.HostedModel, "revision", None)
    findings = rehearsed(
        "pmc_vqa_8xh200",
        tmp_path,
        f"deploy.teacher={BESIDE}",
        "teach.engine.replicas=3",
        "teach.max_tokens=2048",
        'examination.budgets=[{"arm": "teacher", "max_tokens": 1024, "timeout_s": 60}]',
        "teach.revision=0123abcd",
        "teach.engine.mm_encoder_tp_mode=sideways",
    )
    assert has(findings, r"^deploy asks for 16 CPUs and 9 GPUs in all, .* --set deploy\.teacher=null")
    assert has(findings, r"^teach asks for 12 CPUs and 12 GPUs in all")
    assert has(findings, r"2048 tokens to teach .* 1024 in the examination: --set 'examination.budgets=.*2048")
    assert has(findings, r"^examination.budgets\[teacher\].timeout_s is 60, too short for 1024 tokens")
    assert has(findings, r"^teach: vLLM does not take the arguments of Qwen/.*mm-encoder-tp-mode.*sideways")
    assert has(findings, r"^deploy: Ray Serve may place the GPUs of one replica of Teacher on several nodes \(PACK\)")
    monkeypatch.setattr(app, "engine_deployment", deployment)
    findings = rehearsed("pmc_vqa_8xh200", tmp_path, "teach.revision=0123abcd")
    assert findings == [
        "deploy: Qwen/Qwen3-VL-235B-A22B-Instruct-FP8 would be loaded in revision None, and the recipe names 0123abcd"
    ]


def test_a_teacher_at_an_endpoint_goes_through_the_whole_flow_and_one_that_does_not_answer_is_told(tmp_path):
    with stub_endpoint.endpoint(lambda body: "unused", models=["big-teacher"]) as url:
        asked = [f"teach.endpoint={url}", "teach.teacher=big-teacher"]
        assert rehearsed("pmc_vqa_8xh200", tmp_path, *asked) == []
    assert has(
        rehearsed("pmc_vqa_8xh200", tmp_path, *asked), rf"^teach: Nothing answers at {url} .*teach\.endpoint=URL"
    )


def test_a_split_that_is_empty_is_told_with_why(tmp_path):
    own, several = tmp_path / "own", json.dumps([{"reader": "folder"}])
    pocket.write(own, pocket.PocketConfig(num_train_questions=4, num_test_questions=4))
    changes = (
        f"questions.folder={own}",
        f"questions.sources={several}",
        "questions.curation.validation_share=0.9999999",
    )
    (finding,) = rehearsed("pmc_vqa_8xh200", tmp_path, *changes)
    told = r"questions: Nothing is left to train on: 4 questions are kept for validation\. Lower "
    assert re.match(told, finding)


def test_workers_find_their_places_on_several_logical_nodes_and_not_where_they_are_too_large(monkeypatch):
    monkeypatch.setattr(cluster, "_PLACED_WITHIN_S", 3.0)

    def engines(count: int, gpus: int) -> Workers:
        return Workers(what="engines", count=count, cpus=8, gpus=gpus)

    with cluster.logical(ClusterShape(nodes=2, cpus=32, gpus=8)):
        assert cluster.without_place([engines(1, 1), engines(1, 8)]) is None
        assert cluster.without_place([engines(2, 8)]) is None  # the places were given back
        assert cluster.without_place([engines(1, 5), engines(1, 5), engines(1, 5)]) is not None
