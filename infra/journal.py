"""What is to be recorded in MLflow, written to a file first: a stage never waits for MLflow, and never fails with it.

Each output has a journal in `.unrecorded/`: the stage's name, its numbers as they come, and how it ended, with the
sealed manifest. A child process (`infra.tracking`) brings the journals into MLflow while the stage works, and removes
those that are recorded completely. A journal that is left over is recorded by the child of the next run.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.errors import first_line
from infra.manifest import Artifact
from infra.progress import Progress
from infra.redaction import redacted

FOLDER = ".unrecorded"
STORE_VARIABLE = "MLFLOW_TRACKING_URI"
DRIVER_VARIABLE = "PRECEPTOR_DRIVER_RECORDS"  # set in the jobs of a flow, whose driver has a recorder for all of them
SUFFIX = ".jsonl"
_STARTS_WITHIN_S = 150.0  # Python, MLflow's imports and a new store's tables, on a busy machine
_SPEAKS_WITHIN_S = 20.0  # it prints a line after each request, and most requests time out after 3 or 4 s
_ENDS_WITHIN_S = 30.0  # even while it still records
_TRIES_AGAIN_AFTER_S = 60.0
_POLL_S = 0.02
_PROJECT = str(Path(__file__).parents[1])
_LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",  # MLflow's own is 120 s
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # MLflow's own are 7
    "RES_OPTIONS": "timeout:2 attempts:1",  # the C library asks a name server that is silent for 10 s
}
_NEEDLESS = ("files", "packages")  # parts of a manifest that are long, and not recorded


def folder(run_dir: Path, place: Path) -> Path:
    """Where the journals of an artifact at `place` lie: in the run folder, but never in the artifact itself."""
    run_dir = run_dir.absolute()
    return (run_dir.parent if place.absolute() == run_dir else run_dir) / FOLDER


class Journal:
    """The journal of one output. No method raises for an error of the disk: the recorder warns once."""

    def __init__(self, recorder: "Recorder", header: dict[str, Any]) -> None:
        self._recorder = recorder
        self._header = header
        self._ended = False
        self._path = recorder.folder / f"{_now_ms()}-{uuid.uuid4().hex[:8]}{SUFFIX}"
        self._descriptor: int | None = None
        self._write()

    def metric(self, name: str, value: float, step: int = 0) -> None:
        """Note a number at a step; anything that is no number is left out with a warning."""
        try:
            point = [str(name), float(value), int(step), _now_ms()]
        except (TypeError, ValueError, OverflowError) as error:
            self._recorder.warn(f"the metric {name} is no number: {error}")
            return
        self._write({"metric": point})
        self._recorder.start()

    def sealed(self, artifact: Artifact) -> None:
        """Note that the artifact is sealed, with what its manifest says."""
        stated = {name: value for name, value in vars(artifact.manifest).items() if name not in _NEEDLESS}
        self._end({"end": "FINISHED", "manifest": stated, "at_ms": _now_ms()})

    def failed(self) -> None:
        """Note that the stage ended without an artifact."""
        self._end({"end": "FAILED", "at_ms": _now_ms()})

    def interrupted(self) -> None:
        """Note that the stage was stopped before its end."""
        self._end({"end": "KILLED", "at_ms": _now_ms()})

    def _end(self, line: dict[str, Any]) -> None:
        self._ended = True
        self._write(line)

    def _write(self, *lines: dict[str, Any]) -> None:
        """Append lines, to a new file if there is none: the disk may have been full before; or a recorder on another
        machine, which the locks of some file systems do not reach, may have removed it since it took this stage for
        dead."""
        try:
            if self._descriptor is None or not self._path.exists():
                self._let_go()
                self._descriptor = _new(self._path, self._header)
            for line in lines:
                _append(self._descriptor, line)
        except OSError as error:
            self._recorder.warn(f"{self._recorder.folder} cannot be written: {error}")

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def close(self) -> None:
        """Close the file. A journal without an end gets one that says that the stage failed."""
        if not self._ended:
            self.failed()
        self._let_go()


def _new(journal: Path, header: dict[str, Any]) -> int:
    """A new journal, locked while this process lives. It gets its name when its header is written, so that others never
    see it without one."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    path = journal.with_suffix("")
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with contextlib.suppress(
            OSError
        ):  # a file system without locks; there, the written end shows that the stage is gone
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _append(descriptor, header)
        path.rename(journal)
    except OSError:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor


def _append(descriptor: int, line: dict[str, Any]) -> None:
    text = f"\n{json.dumps(line)}\n".encode()  # on a new line, even after a line that a full disk has cut off
    if os.write(descriptor, text) < len(text):
        raise OSError("no space left on the device")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Recorder:
    """The child process that brings the journals of a folder into MLflow, seen from the stage.

    The first journal starts it. If it fails, it is started again after a while. At the end the stage waits for it as
    long as it makes progress. If something goes wrong, the stage prints one warning.
    """

    def __init__(self, run_dir: Path, journals: Path, progress: Progress) -> None:
        self.run_dir = run_dir
        self.folder = journals
        self.progress = progress
        self._warned = False
        self._child: subprocess.Popen[bytes] | None = None
        self._listener: threading.Thread | None = None
        self._started = self._heard = -_TRIES_AGAIN_AFTER_S
        self._said = ""

    @contextlib.contextmanager
    def journal(self, stage: str, output: str, place: Path, key: str) -> Iterator[Journal]:
        """The journal of an output while it is made. key: the one that the artifact's manifest will have."""
        header = {
            "stage": stage,
            "output": output,
            "place": str(place.absolute()),
            "run_dir": str(self.run_dir.absolute()),
            "key": key,
            "started_ms": _now_ms(),
        }
        journal = Journal(self, header)
        self.start()
        try:
            yield journal
        except KeyboardInterrupt:
            journal.interrupted()
            raise
        finally:
            journal.close()

    def warn(self, reason: str) -> None:
        """Tell the user, once, that something is not in MLflow yet."""
        if not self._warned:
            self._warned = True
            self.progress.say(
                f"not all is recorded in MLflow yet ({redacted(reason)}); the next run records what is missing"
            )

    def start(self) -> None:
        """Start the child, unless it runs, has failed a moment ago, or a flow's driver has one."""
        if (
            os.environ.get(DRIVER_VARIABLE)
            or self._is_running()
            or time.monotonic() - self._started < _TRIES_AGAIN_AFTER_S
        ):
            return
        self._started = self._heard = time.monotonic()
        self._said = ""
        self._end_child()
        try:
            self._child = _child(self.run_dir.absolute(), self.folder.absolute())
        except OSError as error:
            self.warn(f"its process did not start: {first_line(error)}")
            return
        self._listener = threading.Thread(target=self._listen, args=(self._child,), daemon=True)
        self._listener.start()

    def _is_running(self) -> bool:
        return self._listener is not None and self._listener.is_alive()

    def _listen(self, child: "subprocess.Popen[bytes]") -> None:
        assert child.stdout
        for line in child.stdout:
            self._heard = time.monotonic()
            self._said = line.decode(errors="replace").strip() or self._said
        if code := child.wait():
            self.warn(self._said if code > 0 and self._said else f"its process ended with {code}")

    def finish(self) -> None:
        """Have everything recorded; waits at most a few seconds without progress."""
        with contextlib.suppress(OSError):
            if any(self.folder.glob(f"*{SUFFIX}")):
                self.start()
        if self._child is None:
            return
        try:
            if self._is_running():
                self._wait(self._child)
        finally:
            self._end_child()

    def _end_child(self) -> None:
        if self._child is None:
            return
        self._child.kill()
        self._child.wait()
        if self._listener is not None:
            self._listener.join()
        for pipe in (self._child.stdin, self._child.stdout):
            with contextlib.suppress(OSError):  # closing tries to send what is still in the pipe
                pipe.close()  # type: ignore[union-attr]
        self._child = None

    def _wait(self, child: "subprocess.Popen[bytes]") -> None:
        assert child.stdin
        assert self._listener
        with contextlib.suppress(OSError):  # it has ended already
            child.stdin.write(b"end\n")  # closing alone is not enough: a fork of ours may keep the pipe open
            child.stdin.flush()
        finished = time.monotonic()
        while self._listener.is_alive():
            now = time.monotonic()
            if self._said:
                waits = now - max(self._heard, finished) < _SPEAKS_WITHIN_S and now - finished < _ENDS_WITHIN_S
            else:
                waits = now - self._started < _STARTS_WITHIN_S
            if not waits:
                self.warn("it does not answer")
                return
            self._listener.join(_POLL_S)


def _child(run_dir: Path, journals: Path) -> "subprocess.Popen[bytes]":
    # A process and not a thread: no limit of time can end a thread that waits for a lock, and MLflow's imports would
    # take turns with the stage's own. A session of its own, so that Ctrl-C does not end it before it has recorded how
    # the stage ended. In the store's folder, so that no character of that folder's name is part of the store's URL.
    paths = [_PROJECT, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**_LIMITS, **os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "infra.tracking", "follow", str(journals)],
        cwd=None if environment.get(STORE_VARIABLE) else run_dir.parent,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


@contextlib.contextmanager
def recorder(run_dir: Path, journals: Path, progress: Progress) -> Iterator[Recorder]:
    """A recorder of the journals in this folder, also of those that earlier runs left there."""
    child = Recorder(run_dir, journals, progress)
    try:
        yield child
    finally:
        child.finish()


@dataclasses.dataclass(frozen=True)
class Entry:
    """A journal as it is read. ended: None while the stage works, or when it was killed."""

    path: Path
    header: dict[str, Any]
    metrics: list[tuple[str, float, int, int]]
    ended: dict[str, Any] | None


def read(path: Path) -> Entry | None:
    """Read a journal without its incomplete lines; None when it is gone or has no header."""
    header: dict[str, Any] | None = None
    metrics: list[tuple[str, float, int, int]] = []
    ended = None
    with contextlib.suppress(FileNotFoundError):
        for text in path.read_bytes().split(b"\n")[:-1]:
            line = _parsed(text)
            if "metric" in line:
                metrics.append(tuple(line["metric"]))
            elif "end" in line:
                ended = line
            elif "stage" in line:
                header = line
    return Entry(path, header, metrics, ended) if header else None


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        return {}
    return line if isinstance(line, dict) else {}


def is_abandoned(path: Path) -> bool:
    """Whether the stage that wrote this journal is gone: a living process holds its lock."""
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
