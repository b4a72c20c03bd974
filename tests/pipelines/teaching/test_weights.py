"""Whether a teacher fits into the GPUs of an engine, before one is asked for."""

import pytest

from infra.resources import ClusterShape
from pipelines.inference.backends.engine_config import EngineConfig
from pipelines.recipes import POCKET_TEACHER
from pipelines.teaching import weights

H100 = ClusterShape(cpus=96, gpus=8, gpu_memory_gib=80)


@pytest.mark.parametrize(
    ("teacher", "gib"),
    [
        ("Qwen/Qwen3-VL-235B-A22B-Instruct-FP8", 235e9 / 2**30),
        ("Qwen/Qwen3-VL-235B-A22B-Thinking", 2 * 235e9 / 2**30),
        ("Qwen/Qwen3-VL-32B-Instruct", 2 * 32e9 / 2**30),
        ("org/model-1.5B", 2 * 1.5e9 / 2**30),
        ("Qwen/Qwen2.5-VL-72B-Instruct-AWQ", None),
        ("org/Model-7B-GPTQ-Int4", None),
        ("org/model", None),
        ("org/Model-3Beta", None),
    ],
)
def test_without_files_the_name_says_how_many_numbers_there_are_or_nothing_is_said(teacher, gib):
    said = weights.of_engine(teacher, EngineConfig(gpus=4), H100)
    if gib is None:
        assert said["weights_gib"] is None
        assert "its name does not say its size" in said["why"]
        assert "not known" in weights.told(said)
    else:
        assert said["weights_gib"] == pytest.approx(gib / 4, rel=0.01)
        assert said["why"].startswith("assumed")


def test_files_on_this_machine_are_measured(tmp_path):
    for shard in range(3):
        (tmp_path / f"model-{shard}.safetensors").write_bytes(b"x" * (1 << 20))
    said = weights.of_engine(str(tmp_path), EngineConfig(gpus=2), H100)
    assert said["weights_gib"] == pytest.approx(3 / 1024 / 2, rel=0.01)
    assert said["why"].startswith("measured")
    assert weights.of_engine(POCKET_TEACHER, EngineConfig(), None)["usable_gib"] is None


def test_what_is_left_is_told_and_what_does_not_fit_is_told_loudly():
    said = weights.of_engine("org/model-32B", EngineConfig(gpus=1, memory_utilization=0.9), H100)
    assert (said["usable_gib"], said["left_gib"]) == (72, pytest.approx(72 - 59.6, abs=0.1))
    assert "which leaves 12.4 for what it reads and writes" in weights.told(said)
    tight = weights.of_engine("org/model-70B", EngineConfig(gpus=1), H100)
    assert "THEY DO NOT FIT" in weights.told(tight)
