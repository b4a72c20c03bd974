"""One whole run at a small size on the real engines, which the tests of this folder look at from all sides."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PROJECT = Path(__file__).parents[2]
SMALL = (
    "draw.pocket.num_train_questions=96",
    "draw.pocket.num_test_questions=24",
    "teach.top_logprobs=4",
    "fit.num_steps=20",
    "fit.distillation_weight=0.5",
    "deploy.port=8123",
    "report.num_examples=4",
)


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, all that it printed, and how long it took."""

    code: int
    output: str
    seconds: float


def command(module: str, run_dir: Path, *settings: str) -> list[str]:
    overrides = [word for setting in settings for word in ("--set", setting)]
    return [sys.executable, "-m", module, "pocket", "--run-dir", str(run_dir), *overrides]


def run(module: str, run_dir: Path, *settings: str, **environment: str) -> Ended:
    started = time.monotonic()
    done = subprocess.run(
        command(module, run_dir, *settings),
        cwd=PROJECT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1100,
        check=False,
    )
    return Ended(done.returncode, done.stdout, time.monotonic() - started)


def interrupt_when(line_starts_with: str, run_dir: Path, *settings: str) -> tuple[Ended, list[psutil.Process]]:
    """Start the flow and press Ctrl-C at the first line with this start; how it ended, and which children live on."""
    started = time.monotonic()
    lines: list[str] = []
    children: list[psutil.Process] = []
    with subprocess.Popen(
        command("pipelines.flow", run_dir, *settings),
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as flow:
        for line in flow.stdout:
            lines.append(line)
            if line.startswith(line_starts_with):
                time.sleep(8)  # into the engine's start, where it has children of its own
                children = psutil.Process(flow.pid).children(recursive=True)
                flow.send_signal(signal.SIGINT)
                break
        lines += flow.stdout.readlines()
        code = flow.wait(timeout=120)
    _, alive = psutil.wait_procs(children, timeout=30)
    return Ended(code, "".join(lines), time.monotonic() - started), alive


@dataclasses.dataclass(frozen=True)
class SmallRun:
    """A run that was interrupted while the teacher's engine started, and then run again to its end."""

    folder: Path
    interrupted: Ended
    left_alive: list[psutil.Process]
    finished: Ended


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> SmallRun:
    folder = tmp_path_factory.mktemp("flow") / "runs" / "small"
    interrupted, left_alive = interrupt_when("teach: starting", folder, *SMALL)
    finished = run("pipelines.flow", folder, *SMALL)
    assert finished.code == 0, finished.output
    return SmallRun(folder, interrupted, left_alive, finished)
