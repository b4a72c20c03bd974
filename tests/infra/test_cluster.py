import os
import stat
import tempfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray._private.runtime_env.packaging import _get_excludes
from ray.dashboard.utils import get_address_for_submission_client

from infra import cluster
from infra.errors import ClusterError
from infra.resources import Workers


def is_shipped(name: str) -> bool:
    """Whether Ray would pack this path: it walks from the top and goes into no folder that is left out."""
    left_out = _get_excludes(cluster.PROJECT, cluster.job_environment(None, "token")["excludes"])
    path = cluster.PROJECT / name
    way = [path, *path.parents][: len(Path(name).parts) + 1]
    return not any(left_out(step) for step in way)


@pytest.mark.parametrize(
    "name", ["", "pipelines/flow.py", "pipelines/report.html.j2", "train/pocket/base/model.safetensors"]
)
def test_a_job_gets_our_packages(name):
    assert is_shipped(name)


@pytest.mark.parametrize(
    "name", ["mine/images/1.png", "data/pmc.csv", "runs/pocket", ".venv", ".git", "tests", "x.parquet"]
)
def test_nothing_else_of_the_folder_is_copied_into_the_cluster(name):
    assert not is_shipped(name)


def test_a_job_is_told_to_keep_silent_and_which_code_it_runs():
    variables = cluster.job_environment(None, "token")["env_vars"]
    assert variables["RAY_USAGE_STATS_ENABLED"] == "0"
    assert "commit" in variables["PRECEPTOR_CODE_REVISION"]
    assert variables["PRECEPTOR_RUN"] == "token"


def test_a_ray_that_does_not_start_is_one_clear_error(monkeypatch):
    def fail(*_, **__):
        raise Exception("The current node timed out during startup.\nLong story")

    monkeypatch.setattr(cluster.ray, "init", fail)
    with (
        tempfile.TemporaryDirectory(prefix="", dir="/tmp") as short,
        pytest.raises(ClusterError, match=r"^Ray did not start: The current node timed out during startup\.$"),
    ):
        monkeypatch.setenv("RAY_TMPDIR", short)
        cluster.connect()


@pytest.mark.parametrize("address", ["", "local"])
def test_ray_s_own_word_for_a_local_ray_starts_one_of_ours(monkeypatch, address):
    started = SimpleNamespace(dashboard_url="127.0.0.1:1", address_info={"gcs_address": "127.0.0.1:2"})
    monkeypatch.setattr(cluster, "_local", lambda dashboard: nullcontext(started))
    monkeypatch.setenv("RAY_ADDRESS", address)
    with cluster.cluster() as addresses:
        assert addresses == cluster.Addresses("http://127.0.0.1:1", "127.0.0.1:2")


def test_a_local_ray_leaves_the_environment_as_it_was_and_its_folder_only_after_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of another cluster")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://another.cluster.example:8265")
    before = dict(os.environ)
    with cluster.private() as folder:
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
        assert "RAY_AUTH_TOKEN" not in os.environ
        assert cluster.is_on_loopback()
        assert get_address_for_submission_client("http://127.0.0.1:1") == "http://127.0.0.1:1"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert dict(os.environ) == before
    assert not cluster.is_on_loopback()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), cluster.private() as kept:
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [kept]
    os.utime(kept, (0, 0))
    with cluster.private() as own:
        assert list(tmp_path.iterdir()) == [own]


def test_two_local_rays_at_a_time_have_folders_and_tokens_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with cluster.private() as one:
        os.utime(one, (0, 0))
        with cluster.private() as other:
            assert (one / "token").read_text() != (other / "token").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_a_local_ray_has_no_room_for_is_named_before_any_runs(monkeypatch):
    asked = {"teach": (Workers(what="engines"),), "fit": (Workers(what="workers", count=9),)}
    cluster.require_all(asked)  # this process has no Ray: the cluster is the user's
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": 8.0})
    monkeypatch.setenv(cluster.LOCAL_VARIABLE, "1")
    with pytest.raises(ClusterError, match=r"too small: fit asks for 9 CPUs \(it has 8\)\..* export RAY_ADDRESS="):
        cluster.require_all(asked)
    cluster.require_all({"teach": asked["teach"]})


def test_a_local_ray_that_is_too_small_is_refused_and_another_cluster_may_grow(monkeypatch):
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": 8.0})
    monkeypatch.delenv(cluster.LOCAL_VARIABLE, raising=False)
    said = []
    cluster.require(said.append, cpus=8, gpus=0)
    cluster.require(said.append, cpus=8, gpus=4)
    assert said == ["the cluster is too small for 4 GPUs (it has 0): waiting for it to grow"]
    monkeypatch.setenv(cluster.LOCAL_VARIABLE, "1")
    with pytest.raises(ClusterError, match=r"asks for 16 CPUs \(it has 8\)"):
        cluster.require(said.append, cpus=16, gpus=0)


def test_a_folder_for_ray_s_files_that_is_missing_or_too_long_is_one_line_with_what_to_type(monkeypatch, tmp_path):
    long = tmp_path / ("long" * 20)
    long.mkdir()
    for folder, reason in (
        (tmp_path / "none", "No such file or directory"),
        (long, "too long for the path of a socket"),
    ):
        monkeypatch.setenv("RAY_TMPDIR", str(folder))
        with pytest.raises(ClusterError, match=rf"{folder}.*{reason}.*export RAY_TMPDIR=FOLDER"):
            cluster.connect()
