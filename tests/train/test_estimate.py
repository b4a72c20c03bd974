"""What a fit would cost, by what was measured before or what the recipe expects."""

import dataclasses

import pytest

from infra import manifest
from infra.manifest import Tally
from tests.train.conftest import config
from train import estimate, memory, recipes

ARMS = ["adapters/answer_only", "adapters/rationale_then_answer"]


@pytest.fixture(autouse=True)
def _a_need(monkeypatch):
    need = memory.estimate_need(recipes.pocket().fit)
    monkeypatch.setattr(memory, "check", lambda settings: need)


def seal(run_dir, settings, **figures):
    with manifest.draft(run_dir / ARMS[0]) as draft:
        (draft / "x").write_text("x")
        own = dataclasses.asdict(settings.outputs()[ARMS[0]])
        measured = {"steps": 100, "step_seconds": 250.0, "tokens_per_second": 4000.0} | figures
        origin = {"config": own, "inputs": {}}
        manifest.seal(draft, run_dir / ARMS[0], stage="fit", made_from=origin, tally=Tally(metrics=measured), seconds=1)


def test_hours_are_those_of_the_steps_that_were_measured(tmp_path):
    seal(tmp_path, config(num_steps=100))
    said = estimate.estimate(config(num_steps=720), tmp_path, ARMS)
    assert said["hours"].value == 1.0
    assert said["hours"].why == "720 steps x 2 adapter(s) x 2.5 s, measured the last time"
    assert said["tokens"].value == 720 * 2 * 10_000
    assert estimate.estimate(config(num_steps=720), tmp_path, ARMS[:1])["hours"].value == 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"num_workers": 1},
        {"batch_size": 8},
        {"base": "other"},
        {"tokens_per_pack": 400},
        {"offload_optimizer": True},
        {"zero_stage": 1},
        {"distillation_weight": 1.0},
    ],
)
def test_steps_of_another_kind_measure_nothing(tmp_path, changes):
    seal(tmp_path, config())
    assert estimate.estimate(config(seed=3, learning_rate=1.0), tmp_path, ARMS)["hours"].value is not None
    said = estimate.estimate(config(**changes), tmp_path, ARMS)["hours"]
    assert said.value is None
    assert "--set fit.expected_examples_per_s=EXAMPLES" in said.why


def test_what_the_recipe_expects_counts_where_nothing_was_measured(tmp_path):
    settings = config(num_steps=900, batch_size=8, expected_examples_per_s=2.0)
    said = estimate.estimate(settings, tmp_path, ARMS)["hours"]
    assert said.value == 2.0
    assert said.why == "900 steps x 2 adapter(s) x 8 examples / 2 a second, from the recipe"


def test_the_files_that_a_fit_writes_are_counted(tmp_path):
    need = memory.check(config())
    adapter, checkpoints = need.num_trainable * 4, 2 * need.num_trainable * 12
    num_bytes = 2 * (adapter + checkpoints)
    assert estimate.estimate(config(), None, ARMS)["disk_gib"].value == pytest.approx(num_bytes / 2**30, rel=0.01)
    # Of an arm's fits only the last one's checkpoints stay.
    told = estimate.estimate(config(seeds=3), None)["disk_gib"]
    assert told.value == pytest.approx((6 * adapter + 2 * checkpoints) / 2**30, rel=0.01)


def test_hours_are_those_of_all_seeds_that_are_not_made_yet():
    settings = config(num_steps=900, batch_size=8, expected_examples_per_s=2.0, seeds=3)
    assert estimate.estimate(settings, None)["hours"].value == 6.0
    assert estimate.estimate(settings, None, ["adapters/answer_only-seed2"])["hours"].value == 1.0
