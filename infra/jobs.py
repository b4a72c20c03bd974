"""Ray jobs: submit one stage, show its lines as they come, keep the rest in a log file, and say in a few lines why it
failed. [edge]

A job outlives a broken connection: its log is followed again from where it was, for as long as the cluster is there.
"""

import asyncio
import dataclasses
import logging
import re
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from infra import cluster_address
from infra.cluster import LOCAL_VARIABLE
from infra.errors import ArtifactError, ClusterError, PreceptorError, first_line
from infra.redaction import redacted

_ANSWER_TIMEOUT_S = (5.0, 60.0)  # to connect, and for the next byte; Ray's own client waits for ever
_AGENT_TIMEOUT_S = 120.0
_PATIENCE_S = 300.0  # with a cluster that does not answer: a head, proxy or network that starts again
_LOCAL_PATIENCE_S = 5.0  # with a Ray on this machine
_STOP_TIMEOUT_S = 60.0
_STOP_AGAIN_S = 3.0
_APPEARS_WITHIN_S = 5.0  # a job whose submission was interrupted
_POLL_S = 0.1
_PAUSE_S = 1.0
_PAUSES_PER_READ = 10
_SHORT_LOG_LINES = 10_000
_TRACEBACK_LINES_SHOWN = 6
_NOISE = re.compile(r"INFO|WARNING|Warning|^\s*$|^\x1b\[36m|^Running entrypoint for job|^\[\d{4}-\d\d-\d\d ")
_UNKNOWN = "does not exist"  # as the Jobs API says of a job that it does not know
_LOST = (RuntimeError, OSError, aiohttp.ClientError, RayError)  # all that Ray's client raises when a request fails
_STARTED_FOR = "preceptor_run"
_CHATTER = (  # loggers of Ray whose lines would stand between the stages' progress
    "dashboard.modules.job.sdk",
    "dashboard.modules.dashboard_sdk",
    "_private.runtime_env.working_dir",
    "_private.runtime_env.packaging",
)


class StageError(PreceptorError):
    """A stage's job ended without success; the message is the stage's own error and where the whole log is."""


class _Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client, which gives up on a server that does not answer."""

    def _do_request(self, *arguments: Any, **named: Any) -> Any:
        return super()._do_request(*arguments, **{"timeout": _ANSWER_TIMEOUT_S, **named})


def connect(address: str | None) -> JobSubmissionClient:
    """A client of the Jobs API at this address, or at the cluster that RAY_ADDRESS names.

    Raises ClusterError within seconds when no cluster answers there, or when it refuses us.
    """
    for module in _CHATTER:
        logging.getLogger(f"ray.{module}").setLevel(logging.ERROR)
    with cluster_address.explaining_failures(address):
        client = _Client(address)
        client.list_jobs()  # asks for authentication; the version, which Ray has asked for, does not
        return client


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where all jobs of a flow run, and what they have in common.

    drivers: the address for drivers on this machine, None for the user's own cluster. token: of the flow; if this flow
    is killed, a later one finds its jobs by the token.
    """

    client: JobSubmissionClient
    drivers: str | None
    environment: dict[str, object]
    token: str
    show: Callable[[str], None]

    @property
    def patience_s(self) -> float:
        """How long a cluster may be silent until its job is given up."""
        return _LOCAL_PATIENCE_S if self.drivers else _PATIENCE_S


def run(cluster: Cluster, stage: str, arguments: Sequence[str], log: Path) -> None:
    """Run a command as a Ray job until it ends. Lines that start with `stage: ` are shown, and all lines go to the log.

    An interrupt stops the job, and is then raised. Raises StageError when the job does not succeed.
    """
    # Where the driver runs on this machine: our own interpreter, and the address of our cluster, since where several
    # clusters share a machine, Ray gives a job's driver the address of the latest one.
    drivers = cluster.drivers
    start = ["env", f"RAY_ADDRESS={drivers}", f"{LOCAL_VARIABLE}=1", sys.executable] if drivers else ["python"]
    job_id = f"{stage}-{uuid.uuid4().hex[:12]}"
    lines: list[str] = []
    with _written(log) as write:

        def take(line: str) -> None:
            line = redacted(line)
            write(line)
            lines.append(line)
            if line.startswith(f"{stage}: ") and not line.startswith(f"{stage}: error: "):
                cluster.show(line)

        try:
            _submit(cluster, job_id, shlex.join([*start, *arguments]))
            status = _follow(cluster, stage, job_id, _Lines(take))
        except BaseException:
            _stop(cluster, stage, job_id)
            raise
    if status is not JobStatus.SUCCEEDED:
        raise StageError(f"{_reason(stage, lines, _said(cluster.client, job_id))}\nThe whole log is {log}")


@contextmanager
def _written(log: Path) -> Iterator[Callable[[str], None]]:
    """A function that writes a line to a log file. Raises ArtifactError when the disk does not take it."""

    def refused(error: OSError) -> ArtifactError:
        return ArtifactError(
            f"{log} could not be written: {error.strerror or error}. Free space or choose another --run-dir."
        )

    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        stream = log.open("w")
    except OSError as error:
        raise refused(error) from error

    def write(line: str) -> None:
        try:
            stream.write(line + "\n")
            stream.flush()
        except OSError as error:
            raise refused(error) from error

    try:
        yield write
    finally:
        with suppress(OSError):  # closing writes again what a full disk has refused
            stream.close()


def _submit(cluster: Cluster, job_id: str, entrypoint: str) -> None:
    """Submit a job, again until the cluster's agent is there: the Jobs API of a new cluster answers before that."""
    deadline = time.monotonic() + _AGENT_TIMEOUT_S
    while True:
        try:
            cluster.client.submit_job(
                entrypoint=entrypoint,
                runtime_env=cluster.environment,
                submission_id=job_id,
                metadata={_STARTED_FOR: cluster.token},
            )
            return
        except _LOST as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                reason = first_line(error).partition(": Traceback")[0]
                raise ClusterError(f"Ray takes no job: {reason}") from error
            time.sleep(_POLL_S)


class _Lines:
    """A job's lines; each is taken once, even if the log is read from its start several times."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self.taken = 0
        self.start()

    def start(self) -> None:
        """The next text comes from the log's start."""
        self._seen = 0
        self._rest = ""

    def add(self, text: str) -> None:
        """Take the complete lines of the next text."""
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            self._seen += 1
            if self._seen > self.taken:
                self.taken = self._seen
                self._take(line)

    def end(self) -> None:
        """Take the last line, which may be incomplete."""
        if self._rest:
            self.add("\n")


def _follow(cluster: Cluster, stage: str, job_id: str, lines: _Lines) -> JobStatus:
    """Take a job's lines as they come until it ends; a broken connection is made again.

    Raises ClusterError when the cluster is silent for too long, or has forgotten the job.
    """
    client = cluster.client
    silent_since: float | None = None
    while True:
        reading_s = 0.0
        try:
            try:
                lines.start()
                asyncio.run(_tail(client, job_id, lines))
            except _LOST:
                lines.start()
                started = time.monotonic()
                lines.add(client.get_job_logs(job_id))  # where no socket gets through, requests may
                reading_s = time.monotonic() - started
            status = client.get_job_status(job_id)
            silent_since = None
            if status.is_terminal():
                lines.end()
                return status
        except _LOST as error:
            broken = first_line(error)
            now = time.monotonic()
            if silent_since is None:
                silent_since = now
                if cluster.drivers is None:
                    cluster.show(f"flow: the cluster does not answer ({redacted(broken)}); {stage} is waited for")
            if _UNKNOWN in str(error) or now - silent_since > cluster.patience_s:
                raise ClusterError(
                    f"Ray lost the job of {stage}: {broken}. Run the same command again, and it goes on."
                ) from error
        time.sleep(_PAUSE_S + _PAUSES_PER_READ * reading_s)  # longer for a long log, since all of it is read again


async def _tail(client: JobSubmissionClient, job_id: str, lines: _Lines) -> None:
    """Take lines as they come, until the job has ended.

    Ray's own tail ends two to three seconds late. So the job's status is asked for meanwhile, less often the longer it
    runs, and when the job has ended, the rest of a short log is read at once.
    """

    async def take_all() -> None:
        async for text in client.tail_job_logs(job_id):
            lines.add(text)

    started = time.monotonic()
    tail = asyncio.create_task(take_all())
    try:
        while not tail.done():
            await asyncio.wait({tail}, timeout=min(max(_POLL_S, (time.monotonic() - started) / 20), _PAUSE_S))
            if lines.taken < _SHORT_LOG_LINES and client.get_job_status(job_id).is_terminal():
                lines.start()
                lines.add(client.get_job_logs(job_id))
                return
        await tail
    finally:
        tail.cancel()


def stop_leftovers(cluster: Cluster, token: str) -> None:
    """Stop the jobs that a killed flow has left running on the cluster. token: of that flow."""
    try:
        left = [
            job.submission_id
            for job in cluster.client.list_jobs()
            if (job.metadata or {}).get(_STARTED_FOR) == token and not job.status.is_terminal()
        ]
    except _LOST:
        return
    for job_id in left:
        cluster.show(f"flow: stopping {job_id}, which a flow that was killed has left running")
        _stop(cluster, job_id.rpartition("-")[0], job_id)


def _stop(cluster: Cluster, stage: str, job_id: str) -> None:
    """Stop the job and wait for its end, so that no child of it outlives us. Ctrl-C does not interrupt this. If the job
    cannot be stopped, a line says that it may still run."""
    started = time.monotonic()
    asked_at = -_STOP_AGAIN_S
    reason = "it does not end"
    while (now := time.monotonic()) - started < _STOP_TIMEOUT_S:
        try:
            if cluster.client.get_job_status(job_id).is_terminal():
                return
            if now - asked_at > _STOP_AGAIN_S:
                asked_at = now
                cluster.client.stop_job(job_id)
            time.sleep(_POLL_S)
        except KeyboardInterrupt:
            continue
        except _LOST as error:
            if _UNKNOWN in str(error) and now - started > _APPEARS_WITHIN_S:
                return  # there is no such job
            if cluster.drivers and _UNKNOWN not in str(error):
                return  # our own Ray is gone, and the job with it
            reason = first_line(error)
            _pause()
    cluster.show(
        f"flow: {stage} could not be stopped ({redacted(reason)}) and may still run on the cluster; "
        f"stop it: ray job stop {job_id}"
    )


def _pause() -> None:
    try:
        time.sleep(_PAUSE_S)
    except KeyboardInterrupt:
        return


def _said(client: JobSubmissionClient, job_id: str) -> str:
    """What Ray says of how a job ended."""
    try:
        return redacted(client.get_job_info(job_id).message or "")
    except _LOST as error:
        return first_line(error)


def _reason(stage: str, lines: list[str], said: str) -> str:
    marker = f"{stage}: error: "
    for number, line in enumerate(lines):
        if line.startswith(marker):
            rest = [other for other in lines[number + 1 : number + 4] if not _NOISE.search(other)]
            return "\n".join([line.removeprefix(marker), *rest])
    telling = [line for line in lines if not _NOISE.search(line) and not line.startswith(f"{stage}: ")]
    if telling:
        return "\n".join(telling[-_TRACEBACK_LINES_SHOWN:])
    how = (said.strip().splitlines() or ["nobody knows why"])[0]
    return f"{stage} ended without a word ({how}). Run the same command again, and it goes on."
