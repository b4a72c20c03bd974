"""The driver: what cannot be fitted is said before anything starts, and a curve is read while it grows."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
from ray.train import WorkerGroupError

from infra.errors import ArtifactError, ConfigError, InputError
from infra.recipes import resolve
from pipelines import tables
from pipelines.records import TrainingExample
from tests.train.conftest import config, example
from train import fit
from train.card import model_card
from train.work import CurveReader, CurveWriter, Outcome, Point, Work


def test_each_adapter_depends_on_its_own_arms_examples():
    settings = resolve("pocket", ["train"])["fit"]
    assert settings.inputs() == ("questions", "examples/answer_only", "examples/rationale_then_answer")
    own = settings.outputs()["adapters/answer_only"]
    assert own == dataclasses.replace(settings, arms=("answer_only",))
    assert own.inputs() == ("questions", "examples/answer_only")
    assert list(own.outputs()) == ["adapters/answer_only"]


@pytest.mark.parametrize(
    "override",
    ["fit.batch_size=33", 'fit.arms=["none"]', "fit.precision=fp8", "fit.warmup_share=1", "fit.num_steps=0"],
)
def test_a_wrong_setting_fails_before_anything_starts(override):
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        resolve("pocket", ["train"], [override])


def test_all_recipes_resolve():
    for recipe in ("pocket", "pmc_vqa_8xh200"):
        assert resolve(recipe, ["train"])["fit"].hardware()


@pytest.mark.parametrize("base", ["/no/such/folder", "train/pocket/none", "./none", "none"])
def test_a_missing_base_says_how_to_get_one(base):
    with pytest.raises(InputError, match=f"No model at {base}: run `make pocket-models`, or set fit.base"):
        fit.locate_base(base)


def test_a_base_is_a_folder_or_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    assert fit.locate_base("own") == str(tmp_path / "own")
    assert fit.locate_base("Qwen/Qwen3-VL-2B-Instruct") == "Qwen/Qwen3-VL-2B-Instruct"


def test_an_empty_table_of_examples_is_refused(tmp_path):
    tables.write(tmp_path, TrainingExample, [])
    with pytest.raises(InputError, match="no example"):
        fit.check_examples(tmp_path)
    tables.write(tmp_path, TrainingExample, [example(0)])
    fit.check_examples(tmp_path)


def test_a_curve_is_read_while_it_grows(tmp_path):
    reader = CurveReader(tmp_path)
    assert reader.new_points() == []
    points = [Point(step, 1 / step, 0.1) for step in (1, 2, 3)]
    with CurveWriter(tmp_path, rank=0) as writer, CurveWriter(tmp_path, rank=1) as silent:
        writer.add(points[0])
        assert reader.new_points() == points[:1]
        for point in points[1:]:
            writer.add(point)
            silent.add(point)
        assert reader.new_points() == points[1:]
    with next(tmp_path.iterdir()).open("a") as stream:
        line = json.dumps(dataclasses.asdict(Point(4, 0.5, 0.1)))
        stream.write(line[:9])
        stream.flush()
        assert reader.new_points() == []
        stream.write(line[9:] + "\n")
    assert reader.new_points() == [Point(4, 0.5, 0.1)]
    assert [point.step for point in reader.points] == [1, 2, 3, 4]
    reader.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_curve_that_cannot_be_written_is_one_clear_error(tmp_path):
    with pytest.raises(ArtifactError, match="could not be written"), CurveWriter(tmp_path / "gone", rank=0):
        pass


def test_the_tally_accounts_for_every_example():
    outcome = Outcome(
        num_examples=10,
        num_trained_on=8,
        reasons={"too_long": 2},
        num_trainable=100,
        num_targets=50,
        num_tokens=400,
        seconds=2.0,
    )
    tally = fit.tally(outcome, [Point(step, float(step), 0.1) for step in range(1, 21)])
    assert tally.rows == {"examples": 10, "trained_on": 8}
    assert tally.rows["examples"] == tally.rows["trained_on"] + sum(tally.reasons.values())
    assert tally.figures["final_loss"] == 15.5
    assert tally.figures["tokens_per_second"] == 200
    assert tally.figures["target_tokens_per_second"] == 25


def test_the_card_carries_the_prompt_and_the_base():
    card = model_card(config(base="Qwen/Qwen3-VL-2B-Instruct"), "rationale_then_answer")
    assert "base_model: Qwen/Qwen3-VL-2B-Instruct" in card
    assert "Explain what you see, then name the right option and its letter." in card
    assert "Licence" in card


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray copies its own deprecated settings
def test_nothing_of_another_ray_on_the_machine_can_end_a_fit(tmp_path):
    work = Work(config=config(), base="base", examples=tmp_path, images=tmp_path, folder=tmp_path, card="")
    callbacks = fit.trainer(work)._create_default_callbacks()
    names = {type(callback).__name__ for callback in callbacks}
    assert "BackendSetupCallback" in names
    assert "PlacementGroupCleanerCallback" not in names


def test_the_users_error_comes_out_of_rays_wrapping(tmp_path, monkeypatch):
    failures = {0: RuntimeError("connection closed by peer"), 1: InputError("Image x.png cannot be read")}
    work = Work(config=config(), base="base", examples=tmp_path, images=tmp_path, folder=tmp_path, card="")

    def fail(_):
        raise WorkerGroupError("snippet", failures)

    monkeypatch.setattr(fit, "trainer", lambda _: SimpleNamespace(fit=lambda: fail(None)))
    task = SimpleNamespace()
    with pytest.raises(InputError, match=r"x\.png"):
        fit.run_workers(task, work, CurveReader(tmp_path))
    failures.popitem()
    with pytest.raises(WorkerGroupError):
        fit.run_workers(task, work, CurveReader(tmp_path))
