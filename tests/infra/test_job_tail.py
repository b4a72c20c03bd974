"""A job's log against a Jobs API that tells the end late, as Ray's does."""

import asyncio
import time

import pytest
from ray.job_submission import JobStatus

from infra import jobs

_LOG = "verify: one\nverify: two\nlast words"


class _LateClient:
    """Its tail has told `told` and stays silent; the job ends after `polls` looks at its status."""

    def __init__(self, told: str, polls: int, tail_ends_after_s: float = 60) -> None:
        self.told, self.polls, self.tail_ends_after_s = told, polls, tail_ends_after_s
        self.log_reads = 0
        self.closed = False

    async def tail_job_logs(self, job_id: str):
        try:
            yield self.told
            await asyncio.sleep(self.tail_ends_after_s)
            yield _LOG.removeprefix(self.told)
        finally:
            self.closed = True

    def get_job_status(self, job_id: str) -> JobStatus:
        self.polls -= 1
        return JobStatus.RUNNING if self.polls >= 0 else JobStatus.SUCCEEDED

    def get_job_logs(self, job_id: str) -> str:
        self.log_reads += 1
        return _LOG


def _follow(client: _LateClient) -> tuple[JobStatus, list[str]]:
    taken: list[str] = []
    cluster = jobs.Cluster(client, "127.0.0.1:1", {}, "token", taken.append)  # type: ignore[arg-type]
    return jobs._follow(cluster, "verify", "verify-1", jobs._Lines(taken.append)), taken


@pytest.mark.parametrize("told", ["", "verify: one\n", "verify: one\nveri", _LOG])
def test_an_ended_job_is_not_waited_for_and_each_line_is_taken_once(told):
    client = _LateClient(told, polls=3)
    started = time.monotonic()

    status, lines = _follow(client)

    assert (status, lines) == (JobStatus.SUCCEEDED, _LOG.split("\n"))
    assert time.monotonic() - started < 30  # the tail would have ended after 60 s
    assert client.closed


def test_a_long_log_is_not_read_a_second_time(monkeypatch):
    monkeypatch.setattr(jobs, "_SHORT_LOG_LINES", 1)
    client = _LateClient("verify: one\n", polls=0, tail_ends_after_s=1)

    status, lines = _follow(client)

    assert (status, lines) == (JobStatus.SUCCEEDED, _LOG.split("\n"))
    assert client.log_reads == 0
