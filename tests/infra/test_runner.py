import dataclasses
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from infra import journal, manifest, materials, runner
from infra.errors import ArtifactError, InputError
from infra.manifest import Tally
from infra.progress import Progress
from infra.stage import StageConfig, Task

HERE = sys.modules[__name__]
CALLS: list[str] = []


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstConfig(StageConfig):
    stage: ClassVar[str] = "first"
    module: ClassVar[str] = __name__
    word: str = "hello"
    material: str = ""

    def outputs(self):
        return {"one": self}

    def materials(self):
        return {"material": self.material} if self.material else {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SecondConfig(StageConfig):
    stage: ClassVar[str] = "second"
    module: ClassVar[str] = __name__
    arms: tuple[str, ...] = ("a", "b")

    def outputs(self):
        return {f"two/{arm}": dataclasses.replace(self, arms=(arm,)) for arm in self.arms}

    def inputs(self):
        return ("one",)


def run(task: Task) -> Tally:
    CALLS.append(task.config.stage)
    words = getattr(task.config, "word", "/".join(getattr(task.config, "arms", ())))
    (task.draft / "words.txt").write_text(words)
    task.metric("length", len(words))
    return Tally(rows={"words": 1})


@pytest.fixture(autouse=True)
def _forget_calls(monkeypatch):
    monkeypatch.setenv(journal.DRIVER_VARIABLE, "1")  # bringing journals into MLflow takes seconds each time
    CALLS.clear()
    sys.modules.setdefault(__name__, HERE)


def carry_out(config: StageConfig, run_dir: Path):
    return runner.carry_out(config, run_dir, Progress(config.stage))


def test_a_stage_whose_settings_and_inputs_are_unchanged_is_not_run_again(tmp_path, capsys):
    run_dir = tmp_path / "runs" / "r"
    carry_out(FirstConfig(), run_dir)
    carry_out(FirstConfig(), run_dir)
    assert CALLS == ["first"]
    assert "one is up to date" in capsys.readouterr().out


def test_changed_settings_make_the_stage_run_again_and_reach_what_rests_on_it(tmp_path):
    run_dir = tmp_path / "runs" / "r"
    carry_out(FirstConfig(), run_dir)
    carry_out(SecondConfig(), run_dir)
    assert runner.current_outputs(SecondConfig(), run_dir) is not None
    carry_out(FirstConfig(word="else"), run_dir)
    assert runner.current_outputs(SecondConfig(), run_dir) is None
    carry_out(SecondConfig(), run_dir)
    assert CALLS == ["first", "second", "second", "first", "second", "second"]


def test_each_output_depends_on_its_own_settings_alone(tmp_path):
    run_dir = tmp_path / "runs" / "r"
    carry_out(FirstConfig(), run_dir)
    carry_out(SecondConfig(arms=("a",)), run_dir)
    carry_out(SecondConfig(arms=("a", "b")), run_dir)
    assert CALLS == ["first", "second", "second"]


def test_a_stage_whose_input_is_missing_says_which(tmp_path):
    with pytest.raises(ArtifactError, match=r"one is not there yet"):
        carry_out(SecondConfig(), tmp_path / "runs" / "r")


def test_a_missing_material_is_named_with_what_to_type(tmp_path):
    with pytest.raises(InputError, match=r"first\.material.*'train/nothing/here'.*--set first\.material=PATH"):
        carry_out(FirstConfig(material="train/nothing/here"), tmp_path / "runs" / "r")


def test_a_changed_material_makes_the_stage_run_again(tmp_path):
    run_dir, material = tmp_path / "runs" / "r", tmp_path / "weights"
    material.write_text("one")
    config = FirstConfig(material=str(material))
    carry_out(config, run_dir)
    materials.content_digest.cache_clear()  # a new process would not remember either
    assert runner.current_outputs(config, run_dir) is not None
    material.write_text("two")
    materials.content_digest.cache_clear()
    assert runner.current_outputs(config, run_dir) is None


@pytest.mark.engine
def test_a_failed_stage_is_a_failed_run_in_mlflow_and_a_sealed_one_carries_its_digest(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.delenv(journal.DRIVER_VARIABLE)
    run_dir = tmp_path / "runs" / "r"
    artifact = carry_out(FirstConfig(), run_dir)["one"]
    monkeypatch.setattr(HERE, "run", lambda task: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        carry_out(FirstConfig(word="else"), run_dir)
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "preceptor"]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = {r.info.status: r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert set(children) == {"FINISHED", "FAILED"}
    assert children["FINISHED"].data.tags["preceptor.digest"] == artifact.digest
    assert children["FINISHED"].data.metrics["rows.words"] == 1
    assert children["FINISHED"].data.metrics["length"] == 5
    assert manifest.find(run_dir / "one").digest == artifact.digest


def test_a_hub_s_model_counts_by_its_name_and_its_revision():
    from train.recipes import pocket

    fit = dataclasses.replace(pocket().fit, base="some/model")
    digests = {materials.digest(dataclasses.replace(fit, revision=revision), "base") for revision in (None, "v1", "v2")}
    assert len(digests) == 3
