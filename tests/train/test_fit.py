"""The driver: what cannot be fitted is said before anything starts, and a curve is read while it grows."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError

from infra.errors import ArtifactError, ClusterError, ConfigError, InputError
from infra.recipes import resolve
from pipelines.records import TrainingExample, tables
from tests.train.conftest import config, example
from train import fit, workers
from train.card import model_card
from train.curve import CurveReader, CurveWriter, Point
from train.job import FitJob, FitOutcome, Watched


def test_each_adapter_depends_on_the_examples_of_all_arms_that_it_is_compared_with():
    settings = resolve("pocket", ["train"])["fit"]
    assert settings.inputs() == ("questions", "examples/answer_only", "examples/rationale_then_answer")
    own = settings.outputs()["adapters/answer_only"]
    assert own == dataclasses.replace(settings, arms=("answer_only",), compared_arms=("rationale_then_answer",))
    assert own.inputs() == settings.inputs()
    assert own.outputs() == {"adapters/answer_only": own}
    alone = dataclasses.replace(settings, arms=("answer_only",)).outputs()["adapters/answer_only"]
    assert alone.inputs() == ("questions", "examples/answer_only")


def test_an_arm_has_an_adapter_of_each_seed_and_the_first_is_the_one_of_a_fit_with_one():
    one, three = (resolve("pocket", ["train"], [f"fit.seeds={num}"])["fit"] for num in (1, 3))
    made = three.outputs()
    arms = ("answer_only", "rationale_then_answer")
    assert set(made) == {f"adapters/{arm}{end}" for arm in arms for end in ("", "-seed1", "-seed2")}
    assert {name: made[name] for name in one.outputs()} == one.outputs()
    assert [made[f"adapters/answer_only{end}"].seed for end in ("", "-seed1", "-seed2")] == [20, 21, 22]
    assert all(own.seeds == 1 for own in made.values())


def test_in_whichever_order_arms_are_named_their_adapters_stay_the_same():
    arms = ("answer_only", "multi_task", "rationale_then_answer")
    made = [config(arms=named).outputs() for named in (arms, arms[::-1])]
    assert made[0] == made[1]


def test_the_recipes_for_real_models_fit_three_adapters_of_each_arm_and_a_rehearsal_one(tmp_path):
    settings = resolve("pmc_vqa_8xh200", ["train"])["fit"]
    assert (settings.seeds, settings.rehearsed(tmp_path, 16).seeds) == (3, 1)


def test_workers_with_a_gpu_add_up_exactly_and_leave_no_holes_in_its_memory():
    on_gpu = workers.worker_environment(config(gpus_per_worker=1))
    assert on_gpu["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert on_gpu["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert not {"CUBLAS_WORKSPACE_CONFIG", "PYTORCH_ALLOC_CONF"} & workers.worker_environment(config()).keys()


@pytest.mark.parametrize(
    "override",
    [
        "fit.batch_size=1",
        'fit.arms=["none"]',
        'fit.arms=["teacher"]',
        "fit.arms=[]",
        "fit.precision=fp8",
        "fit.warmup_share=1",
        "fit.num_steps=0",
        "fit.tokens_per_pack=100",
        "fit.zero_stage=3",
        "fit.min_workers=3",
        "fit.patience=2",
        "fit.zero_stage=4",
    ],
)
def test_a_wrong_setting_fails_before_anything_starts(override):
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        resolve("pocket", ["train"], [override])


def test_what_is_distilled_depends_on_the_rationales():
    settings = resolve("pocket", ["train"], ["fit.distillation_weight=0.5"])["fit"]
    assert settings.inputs()[:2] == ("questions", "rationales")


def test_a_fit_goes_on_from_checkpoints_of_its_own_course_alone(tmp_path):
    def place(digest="d", **changes):
        settings = config(base="Qwen/Qwen3-VL-2B-Instruct", arms=("answer_only",), **changes)
        inputs = {name: SimpleNamespace(digest=digest) for name in settings.inputs()}
        return fit.checkpoints_of(SimpleNamespace(config=settings, inputs=inputs, run_dir=tmp_path))

    assert place().parent == tmp_path / "checkpoints/answer_only"
    assert place(num_workers=1, tokens_per_pack=999, gradient_checkpointing=True, checkpoint_every=7) == place()
    assert len({place(), place("e"), place(seed=1), place(num_steps=4), place(learning_rate=0.5)}) == 5


def test_checkpoints_of_a_fit_that_did_not_end_are_never_removed_by_another(tmp_path):
    ended, broken_off, own = (tmp_path / name for name in ("ended", "broken off", "own"))
    for other in (ended, broken_off):
        (other / "step-000004").mkdir(parents=True)
    (ended / "ended").touch()
    said = []
    fit.remove_ended_checkpoints(own, said.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken off", "own"]
    assert [line.startswith(f"{broken_off} has checkpoints of a fit with other settings") for line in said] == [True]


def test_all_recipes_resolve():
    for recipe in ("pocket", "pmc_vqa_8xh200"):
        assert resolve(recipe, ["train"])["fit"].resources()


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
    points = [_point(step) for step in (1, 2, 3)]
    with CurveWriter(tmp_path, rank=0) as writer, CurveWriter(tmp_path, rank=1) as silent:
        writer.add(points[0])
        assert reader.new_points() == points[:1]
        for point in points[1:]:
            writer.add(point)
            silent.add(point)
        assert reader.new_points() == points[1:]
    with next(tmp_path.iterdir()).open("a") as stream:
        line = json.dumps(dataclasses.asdict(_point(4)))
        stream.write(line[:9])
        stream.flush()
        assert reader.new_points() == []
        stream.write(line[9:] + "\n")
    assert reader.new_points() == [_point(4)]
    assert reader.points(3) == points
    assert reader.points(9) == [*points, _point(4)]


def _point(step, loss=0.5):
    return Point(step=step, loss=loss, learning_rate=0.1, num_tokens=20, num_targets=5, seconds=0.1, reading_s=0.01)


def test_a_curve_that_was_cut_by_a_kill_goes_on_at_a_checkpoint_and_the_later_step_holds(tmp_path):
    reader = CurveReader(tmp_path)
    with CurveWriter(tmp_path, rank=0) as writer:
        for step in (1, 2, 3):
            writer.add(_point(step))
    curve = next(tmp_path.iterdir())
    curve.write_bytes(curve.read_bytes()[:-20])
    assert [point.step for point in reader.new_points()] == [1, 2]
    with CurveWriter(tmp_path, rank=0) as writer:
        for step in (2, 3):
            writer.add(_point(step, loss=0.25))
    assert [point.step for point in reader.new_points()] == [2, 3]
    assert reader.points(9) == [_point(1), _point(2, 0.25), _point(3, 0.25)]


def test_a_curve_that_cannot_be_written_is_one_clear_error(tmp_path):
    with pytest.raises(ArtifactError, match="could not be written"), CurveWriter(tmp_path / "gone", rank=0):
        pass


def _outcome(**changes):
    counted = FitOutcome(
        num_examples=10,
        num_trained_on=8,
        reasons={"too_long": 2},
        watched=Watched.NOTHING,
        num_trainable=100,
        num_targets=50,
        num_topk_targets=20,
        last_step=20,
        best_step=20,
        seconds=3.0,
    )
    return dataclasses.replace(counted, **changes)


def test_the_tally_accounts_for_every_example():
    outcome = _outcome()
    tally = fit.tally(outcome, [_point(step, float(step)) for step in range(1, 21)])
    assert tally.rows == {"examples": 10, "trained_on": 8}
    assert tally.rows["examples"] == tally.rows["trained_on"] + sum(tally.reasons.values())
    assert tally.metrics["final_loss"] == 15.5
    assert tally.metrics["tokens_per_second"] == pytest.approx(200)
    assert tally.metrics["target_tokens_per_second"] == pytest.approx(50)
    assert tally.metrics["reading_share"] == pytest.approx(0.1)
    assert "teacher_topk_share" not in tally.metrics
    distilled = fit.tally(outcome, [dataclasses.replace(_point(1), divergence=0.5)])
    assert distilled.metrics["teacher_topk_share"] == pytest.approx(0.4)


def test_the_card_carries_the_prompt_and_the_base():
    card = model_card(config(base="Qwen/Qwen3-VL-2B-Instruct"), "rationale_then_answer", _outcome())
    assert "base_model: Qwen/Qwen3-VL-2B-Instruct" in card
    assert "Explain what you see, then name the right option and its letter." in card
    assert "Licence" in card
    assert "Explain what you see.\n" not in card


def test_the_card_of_the_multi_task_arm_carries_the_prompts_of_both_tasks():
    card = model_card(config(base="Qwen/Qwen3-VL-2B-Instruct"), "multi_task", _outcome())
    for instruction in ("Name the right option and its letter.", "Explain what you see."):
        assert f"B. {{option}}\n{instruction}\n```\n" in card


def test_the_card_says_which_questions_were_watched_and_what_was_left_out_for_which_reason():
    one = config(arms=("answer_only",), compared_arms=("multi_task",))
    left_out = {"held_out": 12, "too_long_in_another_arm": 1, "not_reached": 1000, "chat_markup": 4}
    outcome = _outcome(num_examples=1025, num_trained_on=8, reasons=left_out, watched=Watched.VALIDATION)
    card = model_card(one, "answer_only", outcome)
    assert "trained on 8 of 1,025 examples" in card
    assert "questions of the validation split" in card
    assert "one of the arms `multi_task` was left out here too" in card
    assert "- 1: another arm's example of their question has more tokens than `fit.max_length`." in card
    assert "- 1,000: the fit ended before their turn came." in card
    assert "drawn as whole articles" in model_card(one, "answer_only", _outcome(watched=Watched.DRAWN))
    assert "None was left out." in model_card(one, "answer_only", _outcome(reasons={}))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray copies its own deprecated settings
def test_nothing_of_another_ray_on_the_machine_can_end_a_fit(tmp_path):
    callbacks = workers.make_trainer(_job(tmp_path))._create_default_callbacks()
    names = {type(callback).__name__ for callback in callbacks}
    assert "BackendSetupCallback" in names
    assert "PlacementGroupCleanerCallback" not in names


def _job(folder):
    places = ("examples", "images", "rationales", "checkpoints", "folder")
    return FitJob(config=config(), base="base", compared=(), **dict.fromkeys(places, folder))


@pytest.mark.parametrize(
    ("failure", "makes_progress", "num_runs"),
    [
        (RuntimeError("a bug"), False, 2),
        (RuntimeError("a bug"), True, 4),
        (RayActorError(), False, 4),
    ],
)
def test_what_dies_is_run_again_and_an_error_that_comes_back_at_the_same_place_is_not(
    tmp_path, monkeypatch, failure, makes_progress, num_runs
):
    runs, said = [], []

    def run_workers(job, poll):
        runs.append(1)
        if makes_progress:
            (tmp_path / f"step-{len(runs):06}").mkdir()
        raise WorkerGroupError("snippet", {0: failure})

    monkeypatch.setattr(fit, "run_workers", run_workers)
    monkeypatch.setattr(fit, "require_resources", lambda task: None)
    task = SimpleNamespace(progress=SimpleNamespace(say=said.append))
    with pytest.raises(ClusterError, match=f"died {num_runs} times, now with {type(failure).__name__}"):
        fit.run_with_restarts(task, _job(tmp_path), CurveReader(tmp_path))
    assert len(runs) == num_runs == len(said) + 1


def test_the_users_error_comes_out_of_rays_wrapping(tmp_path, monkeypatch):
    failures = {0: RuntimeError("connection closed by peer"), 1: InputError("Image x.png cannot be read")}

    def fail():
        raise WorkerGroupError("snippet", failures)

    monkeypatch.setattr(workers, "make_trainer", lambda _: SimpleNamespace(fit=fail))
    with pytest.raises(InputError, match=r"x\.png"):
        workers.run_workers(_job(tmp_path), lambda: None)
    failures.popitem()
    with pytest.raises(WorkerGroupError):
        workers.run_workers(_job(tmp_path), lambda: None)
