"""Ray jobs: submit one stage, show its lines as they come, keep the rest in a log file, and say in a few lines why it
failed. [edge]"""

import asyncio
import logging
import re
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

from infra.cluster import LOCAL_VARIABLE
from infra.errors import ArtifactError, ClusterError, PreceptorError, first_line
from infra.redaction import redacted

_AGENT_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 30.0
_POLL_S = 0.1
_TRACEBACK_LINES_SHOWN = 6
_NOISE = re.compile(r"INFO|WARNING|Warning|^\s*$|^\x1b\[36m|^Running entrypoint for job|^\[\d{4}-\d\d-\d\d ")


class StageError(PreceptorError):
    """A stage's job ended without success; the message is the stage's own error and where the whole log is."""


def connect(address: str | None) -> JobSubmissionClient:
    """A client of the Jobs API at this address, or at the cluster that RAY_ADDRESS names."""
    for module in ("job.sdk", "dashboard_sdk"):  # their chatter is not the stages' progress
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise ClusterError(f"The Jobs API of Ray does not answer: {first_line(error)}") from error


def run(
    client: JobSubmissionClient,
    stage: str,
    arguments: Sequence[str],
    drivers: str | None,
    environment: dict[str, object],
    log: Path,
    show: Callable[[str], None],
) -> None:
    """Run a command as a Ray job until it ends. Its lines that start with `stage: ` are shown, all of them go to the
    log.

    An interrupt stops the job, then goes on. Raises StageError when the job does not succeed.
    """
    # Our own interpreter where the driver runs on this machine; and the address said outright, since where several
    # clusters share a machine, Ray tells a job's driver the address of the latest one.
    start = ["env", f"RAY_ADDRESS={drivers}", f"{LOCAL_VARIABLE}=1", sys.executable] if drivers else ["python"]
    job_id = f"{stage}-{uuid.uuid4().hex[:12]}"
    lines: list[str] = []
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as stream:
            _submit(client, job_id, shlex.join([*start, *arguments]), environment)

            def take(line: str) -> None:
                line = redacted(line)
                stream.write(line + "\n")
                stream.flush()
                lines.append(line)
                if line.startswith(f"{stage}: ") and not line.startswith(f"{stage}: error: "):
                    show(line)

            asyncio.run(_follow(client, job_id, take))
        status = _wait(client, job_id)
    except BaseException as error:
        _stop(client, job_id)
        if isinstance(error, OSError):
            raise ArtifactError(f"{log} could not be written: {error}. Choose another --run-dir.") from error
        if isinstance(error, RuntimeError):
            raise ClusterError(f"Ray lost the job of {stage}: {first_line(error)}") from error
        raise
    if status is not JobStatus.SUCCEEDED:
        said = redacted(client.get_job_info(job_id).message or "")
        raise StageError(f"{_reason(stage, lines, said)}\nThe whole log is {log}")


def _submit(client: JobSubmissionClient, job_id: str, entrypoint: str, environment: dict[str, object]) -> None:
    """Submit once the cluster takes jobs: a young cluster's Jobs API answers before its agent is there."""
    deadline = time.monotonic() + _AGENT_TIMEOUT_S
    while True:
        try:
            client.submit_job(entrypoint=entrypoint, runtime_env=environment, submission_id=job_id)
            return
        except (RuntimeError, ConnectionError) as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                reason = first_line(error).partition(": Traceback")[0]
                raise ClusterError(f"Ray takes no job: {reason}") from error
            time.sleep(_POLL_S)


async def _follow(client: JobSubmissionClient, job_id: str, take: Callable[[str], None]) -> None:
    rest = ""
    async for chunk in client.tail_job_logs(job_id):
        *whole, rest = (rest + chunk).split("\n")
        for line in whole:
            take(line)
    if rest:
        take(rest)


def _wait(client: JobSubmissionClient, job_id: str) -> JobStatus:
    while not (status := client.get_job_status(job_id)).is_terminal():
        time.sleep(_POLL_S)
    return status


def _stop(client: JobSubmissionClient, job_id: str) -> None:
    """Stop the job and wait for its end, so that no child of it outlives us."""
    try:
        client.stop_job(job_id)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while not client.get_job_status(job_id).is_terminal() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    except (RuntimeError, ConnectionError):
        return  # the cluster is gone, and the job with it


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
