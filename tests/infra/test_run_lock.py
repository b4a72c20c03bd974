"""Two who want one run folder: who may, what the other is told, and what becomes of the lock of one that was killed."""

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from infra import run_lock
from infra.errors import ArtifactError

PROJECT = Path(__file__).parents[2]
HOLD = """
import pathlib, sys
from infra import run_lock
with run_lock.held(pathlib.Path(sys.argv[1]), "the flow pocket", print) as hold:
    print(hold.token, hold.killed, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def another(run_dir: Path):
    """A process that holds the folder until its standard input ends: the process, and what it said of its hold."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, run_dir], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process, process.stdout.readline().split()
        finally:
            process.kill()


def hold(run_dir: Path, say=lambda _: None):
    return run_lock.held(run_dir, "the stage fit", say)


def stated(run_dir: Path) -> dict:
    return json.loads((run_dir / run_lock.NAME).read_text())


def test_who_holds_a_folder_since_when_and_what_to_type_is_said_to_the_second(tmp_path):
    with another(tmp_path) as (process, _):
        with pytest.raises(ArtifactError) as refusal, hold(tmp_path):
            pass
        said = str(refusal.value)
        assert said.startswith(f"{tmp_path} is in use by the flow pocket, process {process.pid} of ")
        assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", said)
        assert f"kill {process.pid} on {os.uname().nodename}" in said
        assert "--run-dir DIR" in said
        assert "\n" not in said
        process.stdin.close()
        process.wait(timeout=30)
    with hold(tmp_path):
        pass


def test_a_lock_is_gone_with_its_holder_and_leaves_nothing(tmp_path):
    with hold(tmp_path / "new" / "run") as first:
        assert first.killed is None
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "new" / "run"):
        raise ZeroDivisionError
    assert list((tmp_path / "new" / "run").iterdir()) == []


def test_the_lock_of_one_that_was_killed_is_free_at_once_and_tells_whose_jobs_may_still_run(tmp_path):
    with another(tmp_path) as (process, (token, _)):
        process.send_signal(signal.SIGKILL)
        process.wait()
    started = time.monotonic()
    said = []
    with hold(tmp_path, said.append) as taken:
        assert taken.killed == token
        assert taken.token != token
    assert time.monotonic() - started < 5
    assert said == []


def test_of_many_who_start_at_once_one_holds_the_folder(tmp_path):
    inside, most, refused = [], [], []

    def try_it():
        try:
            with hold(tmp_path):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.01)
                inside.pop()
        except ArtifactError:
            refused.append(1)

    for _ in range(10):
        threads = [threading.Thread(target=try_it) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(most) == {1}
    assert refused
    assert list(tmp_path.iterdir()) == []


# As on file systems whose locks do not reach the other machine, or that have none.


@pytest.fixture
def of_another_machine(tmp_path, monkeypatch):
    """A holder on another machine writes into the folder; a function that takes the next step of it."""
    monkeypatch.setattr(run_lock, "_SILENT_FOR_S", 1.0)
    monkeypatch.setattr(run_lock, "_POLL_S", 0.02)
    there = {
        "token": "t",
        "what": "the flow mine",
        "user": "ann",
        "host": "far",
        "boot": "b",
        "pid": 7,
        "since": "today",
    }

    def beat(number: int) -> None:
        (tmp_path / run_lock.NAME).write_text(json.dumps(there | {"beat": number}).ljust(4096))

    beat(1)
    return beat


@pytest.fixture(params=["locks do not reach", "no locks"])
def weak_locks(request, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    if request.param == "no locks":
        monkeypatch.setattr(run_lock.fcntl, "flock", refuse)


def test_a_holder_on_another_machine_that_goes_on_keeps_its_folder(tmp_path, of_another_machine, weak_locks):
    said = []
    threading.Timer(0.3, of_another_machine, [2]).start()
    with (
        pytest.raises(ArtifactError, match=r"in use by the flow mine, process 7 of ann on far, since today\."),
        hold(tmp_path, said.append),
    ):
        pass
    assert len(said) == 1
    assert "whether" in said[0]
    assert stated(tmp_path)["beat"] == 2


def test_a_holder_on_another_machine_that_is_silent_blocks_nobody_for_ever(tmp_path, of_another_machine, weak_locks):
    with hold(tmp_path) as taken:
        assert taken.killed == "t"
        assert stated(tmp_path)["token"] == taken.token
    assert list(tmp_path.iterdir()) == []


def test_two_machines_that_take_a_dead_one_s_folder_at_once_are_not_both_let_in(
    tmp_path, of_another_machine, monkeypatch
):
    check = run_lock._check_again

    def after_another(run_dir, path, own):
        of_another_machine(9)  # has waited likewise, and written a moment later
        check(run_dir, path, own)

    monkeypatch.setattr(run_lock, "_check_again", after_another)
    with pytest.raises(ArtifactError, match="in use by the flow mine"), hold(tmp_path):
        pass
    assert stated(tmp_path)["beat"] == 9  # the other's lock stays


def test_a_holder_whose_folder_another_machine_has_taken_leaves_it_alone(tmp_path, monkeypatch):
    """This machine slept, and its locks do not reach the other one."""
    monkeypatch.setattr(run_lock, "_BEATS_EVERY_S", 0.01)
    with hold(tmp_path):
        path = tmp_path / run_lock.NAME
        taken = json.dumps(stated(tmp_path) | {"token": "another", "beat": 0})
        while stated(tmp_path)["token"] != "another":
            path.write_text(taken.ljust(4096))
            time.sleep(0.1)
    assert stated(tmp_path)["token"] == "another"


def test_a_holder_shows_that_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "_BEATS_EVERY_S", 0.02)
    with hold(tmp_path):
        seen = set()
        until = time.monotonic() + 10
        while len(seen) < 3 and time.monotonic() < until:
            seen.add(stated(tmp_path)["beat"])
    assert len(seen) >= 3


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 4096, b"\xff" * 10, b'{"token": 1}'])
def test_a_file_that_names_nobody_is_taken(tmp_path, content, monkeypatch):
    monkeypatch.setattr(run_lock, "_NAMES_ITSELF_WITHIN_S", 0.1)
    (tmp_path / run_lock.NAME).write_bytes(content)
    with hold(tmp_path) as taken:
        assert taken.killed is None


def test_a_job_is_let_in_by_the_flow_that_holds_the_folder_and_by_no_other(tmp_path, monkeypatch):
    with hold(tmp_path) as flow:
        monkeypatch.setenv(run_lock.TOKEN_VARIABLE, flow.token)
        with hold(tmp_path) as job:
            assert job.token == flow.token
        assert stated(tmp_path)["token"] == flow.token  # the job's end leaves the flow's lock
        monkeypatch.setenv(run_lock.TOKEN_VARIABLE, "another")
        with (
            pytest.raises(ArtifactError, match="not held by the flow that has started this job, but by the stage fit"),
            hold(tmp_path),
        ):
            pass
    with (
        pytest.raises(ArtifactError, match="this machine sees another folder of that name, or none"),
        hold(tmp_path / "elsewhere"),
    ):
        pass
    assert not (tmp_path / "elsewhere").exists()


@contextlib.contextmanager
def a_small_disk(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], check=False).returncode:
        pytest.skip("this machine does not let tests mount a file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_read_only_disk_is_one_line_that_says_what_to_type(tmp_path):
    with a_small_disk(tmp_path) as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for run_dir in (disk, disk / "new"):
            with (
                pytest.raises(ArtifactError, match=r"cannot be written: Read-only file system\. .*--run-dir"),
                hold(run_dir),
            ):
                pass


def test_a_full_disk_is_one_line_and_leaves_no_lock(tmp_path):
    with a_small_disk(tmp_path) as disk:
        with contextlib.suppress(OSError), (disk / "rest").open("wb", buffering=0) as rest:
            while rest.write(bytes(1024)):
                pass
        with pytest.raises(ArtifactError, match=r"cannot be written: No space left on device\. Free space"), hold(disk):
            pass
        assert [path.name for path in disk.iterdir()] == ["rest"]


def test_a_file_in_the_folder_s_place_is_one_line(tmp_path):
    (tmp_path / "r").touch()
    with pytest.raises(ArtifactError, match="cannot be written"), hold(tmp_path / "r"):
        pass


def test_a_link_in_the_lock_s_place_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / run_lock.NAME).symlink_to(tmp_path / "mine")
    with pytest.raises(ArtifactError, match="cannot be written"), hold(tmp_path / "r"):
        pass
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_child_of_the_holder_does_not_keep_the_lock(tmp_path):
    with hold(tmp_path):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with hold(tmp_path) as taken:
            assert taken.killed is None
    finally:
        child.kill()
        child.wait()


def test_everybody_may_read_who_holds_a_folder(tmp_path):
    with hold(tmp_path):
        assert stat.S_IMODE((tmp_path / run_lock.NAME).stat().st_mode) & 0o444
        with (tmp_path / run_lock.NAME).open() as reader, pytest.raises(BlockingIOError):
            fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
