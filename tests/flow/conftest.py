"""One whole run at a small size on the real engines, which the tests of this folder look at from all sides."""

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from tests import listening

PROJECT = Path(__file__).parents[2]
CANARY = b"canary"
NO_PROXY_AT_ALL = "http://127.0.0.1:9"  # nobody listens there
CANARIES = {"PRECEPTOR_API_KEY": "canary-key", "AWS_SECRET_ACCESS_KEY": "canary/secret+1"}
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


def store_with_a_canary(path: Path) -> str:
    """The URI of an MLflow store in this file, with a password in it that SQLite pays no attention to."""
    return f"sqlite:///file:{path}?password=canary-password&uri=true"


def canaries_in(*folders: Path) -> list[Path]:
    """The files below these folders that hold a secret of the environment."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if CANARY in path.read_bytes()]


def run_watched(run_dir: Path, *settings: str, **environment: str) -> tuple[Ended, set[listening.Listener], list[Path]]:
    """The flow to its end; what it listened on meanwhile, and files with secrets where Ray had them near its end."""
    started = time.monotonic()
    lines: list[str] = []
    leaks: list[Path] = []
    with (
        subprocess.Popen(
            command("pipelines.flow", run_dir, *settings),
            cwd=PROJECT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as flow,
        listening.watched(flow.pid) as listeners,
    ):
        for line in flow.stdout:
            lines.append(line)
            if line.startswith("flow: examination took"):
                sessions = list(Path(environment["RAY_TMPDIR"]).glob("*/r/session_2*/logs"))
                assert len(sessions) == 1
                leaks = canaries_in(*(session.parent for session in sessions))
    return Ended(flow.returncode, "".join(lines), time.monotonic() - started), listeners, leaks


def interrupt_when(
    line_starts_with: str, run_dir: Path, *settings: str, **environment: str
) -> tuple[Ended, list[psutil.Process]]:
    """Start the flow and press Ctrl-C at the first line with this start; how it ended, and which children live on."""
    started = time.monotonic()
    lines: list[str] = []
    children: list[psutil.Process] = []
    with subprocess.Popen(
        command("pipelines.flow", run_dir, *settings),
        cwd=PROJECT,
        env=os.environ | environment,
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
    """A run that was interrupted while the teacher's engine started, and then run again to its end, on a machine with a
    proxy for everything, which answers nobody, a long name for its temporary files, and a strange one for the run.

    listeners: what the second run listened on. leaks: files of Ray's with a secret in them. ray_folders: what is left
    of Ray's files.
    """

    folder: Path
    interrupted: Ended
    left_alive: list[psutil.Process]
    finished: Ended
    listeners: set[listening.Listener]
    leaks: list[Path]
    ray_folders: list[Path]


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> SmallRun:
    folder = tmp_path_factory.mktemp("flow") / "runs" / "small %41 ?a=b&c #d ü"
    temporary = folder.parents[1] / ("long" * 25)
    temporary.mkdir()
    with tempfile.TemporaryDirectory(prefix="", dir="/tmp") as ray_files:  # the path of a socket is short
        store = store_with_a_canary(folder.parent / "mlflow.db")
        proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"), NO_PROXY_AT_ALL)
        environment = CANARIES | proxies | {"TMPDIR": str(temporary)}
        environment |= {"MLFLOW_TRACKING_URI": store, "RAY_TMPDIR": ray_files}
        interrupted, left_alive = interrupt_when("teach: starting", folder, *SMALL, **environment)
        for kept in Path(ray_files).iterdir():
            os.utime(kept, (0, 0))  # left by a run of long ago
        finished, listeners, leaks = run_watched(folder, *SMALL, **environment)
        assert finished.code == 0, finished.output
        left = list(Path(ray_files).iterdir())
    return SmallRun(folder, interrupted, left_alive, finished, listeners, leaks, left)
