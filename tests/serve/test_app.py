"""Where the endpoint listens, who may ask it, and what is put together before anything starts."""

import dataclasses
import json
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from infra.errors import ConfigError, InputError
from pipelines.inference.backends.client import API_KEY_VARIABLE
from pipelines.records import Arm, Question, tables
from pipelines.records.endpoint import Endpoint, ServedModel
from serve import app
from serve.api import access_control
from serve.api.access_control import digest_key
from serve.api.validation import Limits
from serve.catalogue import Catalogue, HostedModel
from serve.recipes import pocket
from tests.pipelines.fixtures import question
from tests.serve.adapters import adapter_folders

POCKET = pocket().deploy


def hosted(name: str, arm: Arm, source: str) -> HostedModel:
    return HostedModel(served=ServedModel(name=name, arm=arm, digest="d" * 64), source=source)


@pytest.fixture
def catalogue(tmp_path):
    adapter_folders.write(tmp_path)
    base = adapter_folders.pocket_base()
    served = ServedModel(name="base", arm=Arm.ZERO_SHOT, digest=base.digest)
    return Catalogue(
        teacher=hosted("teacher", Arm.TEACHER, "t"),
        base=HostedModel(served=served, source=base.source),
        adapters=(hosted("base:answer_only-d", Arm.ANSWER_ONLY, str(tmp_path)),),
    )


def test_port_in_use_says_what_to_type():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}.*--set deploy\.port={port + 1}"):
            app.check_port("127.0.0.1", port)


def test_free_port_passes():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app.check_port("127.0.0.1", port)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "example.org"])
def test_endpoint_that_others_reach_demands_a_key(host, monkeypatch):
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=API_KEY_VARIABLE):
        access_control.required_key_digest(host)
    monkeypatch.setenv(API_KEY_VARIABLE, "secret")
    assert access_control.required_key_digest(host) == digest_key("secret")


def test_a_request_begins_its_answer_only_where_a_key_is_demanded_and_the_owner_allows_it():
    allowing = dataclasses.replace(POCKET, prefill=True)
    asked = [app.limits_of(config, key).prefill for config in (POCKET, allowing) for key in (None, "digest")]
    assert asked == [False, False, False, True]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_loopback_needs_no_key(host, monkeypatch):
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    assert access_control.required_key_digest(host) is None


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000/v1"),
        ("0.0.0.0", "http://127.0.0.1:8000/v1"),
        ("::1", "http://[::1]:8000/v1"),
        ("10.0.0.5", "http://10.0.0.5:8000/v1"),
    ],
)
def test_address_that_clients_use(host, url):
    assert app.base_url(dataclasses.replace(POCKET, host=host)) == url


def test_adapter_that_could_not_be_loaded_stops_the_build(catalogue, tmp_path):
    app.build(POCKET, catalogue, None)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"adapter_model\.safetensors"):
        app.build(POCKET, catalogue, None)


def test_failed_engine_is_quoted_with_its_error_alone():
    traceback = "The deployment failed to start 1 times.\nTraceback:\n  File x\nImportError: no\n\nDuring handling\n"
    failed = SimpleNamespace(message=traceback + "RuntimeError: max_model_len (2048) is\n  too long\n")
    status = SimpleNamespace(deployments={"Student": failed, "Teacher": SimpleNamespace(message="")}, message="")
    assert app.failure_of(status) == "RuntimeError: max_model_len (2048) is too long"


@pytest.mark.parametrize(("allowed", "taken"), [(1, 4), (6, 6)])
def test_engines_take_as_many_images_as_any_question_has(tmp_path, allowed, taken):
    asked = [question(), question(id="q2", split="test", images=("a",) * 4, image_digests=("a",) * 4)]
    tables.write(tmp_path, Question, asked)
    student = dataclasses.replace(POCKET.student, images_per_request=allowed)
    config = app.sized_for_questions(dataclasses.replace(POCKET, student=student), tmp_path)
    assert config.student == dataclasses.replace(student, images_per_request=taken)
    assert config.teacher == dataclasses.replace(POCKET.teacher, images_per_request=4)


def test_engine_on_four_gpus_asks_for_them_on_one_node():
    engine = dataclasses.replace(POCKET.student, gpus=4, cpus=2)
    limits = Limits(max_answer_tokens=1, max_images=1, max_image_pixels=1, image_domains=())
    asked = app.engine_deployment("Teacher", engine, limits)._replica_config
    assert asked.placement_group_bundles == [{"CPU": 2.0, "GPU": 1.0}, {"GPU": 1.0}, {"GPU": 1.0}, {"GPU": 1.0}]
    assert asked.placement_group_strategy == "STRICT_PACK"


def test_endpoint_file_reads_as_it_was_written(tmp_path):
    models = (
        ServedModel(
            name="m",
            arm=Arm.ANSWER_ONLY,
            digest="d",
            revision="r1",
            base_digest="b",
            engine={"dtype": "bfloat16", "max_model_len": 8192},
        ),
        ServedModel(name="t", arm=Arm.TEACHER, digest="e", base_url="http://t/v1"),
    )
    endpoint = Endpoint(base_url="http://127.0.0.1:8000/v1", models=models)
    endpoint.write(tmp_path)
    assert Endpoint.read(tmp_path) == endpoint


def test_endpoint_file_of_before_models_said_what_decides_their_answers_is_read(tmp_path):
    stored = {"name": "m", "arm": "answer_only", "digest": "d", "base_url": None}
    (tmp_path / "endpoint.json").write_text(json.dumps({"base_url": "http://127.0.0.1:8000/v1", "models": [stored]}))
    assert Endpoint.read(tmp_path).models == (ServedModel(name="m", arm=Arm.ANSWER_ONLY, digest="d"),)


def test_without_a_teacher_one_engine_answers_for_base_and_adapters(catalogue):
    alone = dataclasses.replace(catalogue, teacher=None)
    config = dataclasses.replace(POCKET, teacher=None)
    assert [spec.name for spec in app.engine_specs(config, alone, 8)] == ["Student"]
    deployments = app.build_app(app.build(config, alone, None), name="x").deployments
    assert sorted(deployment.name for deployment in deployments) == ["Endpoint", "Student"]


@pytest.mark.engine
def test_a_revision_reaches_the_engine_s_arguments():
    code = """
from pipelines.records.endpoint import ServedModel
from serve import app, recipes
from serve.catalogue import HostedModel
from serve.engine.server import llm_config
config = recipes.pocket().deploy
served = ServedModel(name="m", arm="teacher", digest="d", revision="v2")
model = HostedModel(served=served, source="Qwen/Qwen3-VL-2B-Instruct")
print(llm_config(model, config.teacher, {}, 0, app.limits_of(config)).engine_kwargs["revision"])
"""
    # Of its own: Ray's engine sets up the logs of the process that imports it.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "v2"
