"""What a machine does to a fit: workers and drivers killed, other numbers of workers, a loss that is no number."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from safetensors.numpy import load_file

from pipelines.inference import prompts
from pipelines.records import Arm, Question, TrainingExample, tables
from tests.flow.conftest import PROJECT
from tests.flow.nodes import ray_nodes
from tests.pipelines.fixtures import put, put_questions, question, showing

# Ray's Cluster leaves a socket open for each node that it starts.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

NUM_EXAMPLES, NUM_STEPS, CHECKPOINT_EVERY = 40, 24, 4
SETTINGS = (
    'fit.arms=["answer_only"]',
    f"fit.num_steps={NUM_STEPS}",
    f"fit.checkpoint_every={CHECKPOINT_EVERY}",
    "fit.batch_size=8",
    "fit.validation_share=0.2",
    "fit.evaluate_every=6",
    "fit.patience=9",
)


class Fit:
    """The stage in a process of its own, over a few examples."""

    def __init__(self, folder: Path, as_left_by: "Fit | None" = None) -> None:
        self.run_dir = folder / "runs" / "a"
        self.log = folder / "log"
        if as_left_by is not None:
            shutil.copytree(as_left_by.run_dir, self.run_dir)
            return
        rng = np.random.default_rng(0)
        asked = [
            question(id=f"q{n}", images=(f"images/0.zip/{n}.png",), image_digests=(f"{n:064}",), gold="ABCD"[n % 4])
            for n in range(NUM_EXAMPLES)
        ]
        sizes = [(64 + 32 * (n % 5), 64 + 32 * (n % 3)) for n in range(NUM_EXAMPLES)]
        pictures = [Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)) for size in sizes]
        shown = {f"images/0.zip/{n}.png": each for n, each in enumerate(pictures)}
        put_questions(self.run_dir, asked, shown)
        put(
            self.run_dir,
            "examples/answer_only",
            lambda draft: tables.write(draft, TrainingExample, [_example(showing(each, shown)) for each in asked]),
        )

    def start(self, *settings: str, **environment: str) -> subprocess.Popen:
        overrides = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
        command = [sys.executable, "-m", "train.fit", "pocket", "--run-dir", str(self.run_dir), *overrides]
        with self.log.open("a") as log:
            return subprocess.Popen(
                command, cwd=PROJECT, stdout=log, stderr=log, start_new_session=True, env=os.environ | environment
            )

    def finish(self, *settings: str) -> None:
        process = self.start(*settings)
        try:
            assert process.wait(timeout=300) == 0, self.log.read_text()[-4000:]
        finally:
            end(process)

    def wait_until_step(self, step: int, since: int = 0) -> None:
        """Until it is in the curve, behind so many characters of it."""
        deadline = time.monotonic() + 180
        while f'"step": {step},' not in self.curve()[since:]:
            assert time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(0.02)

    def curve(self) -> str:
        return "".join(path.read_text() for path in self.run_dir.glob("checkpoints/answer_only/*/curve.jsonl"))

    def checkpoints(self) -> list[int]:
        seals = self.run_dir.glob("checkpoints/answer_only/*/step-*/checkpoint.json")
        return sorted(int(seal.parent.name.removeprefix("step-")) for seal in seals)

    @property
    def adapter(self) -> Path:
        return self.run_dir / "adapters/answer_only"

    def losses(self) -> list[tuple[float, float | None]]:
        steps = json.loads((self.adapter / "training.json").read_text())["steps"]
        assert [step["step"] for step in steps] == list(range(1, NUM_STEPS + 1))
        return [(step["loss"], step["validation_loss"]) for step in steps]


def _example(asked: Question) -> TrainingExample:
    return TrainingExample(
        question_id=asked.id,
        split="train",
        rationale_id=asked.id,
        arm=Arm.ANSWER_ONLY,
        weight=1.0,
        images=asked.images,
        image_digests=asked.image_digests,
        prompt=prompts.prompt(asked, Arm.ANSWER_ONLY),
        target=prompts.target(asked, None),
    )


def end(process: subprocess.Popen) -> None:
    """Kill what is left of a stage: its own process, and all that it started."""
    if process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for child in children:
            if child.is_running():
                child.kill()
        psutil.wait_procs(children, timeout=30)
        process.wait(timeout=30)


def workers(process: subprocess.Popen) -> list[psutil.Process]:
    """The processes that fit."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "RayTrainWorker" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    fit = Fit(tmp_path_factory.mktemp("unbroken"))
    fit.finish()
    return fit


def assert_same(fit: Fit, unbroken: Fit) -> None:
    """To the last bit."""
    assert fit.losses() == unbroken.losses()
    name = "adapter_model.safetensors"
    assert (fit.adapter / name).read_bytes() == (unbroken.adapter / name).read_bytes()


def assert_alike(fit: Fit, unbroken: Fit) -> None:
    """But for the last digits: another number of workers adds the same gradients in another order."""
    for (loss, watched), (wanted, wanted_watched) in zip(fit.losses(), unbroken.losses(), strict=True):
        assert loss == pytest.approx(wanted, rel=1e-3)
        assert (watched is None) == (wanted_watched is None)
    mine, theirs = (load_file(each.adapter / "adapter_model.safetensors") for each in (fit, unbroken))
    for name, matrix in theirs.items():
        assert np.allclose(mine[name], matrix, atol=1e-3), name


def assert_what_was_done_is_not_done_again(fit: Fit) -> None:
    assert fit.curve().count('"step": 4,') == 1


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What a fit left that lost a worker, went on by itself, and then lost its driver and all workers."""
    fit = Fit(tmp_path_factory.mktemp("killed"))
    process = fit.start()
    try:
        fit.wait_until_step(CHECKPOINT_EVERY + 2)
        victim, *_ = workers(process)
        victim.kill()
        fit.wait_until_step(2 * CHECKPOINT_EVERY + 1, since=len(fit.curve()))
    finally:
        end(process)
    assert "workers died" in fit.log.read_text()
    assert "starting again from step-0000" in fit.log.read_text()
    assert not fit.adapter.exists()
    return fit


def test_a_worker_and_then_a_driver_that_are_killed_in_the_middle_cost_no_bit_of_the_result(unbroken, killed, tmp_path):
    fit = Fit(tmp_path, as_left_by=killed)
    fit.finish()
    assert_what_was_done_is_not_done_again(fit)
    assert_same(fit, unbroken)


def test_a_polite_kill_leaves_checkpoints_and_no_process_and_more_workers_than_before_go_on(unbroken, killed, tmp_path):
    fit = Fit(tmp_path, as_left_by=killed)
    last = fit.checkpoints()[-1]
    process = fit.start()
    try:
        fit.wait_until_step(last + CHECKPOINT_EVERY + 1, since=len(killed.curve()))
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(timeout=60) == 130
        _, alive = psutil.wait_procs(children, timeout=30)
        assert [child.name() for child in alive] == []
    finally:
        end(process)
    assert fit.checkpoints()[-1] > last
    assert not fit.adapter.exists()
    fit.finish("fit.num_workers=4")
    assert_what_was_done_is_not_done_again(fit)
    kept = last + CHECKPOINT_EVERY
    assert fit.losses()[:kept] == unbroken.losses()[:kept]
    assert_alike(fit, unbroken)


def test_a_node_that_goes_for_good_leaves_the_fit_to_as_few_workers_as_it_may_have(unbroken, tmp_path):
    fit = Fit(tmp_path)
    with ray_nodes([1, 1], head_cpus=0) as nodes:
        process = fit.start("fit.min_workers=1", RAY_ADDRESS=nodes.address)
        try:
            fit.wait_until_step(2 * CHECKPOINT_EVERY + 1)
            (lost, *_) = nodes.worker_nodes
            nodes.remove_node(lost, allow_graceful=False)
            assert process.wait(timeout=300) == 0, fit.log.read_text()[-4000:]
        finally:
            end(process)
    said = fit.log.read_text()
    assert "2 workers start with 2 CPU, or as few as 1" in said
    assert "starting again from step-0000" in said
    assert_what_was_done_is_not_done_again(fit)
    assert_alike(fit, unbroken)


def test_a_loss_that_is_no_number_ends_the_fit_at_once_with_one_clear_error(tmp_path):
    fit = Fit(tmp_path)
    process = fit.start("fit.learning_rate=1e30", "fit.max_grad_norm=1e30", "fit.warmup_share=0")
    try:
        assert process.wait(timeout=180) == 1
    finally:
        end(process)
    said = fit.log.read_text()
    assert said.count("fit: error: ") == 1
    assert "Lower fit.learning_rate" in said
    assert "workers died" not in said
    assert not fit.adapter.exists()
