"""The endpoint of a finished run, started as a user starts it, with its processes and memory."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

PROJECT = Path(__file__).parents[2]
_START_TIMEOUT_S = 400


class Served:
    """A running endpoint: where it answers, and the processes that it consists of."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self._process = process

    def processes(self) -> list[psutil.Process]:
        """The command and everything below it."""
        command = psutil.Process(self._process.pid)
        return [command, *command.children(recursive=True)]

    def models_processes(self) -> dict[int, str]:
        """Process id -> name, of the deployments' replicas and of the engines."""
        named = {}
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                title = " ".join(process.cmdline())[:80]
                if "ServeReplica" in title or "VLLM" in title or "EngineCore" in title:
                    named[process.pid] = title
        return named

    def stop(self) -> int:
        """Press Ctrl-C, once: the exit code. Raises TimeoutExpired when it does not end."""
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(90)

    def memory_bytes(self) -> int:
        """Memory of all processes, what they share counted once (proportional set size)."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total


@contextlib.contextmanager
def serving(run_dir: Path, *settings: str, log: Path, **environment: str) -> Iterator[Served]:
    """The endpoint of a finished pocket run, up until the block ends. Raises RuntimeError when it does not start."""
    port = free_port()
    words = [word for setting in (*settings, f"deploy.port={port}") for word in ("--set", setting)]
    command = [sys.executable, "-m", "serve.app", "pocket", "--run-dir", str(run_dir), *words, "--wait"]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=os.environ | environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        served = Served(process, port)
        try:
            _wait_until_up(process, log)
            yield served
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                served.stop()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_up(process: subprocess.Popen[str], log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while "deploy: serving until Ctrl-C" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the endpoint did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.5)
