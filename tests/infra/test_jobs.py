"""A stage as a Ray job: how it is followed over broken connections, stopped, and said to have ended."""

import contextlib
import re
import subprocess
from types import SimpleNamespace

import aiohttp
import pytest
from ray.job_submission import JobStatus

from infra import jobs
from infra.errors import ArtifactError, ClusterError
from infra.jobs import StageError, _reason

RAY = "[2026-11-26 02:42:08,377 I 1 1] (raylet) worker_pool.cc:564: Started worker process"
START = "Running entrypoint for job teach-1: env RAY_ADDRESS=127.0.0.1:1 python -m pipelines.teaching.stage"
LOG = "Running entrypoint\nteach: 1/3 questions\nteach: 2/3 questions\nteach: 3/3 questions\na word at its end"
FIRST = LOG.index("teach: 2")  # as long as its first two lines
SHOWN = ["teach: 1/3 questions", "teach: 2/3 questions", "teach: 3/3 questions"]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(jobs, "_PAUSE_S", 0.001)
    monkeypatch.setattr(jobs, "_POLL_S", 0.001)
    monkeypatch.setattr(jobs, "_STOP_AGAIN_S", 0.02)
    monkeypatch.setattr(jobs, "_APPEARS_WITHIN_S", 0.1)


class FakeClient:
    """A Jobs API with one job. tails: for each connection to its log, how much of it comes, and how it ends (an error,
    or None for politely); the last one goes for all later ones. stops: how each request to stop it ends."""

    def __init__(self, *tails, status=JobStatus.SUCCEEDED, ends_with_tail=None, stops=(None,), silent=0):
        self.tails = list(tails)
        self.num_tails = 0
        self.status = status
        self.ends_with_tail = len(tails) if ends_with_tail is None else ends_with_tail
        self.stops = list(stops)
        self.stopped = False
        self.silent = silent  # how many requests are not answered
        self.submitted = {}

    def submit_job(self, **submitted):
        self.submitted = submitted

    async def tail_job_logs(self, _):
        length, error = self.tails.pop(0) if len(self.tails) > 1 else self.tails[0]
        self.num_tails += 1
        for start in range(0, length, 7):  # in pieces that end anywhere
            yield LOG[start : min(start + 7, length)]
        if error is not None:
            raise error

    def get_job_logs(self, _):
        self._answer()
        return LOG if self._has_ended() else LOG[:FIRST]

    def get_job_status(self, _):
        self._answer()
        if self.stopped:
            return JobStatus.STOPPED
        return self.status if self._has_ended() else JobStatus.RUNNING

    def _has_ended(self):
        return self.num_tails >= self.ends_with_tail

    def get_job_info(self, _):
        return SimpleNamespace(message="exit code 1")

    def stop_job(self, _):
        error = self.stops.pop(0) if self.stops else None
        if error is not None:
            raise error
        self.stopped = True

    def _answer(self):
        if self.silent > 0:
            self.silent -= 1
            raise ConnectionError("connection refused")


def run(client, folder, *, drivers=None):
    """The job's run as a stage: what was shown of it."""
    shown = []
    cluster = jobs.Cluster(client, drivers, {}, "token", shown.append)
    error = None
    try:
        jobs.run(cluster, "teach", ["-m", "x"], folder / "logs" / "teach.log")
    except BaseException as raised:  # noqa: BLE001 - looked at by the test
        error = raised
    return shown, error


def handshake(status):
    return aiohttp.WSServerHandshakeError(SimpleNamespace(real_url="http://head"), (), status=status)


BREAKS = {
    "a web socket that breaks": RuntimeError("WebSocket connection closed unexpectedly with close code 1006"),
    "a connection that breaks": aiohttp.ClientConnectionError("reset by peer"),
    "a proxy without web sockets": aiohttp.WSServerHandshakeError(
        SimpleNamespace(real_url="http://head"), (), status=502
    ),
    "a time limit": TimeoutError(),
    "a proxy that closes politely": None,
}


@pytest.mark.parametrize("broken", BREAKS.values(), ids=BREAKS)
@pytest.mark.parametrize("length", [0, 1, 19, 20, 45, len(LOG) - 3])
def test_a_broken_connection_neither_stops_the_job_nor_loses_or_repeats_a_line(tmp_path, broken, length):
    client = FakeClient((length, broken), (length // 2, broken), (len(LOG), None))
    shown, error = run(client, tmp_path)
    assert error is None
    assert shown == SHOWN
    assert (tmp_path / "logs" / "teach.log").read_text() == LOG + "\n"
    assert not client.stopped


def test_where_no_web_socket_gets_through_the_log_is_fetched_by_requests(tmp_path):
    client = FakeClient((0, handshake(403)), ends_with_tail=4)
    shown, error = run(client, tmp_path)
    assert error is None
    assert shown == SHOWN


def test_a_cluster_that_is_silent_for_a_while_is_waited_for_and_that_is_said_once(tmp_path):
    client = FakeClient((FIRST, RuntimeError("broken")), (len(LOG), None), silent=5)
    shown, error = run(client, tmp_path)
    assert error is None
    assert [line for line in shown if line not in SHOWN] == [
        "flow: the cluster does not answer (connection refused); teach is waited for"
    ]
    assert [line for line in shown if line in SHOWN] == SHOWN


@pytest.mark.parametrize("drivers", [None, "127.0.0.1:1"])
def test_a_cluster_that_stays_silent_is_given_up_with_what_to_type(tmp_path, drivers, monkeypatch):
    monkeypatch.setattr(jobs, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(jobs, "_LOCAL_PATIENCE_S", 0.05)
    monkeypatch.setattr(jobs, "_STOP_TIMEOUT_S", 0.1)
    client = FakeClient((FIRST, RuntimeError("broken")), silent=10**9)
    shown, error = run(client, tmp_path, drivers=drivers)
    assert isinstance(error, ClusterError)
    assert re.search(r"lost the job of teach: connection refused\. Run the same command again", str(error))
    may_run = [
        line for line in shown if re.search(r"may still run on the cluster; stop it: ray job stop teach-\w+", line)
    ]
    assert len(may_run) == (0 if drivers else 1)  # our own Ray ends with us


def test_a_job_that_a_cluster_has_forgotten_is_given_up_at_once(tmp_path):
    client = FakeClient((FIRST, RuntimeError("Request failed with status code 404: Job teach-1 does not exist.")))
    client.get_job_logs = client.get_job_status = lambda _: forgotten()
    _, error = run(client, tmp_path)
    assert isinstance(error, ClusterError)
    assert "does not exist" in str(error)


def forgotten():
    raise RuntimeError("Request failed with status code 404: Job teach-1 does not exist.")


STOPS = {
    "at once": [None],
    "after errors": [RuntimeError("503"), ConnectionError("refused"), TimeoutError(), None],
    "though the user presses Ctrl-C again and again": [KeyboardInterrupt(), KeyboardInterrupt(), None],
}


@pytest.mark.parametrize("stops", STOPS.values(), ids=STOPS)
def test_an_interrupt_stops_the_job_for_certain(tmp_path, stops):
    client = FakeClient((FIRST, KeyboardInterrupt()), ends_with_tail=99, stops=list(stops))
    shown, error = run(client, tmp_path)
    assert isinstance(error, KeyboardInterrupt)
    assert client.stopped
    assert shown == SHOWN[:1]


def test_a_job_that_cannot_be_stopped_is_said_to_run_on_and_how_to_stop_it(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_STOP_TIMEOUT_S", 0.2)
    client = FakeClient((FIRST, KeyboardInterrupt()), ends_with_tail=99, stops=[RuntimeError("no agent")] * 10**4)
    shown, error = run(client, tmp_path)
    assert isinstance(error, KeyboardInterrupt)
    assert re.fullmatch(
        r"flow: teach could not be stopped \(no agent\) and may still run on the cluster; "
        r"stop it: ray job stop teach-\w{12}",
        shown[-1],
    )


def test_a_job_whose_submission_was_interrupted_is_stopped_when_it_appears(tmp_path):
    client = FakeClient((0, None), ends_with_tail=99)
    answers = [RuntimeError("Job teach-1 does not exist.")] * 3

    def submit_job(**_):
        raise KeyboardInterrupt

    def get_job_status(_, status=client.get_job_status):
        if answers:
            raise answers.pop()
        return status(_)

    client.submit_job, client.get_job_status = submit_job, get_job_status
    _, error = run(client, tmp_path)
    assert isinstance(error, KeyboardInterrupt)
    assert client.stopped


def test_a_job_that_was_never_taken_is_not_looked_for_long_and_nothing_is_said(tmp_path):
    client = FakeClient((0, None))
    client.submit_job = lambda **_: (_ for _ in ()).throw(RuntimeError("Request failed with status code 500: no room"))
    client.get_job_status = lambda _: forgotten()
    shown, error = run(client, tmp_path)
    assert isinstance(error, ClusterError)
    assert "Ray takes no job: Request failed with status code 500: no room" in str(error)
    assert shown == []


def test_what_a_killed_flow_left_running_is_stopped_and_nothing_else():
    stopped = set()
    all_jobs = [
        SimpleNamespace(submission_id=f"fit-{n}", metadata=metadata, status=status)
        for n, (metadata, status) in enumerate(
            [
                ({"preceptor_run": "killed"}, JobStatus.RUNNING),
                ({"preceptor_run": "killed"}, JobStatus.SUCCEEDED),
                ({"preceptor_run": "another"}, JobStatus.RUNNING),
                (None, JobStatus.RUNNING),
            ]
        )
    ]
    client = SimpleNamespace(
        list_jobs=lambda: all_jobs,
        stop_job=stopped.add,
        get_job_status=lambda job: JobStatus.STOPPED if job in stopped else JobStatus.RUNNING,
    )
    shown = []
    jobs.stop_leftovers(jobs.Cluster(client, None, {}, "own", shown.append), "killed")
    assert stopped == {"fit-0"}
    assert shown == ["flow: stopping fit-0, which a flow that was killed has left running"]


def test_a_failed_job_is_its_stage_s_error_and_where_the_log_is(tmp_path):
    _, error = run(FakeClient((len(LOG), None), status=JobStatus.FAILED), tmp_path)
    assert isinstance(error, StageError)
    assert str(error).endswith(f"The whole log is {tmp_path}/logs/teach.log")


def test_a_log_that_cannot_be_written_is_one_line_and_stops_the_job(tmp_path):
    (tmp_path / "logs").touch()
    client = FakeClient((FIRST, None))
    _, error = run(client, tmp_path)
    assert isinstance(error, ArtifactError)
    assert re.search(r"teach\.log could not be written: .*choose another --run-dir", str(error))
    assert client.submitted == {}


def test_a_disk_that_fills_up_is_one_line_and_stops_the_job(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], check=False).returncode:
        pytest.skip("this machine does not let tests mount a file system")
    try:
        (disk / "logs").mkdir()
        (disk / "logs" / "teach.log").touch()
        with contextlib.suppress(OSError), (disk / "rest").open("wb", buffering=0) as rest:
            while rest.write(bytes(1024)):
                pass
        client = FakeClient((FIRST, None), ends_with_tail=99)
        _, error = run(client, disk)
        assert isinstance(error, ArtifactError)
        assert "No space left on device. Free space" in str(error)
        assert client.stopped
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_stage_s_own_error_is_the_reason():
    lines = [START, "teach: 3/9 questions", "teach: error: no such teacher", "  it was moved", RAY]
    assert _reason("teach", lines, "exit code 1") == "no such teacher\n  it was moved"


def test_what_an_engine_says_of_itself_when_it_ends_is_no_part_of_the_error():
    worker = "\x1b[36m(MapWorker(MapBatches(WorkerActor)) pid=7)\x1b[0m"
    noise = [f"{worker} nanobind: leaked 4 instances!", f'{worker}  - leaked function "get_ptr_ty"', RAY]
    assert _reason("teach", [START, "teach: error: 9 of 9 requests failed", *noise], "") == "9 of 9 requests failed"


def test_the_end_of_a_traceback_is_the_reason_where_the_stage_says_nothing():
    lines = [START, RAY, "Traceback (most recent call last):", "ImportError: no module"]
    assert _reason("teach", lines, "") == "Traceback (most recent call last):\nImportError: no module"


@pytest.mark.parametrize("said", ["Job entrypoint command failed with exit code -9\nmore", ""])
def test_a_job_that_was_killed_is_said_to_have_ended_without_a_word_and_what_to_type(said):
    reason = _reason("teach", [START, "teach: 3/9 questions, 1.0/s", RAY, ""], said)
    assert reason.startswith("teach ended without a word (")
    assert "Run the same command again" in reason
    assert "RAY_ADDRESS" not in reason
    assert ("exit code -9" in reason) == bool(said)
