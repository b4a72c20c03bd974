import json
import os
import signal
import stat
import subprocess
import sys
from unittest import mock

import pytest

from infra import cluster, command_line, credentials, leftovers, recipes
from infra.errors import ClusterError, ConfigError, PreceptorError

PROJECT = cluster.PROJECT
KEY = "canary-key-1"
STORE = "http://user:canary-password@host:9000"


@pytest.fixture(autouse=True)
def same_environment():
    """What is taken into the environment is out of it again after the test."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture
def given(monkeypatch):
    monkeypatch.setenv("PRECEPTOR_API_KEY", KEY)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", STORE)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "canary-2")


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A file of credentials, which the variable names."""
    path = tmp_path / ".credentials-1"
    path.touch(mode=0o600)
    path.write_text(json.dumps({"PRECEPTOR_API_KEY": KEY}))
    monkeypatch.setenv(credentials.FILE_VARIABLE, str(path))
    monkeypatch.delenv("PRECEPTOR_API_KEY", raising=False)
    return path


def test_only_the_user_reads_the_file_and_it_is_gone_in_the_end(given, tmp_path):
    with credentials.handed_over(tmp_path / "run") as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert json.loads(path.read_text()) == {"PRECEPTOR_API_KEY": KEY, "AWS_ENDPOINT_URL_S3": STORE}
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("ended", [KeyboardInterrupt, SystemExit, ClusterError, OSError])
def test_the_file_is_gone_whatever_ends_the_flow(given, tmp_path, ended):
    with pytest.raises(ended), credentials.handed_over(tmp_path):
        raise ended
    assert list(tmp_path.iterdir()) == []


def test_without_credentials_there_is_no_file(tmp_path, monkeypatch):
    for name in credentials.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with credentials.handed_over(tmp_path) as path:
        assert path is None
        assert list(tmp_path.iterdir()) == []


def test_what_a_killed_flow_left_is_removed_by_the_next_and_what_a_living_one_holds_is_not(given, tmp_path):
    script = (
        "import sys, time, pathlib; from infra import credentials\n"
        "with credentials.handed_over(pathlib.Path(sys.argv[1])) as path: print(path, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True, cwd=PROJECT
    ) as flow:
        name = flow.stdout.readline().strip()
        os.utime(name, (0, 0))
        credentials.remove_leftovers(tmp_path)
        with credentials.handed_over(tmp_path) as own:
            assert {str(path) for path in tmp_path.iterdir()} == {str(own), name}
        flow.send_signal(signal.SIGKILL)
        flow.wait()
    credentials.remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_young_or_another_s_or_a_link_is_left_alone(tmp_path, monkeypatch):
    for name in ("x-young", "x-old", "kept"):
        (tmp_path / name).touch()
    (tmp_path / "x-folder").mkdir()
    (tmp_path / "x-folder" / "file").touch()
    (tmp_path / "x-link").symlink_to(tmp_path / "kept")
    for name in ("x-old", "x-folder", "kept"):
        os.utime(tmp_path / name, (0, 0))
    os.utime(tmp_path / "x-link", (0, 0), follow_symlinks=False)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    leftovers.remove_unlocked(tmp_path, "x-*")
    assert len(list(tmp_path.iterdir())) == 5
    monkeypatch.undo()
    leftovers.remove_unlocked(tmp_path, "x-*")
    assert {path.name for path in tmp_path.iterdir()} == {"x-young", "x-link", "kept"}


def test_a_stage_takes_them_into_its_environment(written):
    credentials.load()
    assert os.environ["PRECEPTOR_API_KEY"] == KEY


def test_nothing_but_credentials_is_taken_from_the_file(written, monkeypatch):
    written.write_text(json.dumps({"LD_PRELOAD": "/tmp/evil.so", "PRECEPTOR_API_KEY": KEY}))
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    credentials.load()
    assert "LD_PRELOAD" not in os.environ


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602, 0o660])
def test_a_file_that_others_may_read_or_write_is_refused(written, mode):
    written.chmod(mode)
    with pytest.raises(ConfigError, match=rf"its mode {mode:04o}.*Run jobs as the user") as refused:
        credentials.load()
    credentials.load_in_worker()
    assert KEY not in str(refused.value)
    assert "PRECEPTOR_API_KEY" not in os.environ


def test_a_file_of_another_user_is_refused(written, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    with pytest.raises(ConfigError, match="only user 4321 may read, but its owner is"):
        credentials.load()


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "\udcff"])
def test_a_damaged_file_is_one_error_that_does_not_repeat_it(written, content):
    written.write_text(content, errors="surrogateescape")
    if content == "[]":
        credentials.load()  # holds none
        return
    with pytest.raises(ConfigError, match="holds no credentials that can be read"):
        credentials.load()


def test_a_link_or_a_folder_is_refused(written, tmp_path, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to(written)
    for path in (link, tmp_path):
        monkeypatch.setenv(credentials.FILE_VARIABLE, str(path))
        with pytest.raises(ConfigError, match="holds no credentials that can be read"):
            credentials.load()


def test_a_missing_file_ends_a_stage_and_not_a_replica_that_outlives_the_flow(written):
    written.unlink()
    with pytest.raises(ConfigError, match=r"PRECEPTOR_CREDENTIALS_FILE=/.*no such file.*all nodes"):
        credentials.load()
    credentials.load_in_worker()


def test_a_run_folder_that_cannot_be_written_is_one_clear_error(given, tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match="credentials cannot be handed over in it: Not a directory"),
        credentials.handed_over(tmp_path / "file" / "run"),
    ):
        raise AssertionError


def test_a_file_system_without_permissions_is_refused_before_anything_is_written(given, tmp_path, monkeypatch):
    make = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, mode=0o777: make(path, flags, 0o666))
    before = os.umask(0)
    try:
        with pytest.raises(ConfigError, match="its mode 0666"), credentials.handed_over(tmp_path):
            raise AssertionError
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []


def test_no_secret_is_in_what_a_job_is_submitted_with(given, tmp_path):
    with cluster.credentials_for(cluster.Addresses(None, None), tmp_path) as path:
        shown = json.dumps(cluster.job_environment(path, "token"))
        assert str(path) in shown
        assert "canary" not in shown
    with cluster.credentials_for(cluster.Addresses("http://127.0.0.1:8265", "127.0.0.1:1"), tmp_path) as path:
        assert path is None  # a local Ray inherits them


def test_errors_are_raised_and_printed_without_credentials(capsys):
    assert str(PreceptorError(f"{STORE} is down")) == "http://***@host:9000 is down"
    with pytest.raises(SystemExit), command_line.reporting_errors("teach"):
        raise ValueError(f"cannot connect to {STORE}")
    shown = capsys.readouterr().err
    assert "canary" not in shown
    assert "Traceback" in shown
    assert shown.count("http://***@host:9000") == 2


@pytest.mark.parametrize(
    ("override", "advice"),
    [
        ("questions.folder=s3://AKIAIOSFODNN7EXAMPLE:wJalr/XUtn+FEMI@bucket/x", "AWS_ACCESS_KEY_ID"),
        ("questions.folder=s3://bucket/x?secret_key=wJalrXUtn", "AWS_PROFILE"),
        ("teach.endpoint=https://me:wJalrXUtn@host/v1", "PRECEPTOR_API_KEY"),
    ],
)
def test_credentials_in_a_recipe_s_uri_are_refused_without_being_repeated(override, advice):
    with pytest.raises(ConfigError, match=rf"has credentials in it.*{advice}") as refused:
        recipes.resolve("pocket", ["pipelines"], [override])
    assert "wJalr" not in str(refused.value)
    assert override.partition("=")[0] in str(refused.value)
