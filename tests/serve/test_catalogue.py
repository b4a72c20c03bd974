"""Which models are served, under which names."""

import dataclasses
import json
from pathlib import Path

import pytest

from infra.errors import ArtifactError, InputError
from infra.manifest import Artifact, Manifest
from pipelines.records import Arm
from pipelines.records.endpoint import ENDPOINT_FILE, Endpoint
from serve import catalogue as catalogue_module
from serve import recipes
from serve.catalogue import read_catalogue

ARMS = (Arm.ANSWER_ONLY, Arm.RATIONALE_THEN_ANSWER)
STUDENT = dataclasses.replace(recipes.POCKET_ENGINE, dtype="bfloat16", max_model_len=2048)
TEACHER = dataclasses.replace(recipes.POCKET_ENGINE, dtype="float16")


def sealed(path: Path, digest: str, **folders: tuple[str, str]) -> Artifact:
    """An artifact as its manifest says it was made; folders: role -> (path, digest)."""
    made_from = {
        "paths": {role: path for role, (path, _) in folders.items()},
        "materials": {role: digest for role, (_, digest) in folders.items()},
    }
    manifest = Manifest(
        stage="s", key="k", digest=digest, made_from=made_from, tally={}, seconds=0, code={}, packages={}, files={}
    )
    return Artifact(path, manifest)


def run_of(tmp_path: Path, *bases: tuple[str, str], teacher: str = "train/pocket/teacher") -> dict[str, Artifact]:
    inputs = {"rationales": sealed(tmp_path / "rationales", "r" * 64, teacher=(teacher, "7" * 64))}
    for arm, base, digit in zip(ARMS, bases, "ab", strict=True):
        inputs[f"adapters/{arm}"] = sealed(tmp_path / "adapters" / arm, digit * 64, base=base)
    return inputs


def read(inputs, arms=ARMS, teacher=STUDENT):
    return read_catalogue(inputs, arms, student=STUDENT, teacher=teacher)


def test_adapters_are_named_after_base_arm_and_digest(tmp_path):
    base = ("train/pocket/base", "0" * 64)
    catalogue = read(run_of(tmp_path, base, base))
    assert [(model.name, model.arm) for model in catalogue.models] == [
        ("pocket-base", Arm.ZERO_SHOT),
        ("pocket-base:answer_only-aaaaaaaaaa", Arm.ANSWER_ONLY),
        ("pocket-base:rationale_then_answer-bbbbbbbbbb", Arm.RATIONALE_THEN_ANSWER),
        ("pocket-teacher", Arm.TEACHER),
    ]
    assert [model.digest[0] for model in catalogue.models] == ["0", "a", "b", "7"]
    assert catalogue.adapters[0].source == str(tmp_path / "adapters" / "answer_only")


def test_every_adapter_of_an_arm_has_a_name_of_its_own_even_where_two_are_alike(tmp_path):
    base = ("train/pocket/base", "0" * 64)
    inputs = run_of(tmp_path, base, base)
    for arm, digit in zip(ARMS, "ac", strict=True):
        inputs[f"adapters/{arm}-seed1"] = sealed(tmp_path / f"adapters/{arm}-seed1", digit * 64, base=base)
    catalogue = read_catalogue(inputs, ARMS, 2, student=STUDENT, teacher=STUDENT)
    assert [(model.name, model.served.arm, model.served.seed) for model in catalogue.adapters] == [
        ("pocket-base:answer_only-aaaaaaaaaa", Arm.ANSWER_ONLY, 0),
        ("pocket-base:rationale_then_answer-bbbbbbbbbb", Arm.RATIONALE_THEN_ANSWER, 0),
        ("pocket-base:answer_only-seed1-aaaaaaaaaa", Arm.ANSWER_ONLY, 1),
        ("pocket-base:rationale_then_answer-seed1-cccccccccc", Arm.RATIONALE_THEN_ANSWER, 1),
    ]
    Endpoint(base_url="http://127.0.0.1:8000/v1", models=catalogue.models).write(tmp_path)
    assert Endpoint.read(tmp_path).models == catalogue.models
    inputs["adapters/answer_only-seed1"] = sealed(tmp_path, "d" * 64, base=("other/base", "1" * 64))
    with pytest.raises(InputError, match="answer_only-seed1 on other/base"):
        read_catalogue(inputs, ARMS, 2, student=STUDENT, teacher=STUDENT)


def test_one_arm_can_be_served_alone(tmp_path):
    base = ("train/pocket/base", "0" * 64)
    catalogue = read(run_of(tmp_path, base, base), ARMS[:1])
    assert [model.arm for model in catalogue.models] == [Arm.ZERO_SHOT, Arm.ANSWER_ONLY, Arm.TEACHER]


def test_adapters_on_different_bases_are_refused_by_name(tmp_path):
    inputs = run_of(tmp_path, ("old/base", "0" * 64), ("new/base", "1" * 64))
    with pytest.raises(InputError, match=r"answer_only on old/base.*rationale_then_answer on new/base"):
        read(inputs)


@pytest.mark.parametrize(
    "made_from",
    [
        {},
        {"paths": [], "materials": {"base": "0"}},
        {"paths": {"base": 7}, "materials": {"base": "0"}},
        {"paths": {"base": "b"}, "materials": {"base": None}},
    ],
)
def test_adapter_whose_manifest_names_no_base_is_refused(tmp_path, made_from):
    inputs = run_of(tmp_path, ("b", "0" * 64), ("b", "0" * 64))
    inputs[f"adapters/{ARMS[1]}"].manifest.made_from.clear()
    inputs[f"adapters/{ARMS[1]}"].manifest.made_from.update(made_from)
    with pytest.raises(ArtifactError, match=rf"adapters/{ARMS[1]}/manifest\.json does not say which base"):
        read(inputs)


def test_base_and_teacher_of_one_name_are_refused(tmp_path):
    base = ("somewhere/pocket/base", "0" * 64)
    with pytest.raises(InputError, match="pocket-base"):
        read(run_of(tmp_path, base, base, teacher="elsewhere/pocket/base"))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("train/pocket/base", "pocket-base"),
        ("/models/base/", "models-base"),
        ("/base", "base"),
        ("Qwen/Qwen3-VL-2B-Instruct", "Qwen-Qwen3-VL-2B-Instruct"),
        ("odd/name:with-colon", "odd-name-with-colon"),
    ],
)
def test_model_name_is_the_end_of_its_path(path, name):
    assert catalogue_module.model_name(path) == name


def test_folder_becomes_absolute_and_a_hub_id_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pocket/base").mkdir(parents=True)
    base = ("pocket/base", "0" * 64)
    catalogue = read(run_of(tmp_path, base, base, teacher="Qwen/Qwen3-VL-235B"))
    assert catalogue.base.source == str(tmp_path / "pocket/base")
    assert catalogue.teacher.source == "Qwen/Qwen3-VL-235B"


def test_what_was_taught_and_fitted_in_a_revision_is_served_in_it(tmp_path):
    base = ("Qwen/Qwen3-VL-2B-Instruct", "0" * 64)
    inputs = run_of(tmp_path, base, base, teacher="Qwen/Qwen3-VL-235B")
    inputs["rationales"].manifest.made_from["config"] = {"revision": "r1"}
    for arm in ARMS:
        inputs[f"adapters/{arm}"].manifest.made_from["config"] = {"revision": "r2"}
    catalogue = read(inputs)
    assert (catalogue.teacher.revision, catalogue.base.revision) == ("r1", "r2")


def test_a_teacher_that_was_asked_at_an_endpoint_is_named_there_and_not_served(tmp_path):
    base = ("train/pocket/base", "0" * 64)
    inputs = run_of(tmp_path, base, base)
    inputs["rationales"].manifest.made_from.clear()
    inputs["rationales"].manifest.made_from["config"] = {
        "teacher": "big",
        "endpoint": "http://t/v1",
        "revision": "r1",
    }
    catalogue = read(inputs)
    assert catalogue.teacher is None
    assert (catalogue.external_teacher.name, catalogue.external_teacher.base_url) == ("big", "http://t/v1")
    assert (catalogue.external_teacher.revision, catalogue.external_teacher.engine) == ("r1", {})
    assert [model.arm for model in catalogue.models] == [Arm.ZERO_SHOT, *ARMS]


def test_a_teacher_without_an_engine_is_left_out(tmp_path):
    base = ("train/pocket/base", "0" * 64)
    catalogue = read(run_of(tmp_path, base, base), teacher=None)
    assert (catalogue.teacher, catalogue.external_teacher) == (None, None)


def test_endpoint_file_names_all_that_decides_an_answer(tmp_path):
    base = ("Qwen/Qwen3-VL-2B-Instruct", "0" * 64)
    inputs = run_of(tmp_path, base, base, teacher="Qwen/Qwen3-VL-235B")
    inputs["rationales"].manifest.made_from["config"] = {"revision": "r1"}
    for arm in ARMS:
        inputs[f"adapters/{arm}"].manifest.made_from["config"] = {"revision": "r2"}
    models = read(inputs, teacher=TEACHER).models
    Endpoint(base_url="http://127.0.0.1:8000/v1", models=models).write(tmp_path)
    of_student = {"revision": "r2", "engine": {"dtype": "bfloat16", "max_model_len": 2048}}
    of_teacher = {"revision": "r1", "engine": {"dtype": "float16", "max_model_len": None}}
    expected = {
        Arm.ZERO_SHOT: {"digest": "0" * 64, "base_digest": None, **of_student},
        Arm.ANSWER_ONLY: {"digest": "a" * 64, "base_digest": "0" * 64, **of_student},
        Arm.RATIONALE_THEN_ANSWER: {"digest": "b" * 64, "base_digest": "0" * 64, **of_student},
        Arm.TEACHER: {"digest": "7" * 64, "base_digest": None, **of_teacher},
    }
    written = json.loads((tmp_path / ENDPOINT_FILE).read_text())["models"]
    assert {model.pop("arm"): {name: model[name] for name in expected[Arm.TEACHER]} for model in written} == expected
    assert Endpoint.read(tmp_path).models == models
