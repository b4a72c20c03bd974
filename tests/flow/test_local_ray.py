"""Who reaches a Ray that starts on this machine, and what it tells of the user's secrets."""

import os
import signal
import socket
import socketserver
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from infra import cluster, run_lock
from pipelines import flow
from tests import listening
from tests.flow.conftest import CANARIES, PROJECT, canaries_in, store_with_a_canary
from tests.flow.nodes import ray_nodes

# Ray leaves sockets and log files open that the process goes on with.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning"),  # Ray's client of jobs
]

DRAW = ["-m", "pipelines.questions.sources.pocket", "pocket", "--set", "draw.pocket.num_train_questions=4"]
DRAW += ["--set", "draw.pocket.num_test_questions=4", "--run-dir"]
PROBE = """
import os, ray
from infra import cluster, credentials
print("probe: telemetry is off:", os.environ["RAY_USAGE_STATS_ENABLED"] == "0", flush=True)
credentials.load()
os.environ["RAY_ADDRESS"] = "127.0.0.1:1"  # as Ray may say where several clusters share a machine
cluster.connect()
CANARY = "can" "ary"  # the whole word stands in no command
in_worker = ray.remote(lambda: [name for name in credentials.VARIABLES if CANARY in os.environ.get(name, "")])
print("probe: its worker has", ray.get(in_worker.remote()), flush=True)
"""


@contextmanager
def proxy():
    """A proxy that does nothing for anybody: its address, and the first line of each who asks it."""
    asked = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            asked.append(self.rfile.readline())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield "http://{}:{}".format(*server.server_address), asked
        server.shutdown()


@pytest.fixture(scope="module")
def local_ray(tmp_path_factory):
    """A local Ray behind a proxy, with two jobs done, the second one as a cluster of the user's would get it; what it
    listened on, what its Jobs API says of them, and where its files are."""
    folder = tmp_path_factory.mktemp("local")
    said: list[str] = []
    with (
        proxy() as (proxy_address, asked_of_proxy),
        pytest.MonkeyPatch.context() as patch,
        listening.watched() as listeners,
    ):
        patch.setenv("HOME", str(folder))
        patch.setenv("PATH", "/usr/bin:/bin")  # a Ray that was started by its path alone
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            patch.setenv(name, proxy_address)
        patch.setenv("no_proxy", "internal.example")
        with cluster.cluster() as addresses:
            token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
            store = store_with_a_canary(folder / "mlflow.db")
            with pytest.MonkeyPatch.context() as as_on_a_cluster:
                as_on_a_cluster.setenv("RAY_ADDRESS", addresses.jobs)
                for name, value in (CANARIES | {"MLFLOW_TRACKING_URI": store}).items():
                    as_on_a_cluster.setenv(name, value)
                run_dir = folder / "runs" / "r"
                screen = SimpleNamespace(show=said.append)
                with (
                    run_lock.held(run_dir, "the flow", said.append) as hold,
                    flow._job_runner(run_dir, screen, hold, {}) as submit,
                ):
                    submit("draw", [*DRAW, str(run_dir)])
                    submit("probe", ["-c", PROBE])
                    left = sorted(path.name for path in run_dir.glob(".credentials*"))
            headers = {"Authorization": f"Bearer {token.read_text()}"}
            yield SimpleNamespace(
                addresses=addresses,
                listeners=listeners,
                asked_of_proxy=asked_of_proxy,
                said=said,
                token_of_flow=hold.token,
                run_dir=run_dir,
                during=left,
                token=token,
                home=folder,
                jobs=requests.get(f"{addresses.jobs}/api/jobs/", headers=headers, timeout=30),
                excepted=os.environ["no_proxy"],
            )


def test_nothing_of_a_local_ray_listens_beyond_loopback(local_ray):
    names = " ".join(listener.process for listener in local_ray.listeners)
    assert all(part in names for part in ("gcs_server", "raylet", "dashboard.py", "DashboardAgent", "ray::IDLE"))
    assert [listener for listener in local_ray.listeners if not listener.is_loopback] == []


def test_a_job_of_a_cluster_gets_the_credentials_by_a_file_and_its_workers_too(local_ray):
    names = ["PRECEPTOR_API_KEY", "AWS_SECRET_ACCESS_KEY"]
    assert [line for line in local_ray.said if line.startswith("probe: ")] == [
        "probe: telemetry is off: True",
        f"probe: its worker has {names}",
    ]
    assert len(local_ray.during) == 1
    assert list(local_ray.run_dir.glob(".credentials*")) == []


def test_no_secret_is_in_ray_s_files_the_jobs_api_or_the_run_folder(local_ray):
    assert local_ray.jobs.status_code == 200
    assert len([job for job in local_ray.jobs.json() if job["submission_id"]]) == 2
    assert "canary" not in local_ray.jobs.text
    assert canaries_in(local_ray.token.parent) == []
    assert canaries_in(local_ray.run_dir) == []


def test_only_the_user_enters_the_folder_of_a_local_ray_and_its_token_is_nowhere_else(local_ray):
    folder = local_ray.token.parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(local_ray.token.stat().st_mode) == 0o600
    token = local_ray.token.read_bytes()
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 20
    assert [path for path in files if token in path.read_bytes()] == [local_ray.token]
    assert not (local_ray.home / ".ray").exists()


@pytest.mark.parametrize("token", [None, "Bearer wrong"])
def test_the_jobs_api_takes_nothing_without_the_token(local_ray, token):
    headers = {"Authorization": token} if token else {}
    for ask in (requests.get, requests.post):
        answer = ask(f"{local_ray.addresses.jobs}/api/jobs/", headers=headers, json={"entrypoint": "id"}, timeout=30)
        assert answer.status_code in (401, 403)


NO_TOKEN, NO_TOKEN_FILE = {"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "HOME": "/nowhere"}
WRONG_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
CONNECTS = "from infra import cluster, command_line, jobs\nwith command_line.reporting_errors('flow'):\n    {}"
REFUSED = {  # name -> script, and what it has in the place of the token
    "driver without": ("import ray; ray.init(address='auto'); print('connected')", NO_TOKEN),
    "driver with a wrong one": ("import ray; ray.init(address='auto'); print('connected')", WRONG_TOKEN),
    **{
        f"{what} {how}": (CONNECTS.format(call), authentication)
        for what, call in (("jobs", "jobs.connect(None)"), ("flow", "cluster.connect()"))
        for how, authentication in (
            ("without", NO_TOKEN),
            ("without a file", NO_TOKEN_FILE),
            ("with a wrong one", WRONG_TOKEN),
        )
    },
}


@pytest.fixture(scope="module")
def refused(local_ray):
    """How each of them ended. All at once, since Ray lets each wait for some seconds."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}

    def connect(script, authentication):
        address = local_ray.addresses.jobs if "jobs.connect" in script else local_ray.addresses.drivers
        return subprocess.run(
            [sys.executable, "-c", script],
            env=inherited | {"RAY_ADDRESS": address} | authentication,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    with ThreadPoolExecutor(len(REFUSED)) as threads:
        started = {name: threads.submit(connect, *each) for name, each in REFUSED.items()}
        return {name: each.result() for name, each in started.items()}


@pytest.mark.parametrize("name", ["driver without", "driver with a wrong one"])
def test_no_driver_connects_without_the_token(refused, name):
    ended = refused[name]
    assert ended.returncode != 0
    assert "connected" not in ended.stdout
    assert "Unauthenticated" in ended.stderr or "token" in ended.stderr.lower()


@pytest.mark.parametrize("name", [name for name in REFUSED if not name.startswith("driver")])
def test_a_flow_whose_token_is_wrong_or_missing_says_so_in_one_line_with_what_to_type(refused, name):
    ended = refused[name]
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("flow: error: ")]
    assert ("does not take our token" if "wrong" in name else "wants a token") in line
    assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=FILE" in line
    assert "Traceback" not in ended.stderr


def test_jobs_carry_what_a_later_flow_finds_them_by(local_ray):
    tokens = {(job["metadata"] or {}).get("preceptor_run") for job in local_ray.jobs.json() if job["submission_id"]}
    assert tokens == {local_ray.token_of_flow}


def test_a_proxy_hears_nothing_of_a_local_ray(local_ray):
    assert local_ray.asked_of_proxy == []
    assert local_ray.excepted == "internal.example,127.0.0.1,localhost,::1,169.254.169.254,metadata.google.internal"


def test_clusters_of_the_tests_listen_on_loopback_alone():
    with listening.watched() as listeners, ray_nodes([1], head_cpus=1) as nodes:
        script = "import ray; ray.init(); print(ray.get(ray.remote(lambda: 7).remote()))"
        environment = os.environ | {"RAY_ADDRESS": nodes.address}
        ended = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert "7" in ended.stdout
    assert sum("raylet" in listener.process for listener in listeners) >= 2
    assert [listener for listener in listeners if not listener.is_loopback] == []


def test_make_ui_listens_on_loopback_alone_and_answers_to_no_other_name(tmp_path):
    port = listening.free_port()
    command = ["make", "ui", f"RUNS={tmp_path}/new_runs", f"UI_PORT={port}", f"PYTHON={sys.executable}"]
    with listening.watched() as listeners, (tmp_path / "log").open("w") as log:
        ui = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(port, tmp_path / "log")
            names = ("localhost", "127.0.0.1", "evil.example", "10.evil.example")
            statuses = {name: status(port, name) for name in names}
            foreign = status(port, "localhost", "POST", {"Origin": "http://evil.example"})
        finally:
            os.killpg(ui.pid, signal.SIGINT)
            ui.wait(timeout=60)
    assert statuses == {"localhost": 200, "127.0.0.1": 200, "evil.example": 403, "10.evil.example": 403}
    assert foreign == 403
    assert (tmp_path / "new_runs" / "mlflow.db").is_file()
    assert {(listener.address, listener.port) for listener in listeners} >= {("127.0.0.1", port)}
    assert [listener for listener in listeners if not listener.is_loopback] == []


def wait_for(port, log):
    """Until something answers there."""
    deadline = time.monotonic() + 180
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def status(port, host, method="GET", headers=None):
    """What MLflow answers to a request that a browser sends to it under this name."""
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    answer = requests.request(
        method,
        f"http://127.0.0.1:{port}{path}",
        headers={"Host": f"{host}:{port}"} | (headers or {}),
        data="{}" if method == "POST" else None,
        timeout=60,
    )
    return answer.status_code
