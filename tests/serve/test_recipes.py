"""Deploy settings: defaults, and values that are refused before anything starts."""

import dataclasses
import json
import subprocess
import sys

import pytest

from infra import recipes
from infra.errors import ConfigError
from infra.resources import total
from pipelines.records import TAUGHT
from serve.recipes import DeployConfig, pocket


def test_deploy_reads_the_questions_the_teacher_from_the_rationales_and_the_base_from_the_adapters():
    config = pocket().deploy
    assert config.inputs() == ("questions", "rationales", "adapters/answer_only", "adapters/rationale_then_answer")
    assert config.outputs() == {"endpoint": config}
    assert config.service


def test_any_arm_that_is_taught_can_be_served():
    named = json.dumps(TAUGHT)
    config = recipes.resolve("pocket", ["serve"], [f"deploy.arms={named}"])["deploy"]
    assert config.inputs()[2:] == tuple(f"adapters/{arm}" for arm in TAUGHT)


def test_every_adapter_of_an_arm_can_be_served_and_a_rehearsal_serves_one(tmp_path):
    config = recipes.resolve("pocket", ["serve"], ["deploy.seeds=2"])["deploy"]
    assert config.inputs()[2:] == tuple(f"adapters/{arm}{end}" for end in ("", "-seed1") for arm in config.arms)
    assert config.rehearsed(tmp_path, 16).inputs() == pocket().deploy.inputs()


def test_settings_of_an_engine_are_set_by_their_path():
    config = recipes.resolve("pocket", ["serve"], ["deploy.student.max_num_seqs=4", "deploy.port=8001"])["deploy"]
    assert (config.student.max_num_seqs, config.teacher.max_num_seqs, config.port) == (4, 32, 8001)


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("deploy.port=0", "port"),
        ("deploy.port=70000", "port"),
        ("deploy.student.replicas=0", "replicas"),
        ("deploy.student.gpus=-1", "gpus"),
        ('deploy.arms=["teacher"]', "name at least one arm of answer_only, .*, and no other"),
        ("deploy.arms=[]", "name at least one arm"),
        ("deploy.hots=x", "Did you mean 'host'"),
    ],
)
def test_impossible_setting_is_refused(override, word):
    with pytest.raises(ConfigError, match=word):
        recipes.resolve("pocket", ["serve"], [override])


def test_hardware_counts_replicas_of_both_engines():
    config = pocket().deploy
    engine = dataclasses.replace(config.student, replicas=3, cpus=2)
    assert total(DeployConfig(student=engine, teacher=config.teacher).resources()) == (7, 0)


def test_light_modules_import_no_engine():
    light = ("recipes", "catalogue", "adapters.folder", "api.endpoint", "engine.replica", "readiness")
    modules = ", ".join(f"serve.{name}" for name in light)
    heavy = "{'ray', 'torch', 'vllm', 'transformers'}"
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_answers_that_requests_begin_are_for_those_who_have_the_key(monkeypatch):
    config = dataclasses.replace(pocket().deploy, prefill=True)
    monkeypatch.delenv("PRECEPTOR_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"deploy\.prefill .* export one as PRECEPTOR_API_KEY"):
        config.check()
    dataclasses.replace(config, prefill=False).check()
    monkeypatch.setenv("PRECEPTOR_API_KEY", "k" * 32)
    config.check()
