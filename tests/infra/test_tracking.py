"""Recording in MLflow under faults: a stage seals whatever becomes of it, says so once, and the next run records."""

import contextlib
import dataclasses
import http.server
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import string
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.utils import validation

from infra import journal, manifest, runner, tracking, tracking_store
from infra.errors import PreceptorError
from infra.manifest import Tally
from infra.progress import Progress
from infra.stage import StageConfig, Task

pytestmark = pytest.mark.engine  # nearly all start the recorder, which is MLflow in a process of its own
HERE = sys.modules[__name__]
PROJECT = Path(__file__).parents[2]
WARNING = "first: not all is recorded in MLflow yet ("


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstConfig(StageConfig):
    stage: ClassVar[str] = "first"
    module: ClassVar[str] = __name__
    word: str = "hello"
    names: tuple[str, ...] = ("one",)

    def outputs(self):
        return {name: dataclasses.replace(self, names=(name,)) for name in self.names}


def run(task: Task) -> Tally:
    (task.draft / "words.txt").write_text(task.config.word)
    for step in range(3):
        task.metric("loss", step / 2, step)
    return Tally(rows={"words": 1})


@pytest.fixture(autouse=True)
def _is_its_own_module():
    sys.modules.setdefault(__name__, HERE)


@pytest.fixture(scope="module")
def new_store(tmp_path_factory) -> Path:
    """A store as MLflow makes it, to be copied."""
    folder = tmp_path_factory.mktemp("store")
    tracked("follow", str(folder), cwd=folder)
    return folder / "mlflow.db"


@pytest.fixture
def runs(tmp_path, new_store) -> Path:
    """A folder of run folders that has a store."""
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(new_store, folder)
    return folder


def tracked(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """The recorder by itself."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    words = [sys.executable, "-P", "-m", "infra.tracking", *arguments]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False, input="end\n")


def carry_out(run_dir: Path, **settings):
    return runner.carry_out(FirstConfig(**settings), run_dir, Progress("first"))


def left(run_dir: Path) -> list[Path]:
    return list((run_dir / journal.FOLDER).glob("[0-9]*"))


def recorded(store: Path) -> list:
    """All runs of a store but those of run folders, the oldest first."""
    return sorted(
        (r for r in everything(store) if "mlflow.parentRunId" in r.data.tags), key=lambda r: r.info.start_time
    )


def everything(store: Path) -> list:
    client = MlflowClient(f"sqlite:///{store}")
    return list(client.search_runs([client.get_experiment_by_name("preceptor").experiment_id]))


def losses(store: Path, run) -> list[tuple[int, float]]:
    history = MlflowClient(f"sqlite:///{store}").get_metric_history(run.info.run_id, "loss")
    return [(point.step, point.value) for point in history]


# Each breaks the store of a folder of run folders, and mends it at its end.


@contextlib.contextmanager
def locked_by_another_process(runs, patch):
    script = (
        "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('BEGIN EXCLUSIVE'); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, runs / "mlflow.db"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        yield "database is locked"
        other.kill()


@contextlib.contextmanager
def with_bytes(runs, content: bytes):
    whole = (runs / "mlflow.db").read_bytes()
    (runs / "mlflow.db").write_bytes(content)
    yield
    (runs / "mlflow.db").write_bytes(whole)


@contextlib.contextmanager
def no_database(runs, patch):
    with with_bytes(runs, b"no database at all\n" * 999):
        yield "file is not a database"


@contextlib.contextmanager
def truncated(runs, patch):
    with with_bytes(runs, (runs / "mlflow.db").read_bytes()[:20_000]):
        yield "malformed"


@contextlib.contextmanager
def half_made(runs, patch):
    """What MLflow leaves of a store whose first start ran out of disk."""
    (runs / "mlflow.db").unlink()
    with contextlib.closing(sqlite3.connect(runs / "mlflow.db")) as connection:
        connection.execute("CREATE TABLE experiments (experiment_id INTEGER)")
    yield "no such table: alembic_version"
    (runs / "mlflow.db").unlink()


@contextlib.contextmanager
def of_another_mlflow(runs, patch):
    def change(query, *values):
        with contextlib.closing(sqlite3.connect(runs / "mlflow.db", isolation_level=None)) as connection:
            connection.execute(query, values)

    change("UPDATE alembic_version SET version_num = 'c48cb773bb87'")
    yield r"mlflow db upgrade sqlite:///.*/mlflow\.db"
    (runs / "mlflow.db").unlink()


@contextlib.contextmanager
def a_folder_in_its_place(runs, patch):
    (runs / "mlflow.db").rename(runs / "aside.db")
    (runs / "mlflow.db").mkdir()
    yield "unable to open database file"
    (runs / "mlflow.db").rmdir()
    (runs / "aside.db").rename(runs / "mlflow.db")


@contextlib.contextmanager
def on_a_file_system_of_its_own(runs, patch, size):
    """The store on a small disk, which is linked to its place."""
    disk = runs.parent / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let tests mount a file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@contextlib.contextmanager
def read_only(runs, patch):
    with on_a_file_system_of_its_own(runs, patch, "8m") as disk, patch.context() as own:
        shutil.copy(runs / "mlflow.db", disk)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        own.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{disk}/mlflow.db")
        yield "attempt to write a readonly database"


@contextlib.contextmanager
def on_a_full_disk(runs, patch):
    with on_a_file_system_of_its_own(runs, patch, "3m") as disk, patch.context() as own:
        shutil.copy(runs / "mlflow.db", disk)
        with contextlib.suppress(OSError), (disk / "rest").open("wb", buffering=0) as rest:
            while rest.write(bytes(4096)):
                pass
        own.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{disk}/mlflow.db")
        yield "database or disk is full"


@contextlib.contextmanager
def a_server(runs, patch, *, listens: bool):
    with socket.socket() as server, patch.context() as own:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        own.setenv("MLFLOW_TRACKING_URI", f"http://somebody:hunter2@127.0.0.1:{server.getsockname()[1]}")
        yield "127.0.0.1"


@contextlib.contextmanager
def silent(runs, patch):
    with a_server(runs, patch, listens=True) as said:
        yield said


@contextlib.contextmanager
def away(runs, patch):
    with a_server(runs, patch, listens=False) as said:
        yield said


@contextlib.contextmanager
def no_mlflow(runs, patch):
    """An installation whose MLflow does not import."""
    broken = runs.parent / "broken"
    broken.mkdir()
    (broken / "mlflow.py").write_text("raise ImportError('no mlflow here')")
    with patch.context() as own:
        own.setenv("PYTHONPATH", str(broken))
        yield "no mlflow here"


FAULTS = (
    locked_by_another_process,
    no_database,
    truncated,
    half_made,
    of_another_mlflow,
    a_folder_in_its_place,
    read_only,
    on_a_full_disk,
    silent,
    away,
    no_mlflow,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_stage_seals_whatever_mlflow_does_warns_once_and_the_next_run_records_it(fault, runs, monkeypatch, capsys):
    run_dir = runs / "r"
    with fault(runs, monkeypatch) as reason:
        artifact = carry_out(run_dir)["one"]
    said = capsys.readouterr()
    warnings = [line for line in said.out.splitlines() if line.startswith(WARNING)]
    assert len(warnings) == 1
    assert re.search(reason, warnings[0])
    assert "hunter2" not in warnings[0]
    assert "Traceback" not in said.out + said.err
    assert manifest.find(run_dir / "one").digest == artifact.digest

    carry_out(run_dir)
    assert capsys.readouterr().out == "first: one is up to date\n"
    (run,) = recorded(runs / "mlflow.db")
    assert run.info.status == "FINISHED"
    assert run.data.tags["preceptor.digest"] == artifact.digest
    assert losses(runs / "mlflow.db", run) == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert left(run_dir) == []


def test_a_disk_that_is_full_at_the_first_start_leaves_no_store_that_is_broken_for_good(tmp_path, monkeypatch, capsys):
    runs = tmp_path / "runs"
    runs.mkdir()
    with on_a_file_system_of_its_own(runs, monkeypatch, "200k") as disk:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{disk}/mlflow.db")
        carry_out(runs / "r")
        assert "database or disk is full" in capsys.readouterr().out
        assert not (disk / "mlflow.db").exists()
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        carry_out(runs / "r")
        assert [run.info.status for run in recorded(disk / "mlflow.db")] == ["FINISHED"]


def test_a_store_that_a_killed_process_left_half_made_is_never_used(tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / ".mlflow.db.partial").write_bytes(b"half of a store")
    (runs / "mlflow.db").touch()  # SQLite makes an empty file first
    carry_out(runs / "r")
    assert [run.info.status for run in recorded(runs / "mlflow.db")] == ["FINISHED"]
    assert sorted(path.name for path in runs.iterdir()) == [".mlflow.db.lock", "mlflow.db", "r"]


def test_four_stages_that_start_at_once_in_a_new_folder_are_four_runs_under_one(tmp_path):
    run_dir = tmp_path / "runs" / "r"
    start = tmp_path / "start"
    script = (
        "import sys, time, pathlib; from tests.infra import test_tracking as t\n"
        "print(1, flush=True)\n"
        "while not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)\n"
        "t.carry_out(pathlib.Path(sys.argv[2]), names=(sys.argv[3],))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, start, run_dir, f"one{number}"], stdout=subprocess.PIPE, cwd=PROJECT
        )
        for number in range(4)
    ]
    for process in started:
        process.stdout.readline()
    start.touch()
    said = [process.communicate()[0].decode() for process in started]
    assert [line for text in said for line in text.splitlines() if WARNING in line] == []
    children = recorded(run_dir.parent / "mlflow.db")
    assert sorted(run.data.tags["preceptor.artifact"] for run in children) == [f"{run_dir}/one{n}" for n in range(4)]
    assert len(everything(run_dir.parent / "mlflow.db")) == 5
    assert left(run_dir) == []


def test_a_store_that_is_deleted_while_a_stage_runs_is_made_again_by_the_next_run(runs, monkeypatch, capsys):
    run_dir = runs / "r"

    def delete_it(task: Task, run=run) -> Tally:
        done = run(task)
        (entry,) = left(run_dir)
        wait_until(lambda: entry.with_suffix(".sent").exists())
        (runs / "mlflow.db").unlink()
        return done

    monkeypatch.setattr(HERE, "run", delete_it)
    carry_out(run_dir)
    assert WARNING in capsys.readouterr().out
    carry_out(run_dir)
    (found,) = recorded(runs / "mlflow.db")
    assert len(losses(runs / "mlflow.db", found)) == 3


def wait_until(holds, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_stage_that_outlives_a_fault_is_not_held_up_by_it_at_its_end(runs, monkeypatch):
    with silent(runs, monkeypatch):
        recorder = journal.Recorder(runs / "r", runs / "r" / journal.FOLDER, Progress("first"))
        with recorder.journal("first", "one", runs / "r" / "one", "key"):
            wait_until(lambda: not recorder._is_running())
        started = time.monotonic()
        recorder.finish()
        assert time.monotonic() - started < journal._SPEAKS_WITHIN_S / 2


def test_a_recorder_that_says_nothing_is_not_waited_for_longer_than_the_limit(runs, monkeypatch, capsys):
    monkeypatch.setattr(journal, "_STARTS_WITHIN_S", 0.3)  # and not 150
    monkeypatch.setattr(journal, "_child", lambda *_: asleep())
    started = time.monotonic()
    carry_out(runs / "r")
    assert 0.3 <= time.monotonic() - started < 60
    assert f"{WARNING}it does not answer)" in capsys.readouterr().out


def asleep() -> subprocess.Popen:
    return subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_stage_imports_no_mlflow_and_one_that_is_up_to_date_starts_nothing(runs, monkeypatch, capsys):
    script = (
        "import sys; sys.modules['mlflow'] = None; from infra import runner, recipes\n"
        "sys.exit(any(name.startswith('sqlalchemy') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=PROJECT)
    carry_out(runs / "r")
    monkeypatch.setattr(journal, "_child", lambda *_: pytest.fail("a process was started"))
    carry_out(runs / "r")
    assert capsys.readouterr().out.endswith("first: one is up to date\n")


def test_a_folder_that_takes_no_journal_costs_a_warning_and_not_the_artifact(runs, capsys):
    (runs / "r").mkdir()
    (runs / "r" / journal.FOLDER).touch()
    carry_out(runs / "r")
    out = capsys.readouterr().out
    assert out.count(WARNING) == 1
    assert "first: sealed one" in out


def test_the_stages_of_a_flow_leave_the_recording_to_its_driver(runs, monkeypatch):
    monkeypatch.setattr(journal, "_child", None)  # none is started
    with monkeypatch.context() as in_a_job:
        in_a_job.setenv(journal.DRIVER_VARIABLE, "1")
        carry_out(runs / "r")
    assert len(left(runs / "r")) == 1
    monkeypatch.undo()
    with journal.recorder(runs / "r", runs / "r" / journal.FOLDER, Progress("flow")):
        pass
    assert left(runs / "r") == []
    (run,) = recorded(runs / "mlflow.db")
    assert run.info.status == "FINISHED"


def test_a_stage_that_is_killed_is_recorded_as_what_it_had_become(runs):
    script = (
        "import os, signal, pathlib, sys; from tests.infra import test_tracking as t\n"
        "die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "t.journal.Recorder.start = lambda _: None\n"
        "t.HERE.run, t.journal.Journal.sealed = (die, None) if sys.argv[2] == 'working' else (t.run, die)\n"
        "t.carry_out(pathlib.Path(sys.argv[1]), names=(sys.argv[2],))"
    )
    for name in ("working", "sealed"):
        killed = subprocess.run([sys.executable, "-c", script, runs / "r", name], check=False, cwd=PROJECT)
        assert killed.returncode == -signal.SIGKILL
    with journal.recorder(runs / "r", runs / "r" / journal.FOLDER, Progress("flow")):
        pass
    assert left(runs / "r") == []
    working, sealed = recorded(runs / "mlflow.db")
    assert (working.info.status, sealed.info.status) == ("KILLED", "FINISHED")
    assert "preceptor.digest" not in working.data.tags
    assert sealed.data.tags["preceptor.digest"] == manifest.find(runs / "r" / "sealed").digest


def test_a_stage_that_is_taken_for_dead_too_early_is_recorded_whole_once_it_ends(runs, monkeypatch):
    """As by a recorder on another machine, to which the stage's lock does not reach."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{runs}/mlflow.db")
    recorder = journal.Recorder(runs / "r", runs / "r" / journal.FOLDER, Progress("first"))
    recorder.start = lambda: None
    another = tracking.Recording(recorder.folder)
    with recorder.journal("first", "one", runs / "r" / "one", "key") as lines:
        lines.metric("loss", 0.0, 0)
        with monkeypatch.context() as patch:
            patch.setattr(journal, "is_abandoned", lambda _: True)
            another.record_all()
        assert [run.info.status for run in recorded(runs / "mlflow.db")] == ["KILLED"]
        lines.metric("loss", 0.5, 1)
        another.record_all()
    another.record_all()
    (found,) = recorded(runs / "mlflow.db")
    assert found.info.status == "FAILED"  # which is how it ended
    assert losses(runs / "mlflow.db", found) == [(0, 0.0), (1, 0.5)]
    assert left(runs / "r") == []


def parent(store: Path):
    """The run of the only run folder."""
    (found,) = [run for run in everything(store) if "mlflow.parentRunId" not in run.data.tags]
    return found


def as_ended(how: str, run_dir: Path, output: str, monkeypatch) -> None:
    """Make an output that is sealed, or fail, or be interrupted, or killed while making it."""
    with monkeypatch.context() as patch:
        if how == "killed":
            killed = [sys.executable, "-c", KILLED, str(run_dir), output]
            assert subprocess.run(killed, check=False, cwd=PROJECT).returncode == -signal.SIGKILL
            return
        if how != "sealed":
            error = {"failed": ZeroDivisionError, "interrupted": KeyboardInterrupt}[how]
            patch.setattr(HERE, "run", lambda _: (_ for _ in ()).throw(error()))
        with contextlib.suppress(ZeroDivisionError, KeyboardInterrupt):
            carry_out(run_dir, names=(output,), word=f"{how} {time.monotonic()}")


KILLED = (
    "import os, signal, pathlib, sys; from tests.infra import test_tracking as t\n"
    "t.HERE.run = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    "t.carry_out(pathlib.Path(sys.argv[1]), names=(sys.argv[2],))"
)


def test_the_run_of_a_run_folder_is_what_the_last_runs_of_its_outputs_are(runs, monkeypatch):
    run_dir, store = runs / "r", runs / "mlflow.db"

    def becomes(output: str, how: str) -> str:
        as_ended(how, run_dir, output, monkeypatch)
        with journal.recorder(run_dir, run_dir / journal.FOLDER, Progress("flow")):  # which the next run has
            pass
        return parent(store).info.status

    assert becomes("one", "sealed") == "FINISHED"
    assert becomes("two", "failed") == "FAILED"
    assert becomes("one", "interrupted") == "FAILED"
    assert becomes("two", "sealed") == "KILLED"
    assert becomes("one", "sealed") == "FINISHED"
    assert becomes("one", "killed") == "KILLED"
    assert becomes("one", "failed") == "FAILED"
    assert [run.info.status for run in recorded(store)] == [
        "FINISHED",
        "FAILED",
        "KILLED",
        "FINISHED",
        "FINISHED",
        "KILLED",
        "FAILED",
    ]


@contextlib.contextmanager
def being_made(runs: Path, monkeypatch):
    """An output is being made, and recorded in MLflow as far as it is, before the body and after it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{runs}/mlflow.db")
    recorder = journal.Recorder(runs / "r", runs / "r" / journal.FOLDER, Progress("first"))
    recorder.start = lambda: None
    recording = tracking.Recording(recorder.folder)
    with recorder.journal("first", "one", runs / "r" / "one", "key"):
        recording.record_all()
        yield
    recording.record_all()


def test_the_run_of_a_run_folder_is_running_while_an_output_is_made(runs, monkeypatch):
    with being_made(runs, monkeypatch):
        assert parent(runs / "mlflow.db").info.status == "RUNNING"
    found = parent(runs / "mlflow.db").info
    assert found.status == "FAILED"
    assert found.end_time >= found.start_time > 0


def test_a_run_of_a_run_folder_that_somebody_deleted_holds_nothing_up(runs, monkeypatch):
    with being_made(runs, monkeypatch):
        MlflowClient(f"sqlite:///{runs}/mlflow.db").delete_run(parent(runs / "mlflow.db").info.run_id)
    assert [run.info.status for run in recorded(runs / "mlflow.db")] == ["FAILED"]
    assert left(runs / "r") == []


@pytest.mark.parametrize("form", ["{}", "file:{}?password=hunter2&uri=true"])
def test_a_sqlite_store_lies_where_its_uri_says_and_nothing_lies_elsewhere(form, tmp_path, monkeypatch, new_store):
    there, here = tmp_path / "50%25 why? a#b ü", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    shutil.copy(new_store, there)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{form.format(quote(str(there / 'mlflow.db')))}")
    recorder = journal.Recorder(here / "r", here / "r" / journal.FOLDER, Progress("first"))
    recorder.start = lambda: None
    with recorder.journal("first", "one", here / "r" / "one", "key"):
        pass
    done = tracked("follow", str(recorder.folder), cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hunter2" not in done.stdout
    assert [path.name for path in here.iterdir()] == ["r"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [there.name, "here"]
    shutil.copy(there / "mlflow.db", tmp_path / "copy.db")
    assert [run.info.status for run in recorded(tmp_path / "copy.db")] == ["FAILED"]


@pytest.mark.parametrize("form", ["file:{}", "{}?", "{}?x/mlflow.db", "{}%41/mlflow.db"])
def test_a_uri_that_would_have_a_store_lie_elsewhere_is_refused_with_what_to_write(form, tmp_path, monkeypatch):
    (tmp_path / "runs%41").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{form.format(tmp_path / 'runs')}")
    with pytest.raises(
        PreceptorError, match=r"names no file: .*%3F|write a `%` as %25: sqlite:////.*/runs%2541/mlflow"
    ):
        tracking_store.opened()
    assert [path.name for path in tmp_path.iterdir()] == ["runs%41"]


@pytest.mark.parametrize(
    ("uri", "beside"),
    [
        ("sqlite:////a b/mlflow.db", "/a%20b/mlruns"),
        ("sqlite:///file:/x%3Fy/mlflow.db?mode=rwc&uri=true", "/x%3Fy/mlruns"),
        ("postgresql://user@host/db", "/runs/mlruns"),
        ("mysql+pymysql://user@host/db", "/runs/mlruns"),
        ("http://host:5000", None),
        ("databricks", None),
    ],
)
def test_the_files_of_an_experiment_lie_beside_the_store_or_the_runs_and_never_where_a_process_happens_to_be(
    uri, beside
):
    assert tracking_store.files(uri, Path("/runs/r")) == (beside and f"file://{beside}")


def test_mlflow_on_loopback_is_not_asked_through_a_proxy(runs, monkeypatch, capsys):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(503)

        def do_POST(self):
            self.do_GET()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://localhost:{server.server_port}")
        carry_out(runs / "r")
        server.shutdown()
    assert asked
    assert WARNING in capsys.readouterr().out


@pytest.mark.parametrize("line", ['{"stage": "first"}', '{"metric": 5}', '{"stage": "first", "end": "FINISHED"}'])
def test_a_journal_of_another_version_keeps_no_other_from_being_recorded(line, runs, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{runs}/mlflow.db")
    recorder = journal.Recorder(runs / "r", runs / "r" / journal.FOLDER, Progress("first"))
    recorder.start = lambda: None
    with recorder.journal("first", "one", runs / "r" / "one", "key"):
        pass
    strange = recorder.folder / "0-strange.jsonl"
    strange.write_text('{"stage": "first"}\n' + line + "\n")
    with pytest.raises(PreceptorError, match=r"0-strange\.jsonl holds what cannot be recorded.*move it elsewhere"):
        tracking.Recording(recorder.folder).record_all()
    assert left(runs / "r") == [strange]
    (found,) = recorded(runs / "mlflow.db")
    assert found.info.status == "FAILED"


def test_a_journal_that_is_recorded_twice_is_one_run_with_each_number_once(runs, monkeypatch):
    monkeypatch.chdir(runs)
    monkeypatch.setattr(journal, "_child", lambda *_: asleep())
    monkeypatch.setattr(journal, "_STARTS_WITHIN_S", 0.1)
    carry_out(runs / "r")
    (entry,) = left(runs / "r")
    written = entry.read_bytes()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{runs}/mlflow.db")
    tracking.Recording(entry.parent).record_all()
    entry.write_bytes(written)
    tracking.Recording(entry.parent).record_all()
    (found,) = recorded(runs / "mlflow.db")
    assert losses(runs / "mlflow.db", found) == [(0, 0.0), (1, 0.5), (2, 1.0)]


NAMES = (
    "50%25 done",
    "why?",
    "a#b",
    "it's",
    'it"s',
    "it_s",
    'say "it\'s"',
    "a;--b",
    "back\\slash",
    "`tick`",
    "試し ü",
    "b\udcff",
)


@pytest.mark.parametrize("folder", ['50%25 why? a#b it\'s "試" ;\\ `', "b\udcff"])
def test_run_folders_of_any_name_have_each_one_run_of_their_own(folder, tmp_path, new_store):
    runs = tmp_path / folder
    runs.mkdir()
    shutil.copy(new_store, runs)
    for run_dir in (runs / name for name in NAMES):
        recorder = journal.Recorder(run_dir, runs / journal.FOLDER, Progress("first"))
        recorder.start = lambda: None
        for output in ("one", "two"):
            with recorder.journal("first", output, run_dir / output, "key"):
                pass
    done = tracked("follow", str(runs / journal.FOLDER), cwd=runs)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    (tmp_path / "link.db").symlink_to(runs / "mlflow.db")
    found = everything(tmp_path / "link.db")
    parents = {
        r.info.run_id: r.data.tags["preceptor.run_dir"] for r in found if "mlflow.parentRunId" not in r.data.tags
    }
    assert sorted(parents.values()) == sorted(str(runs / name).replace("\udcff", "?") for name in NAMES)
    children = [r.data.tags["mlflow.parentRunId"] for r in found if "mlflow.parentRunId" in r.data.tags]
    assert {run_id: children.count(run_id) for run_id in parents} == dict.fromkeys(parents, 2)


def test_what_mlflow_takes_in_no_form_is_named_in_a_tag_and_the_rest_is_recorded(runs, monkeypatch, capsys):
    def odd(task: Task) -> Tally:
        (task.draft / "words.txt").write_text("")
        for name, value in {"nan": "nan", "inf": "inf", "none": None, "a:b/../c": 1, "": 2, "n" * 999: 3}.items():
            task.metric(name, value)
        return Tally(rows={"größe %": 1}, metrics={"far": -float("inf")})

    def many(*arguments):
        stated = made_from(*arguments)
        stated["config"] |= {f"setting {number}": "x" * 9000 for number in range(250)} | {"a:b": 1, "a;b": 2}
        stated["materials"] |= {"../x": "d" * 20_000}
        return stated

    made_from = runner.made_from
    monkeypatch.setattr(runner, "made_from", many)
    monkeypatch.setattr(HERE, "run", odd)
    carry_out(runs / "r")
    out = capsys.readouterr().out
    assert out.count("not all is recorded") == 1
    assert "the metric none is no number" in out
    (found,) = recorded(runs / "mlflow.db")
    assert found.info.status == "FINISHED"
    assert len(found.data.params) == 250 + len(dataclasses.fields(FirstConfig)) + 1
    assert found.data.tags["preceptor.refused"] == "a_b"
    assert {"inf", "far", "rows.größe _", "_", "n" * 250, "seconds"} <= set(found.data.metrics)
    assert left(runs / "r") == []


@given(st.text())
def test_every_name_becomes_one_that_mlflow_takes(name):
    for check in (validation._validate_metric_name, validation._validate_param_name, validation._validate_tag_name):
        check(tracking._name(name))
    validation._validate_length_limit("name", validation.MAX_ENTITY_KEY_LENGTH, tracking._name(name))


def test_a_name_that_mlflow_takes_as_it_is_stays_as_it_is():
    for name in ("loss", "teach.right", "rows.train", "preceptor.input.examples/answer_only", string.ascii_letters):
        assert tracking._name(name) == name


def test_a_journal_that_ends_anywhere_is_read_as_far_as_it_is_whole(tmp_path):
    recorder = journal.Recorder(tmp_path, tmp_path, Progress("first"))
    lines = journal.Journal(recorder, {"stage": "first", "key": "k"})
    recorder.start = lambda: None
    lines.metric("loss", 1.0, 1)
    lines.metric("loss", 2.0, 2)
    lines.failed()
    lines.close()
    (path,) = tmp_path.glob("*.jsonl")
    whole = path.read_bytes()
    states = []
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        entry = journal.read(path)
        state = (len(entry.metrics), entry.ended is not None) if entry else None
        if state not in states:
            states.append(state)
    assert states == [None, (0, False), (1, False), (2, False), (2, True)]
    path.write_bytes(whole[:-10] + b"\n" + json.dumps({"end": "FAILED", "at_ms": 1}).encode() + b"\n")
    assert journal.read(path).ended == {"end": "FAILED", "at_ms": 1}
