"""Ray: the cluster that RAY_ADDRESS names, or one of our own on this machine for as long as it is needed. [edge]"""

import dataclasses
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
from ray._private.parameter import RayParams
from ray._private.worker import BaseContext

from infra import privacy
from infra.errors import ClusterError, first_line
from infra.manifest import CODE_REVISION_VARIABLE, code_revision

PROJECT = Path(__file__).parent.parent
LOCAL_VARIABLE = "PRECEPTOR_LOCAL_RAY"
_SHIPPED = ("pipelines", "train", "serve", "infra")
_MIN_LOGICAL_CPUS = 8
_OBJECT_STORE_BYTES = 1 << 30

# Set before a local Ray starts, since its daemons read them once. Ray runs its workers at nice 15, which on a small
# machine lets everything else go before the engine; and it starts some for tasks that it does not know of yet.
_LOCAL_ENVIRONMENT = {
    "RAY_worker_niceness": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def connect() -> None:
    """Connect this process to the cluster of its job, to the one RAY_ADDRESS names, or to a local one that ends with
    it.

    Raises ClusterError when Ray cannot be reached or does not start.
    """
    if not ray.is_initialized():
        _init(dashboard=False)


def require(say: Callable[[str], None], *, cpus: float, gpus: float) -> None:
    """See to it that a stage does not wait for ever for what the connected cluster does not have.

    A local Ray never grows: raises ClusterError when it is too small. Another one may: then says what is waited for.
    """
    held = ray.cluster_resources()
    missing = [
        f"{asked:g} {name}s (it has {held.get(name, 0):g})"
        for name, asked in (("CPU", cpus), ("GPU", gpus))
        if asked > held.get(name, 0)
    ]
    if missing and os.environ.get(LOCAL_VARIABLE):
        raise ClusterError(
            f"This machine's Ray is too small: the stage asks for {' and '.join(missing)}. Ask for less."
        )
    if missing:
        say(f"the cluster is too small for {' and '.join(missing)}: waiting for it to grow")


def num_cpus() -> int:
    """How many CPUs the connected cluster really has: a local Ray counts more than there are."""
    return os.cpu_count() or 1 if os.environ.get(LOCAL_VARIABLE) else int(ray.cluster_resources().get("CPU", 1))


@dataclasses.dataclass(frozen=True)
class Addresses:
    """Where a cluster takes jobs, and where their drivers connect; None for what RAY_ADDRESS or the job itself says."""

    jobs: str | None
    drivers: str | None


@contextmanager
def cluster() -> Iterator[Addresses]:
    """A cluster that takes jobs: the one that RAY_ADDRESS names, or a local one.

    A local Ray is stopped at the end, with all that its jobs left running.
    """
    if os.environ.get("RAY_ADDRESS"):
        yield Addresses(None, None)
        return
    context = _init(dashboard=True)
    try:
        yield Addresses(f"http://{context.dashboard_url}", context.address_info["gcs_address"])
    finally:
        ray.shutdown()


def job_environment() -> dict[str, object]:
    """The runtime environment of a job: our packages and no other file, privacy, and the code's revision."""
    variables = {name: os.environ[name] for name in privacy.SILENCE}
    for name in ("MLFLOW_TRACKING_URI", "PRECEPTOR_API_KEY"):
        if name in os.environ:
            variables[name] = os.environ[name]
    variables[CODE_REVISION_VARIABLE] = json.dumps(code_revision())
    return {
        "working_dir": str(PROJECT),
        "excludes": ["/*", "!/.", *(f"!/{package}" for package in _SHIPPED)],
        "env_vars": variables,
    }


def _init(dashboard: bool) -> BaseContext:
    asked = os.environ.get("RAY_ADDRESS")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if asked:
            return ray.init(logging_level=logging.ERROR)
        for name, value in _LOCAL_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        os.environ[LOCAL_VARIABLE] = "1"
        with _as_a_guest():
            return ray.init(
                "local",
                num_cpus=max(_MIN_LOGICAL_CPUS, os.cpu_count() or 1),
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=dashboard,
                logging_level=logging.ERROR,
                log_to_driver=not dashboard,
            )
    except Exception as error:
        hint = (
            f"No cluster answers at RAY_ADDRESS={asked}; unset it to use this machine" if asked else "Ray did not start"
        )
        raise ClusterError(f"{hint}: {first_line(error)}") from error
    finally:
        # Ray has put a handler of its own there, under which a polite kill aborts us with our drafts left behind.
        signal.signal(signal.SIGTERM, on_sigterm)


@contextmanager
def _as_a_guest() -> Iterator[None]:
    """Let a local Ray start without what only a cluster of its own machines needs; `ray.init` has no argument for it.

    Its agent, which starts the jobs, listens on a free port: its default is one fixed port, and a second cluster on the
    machine would come up without an agent and take no job. Its autoscaler, a process that has no node to add, stays
    away: its start and its end take a second each.
    """
    construct = RayParams.__init__

    def as_a_guest(self: RayParams, *arguments: Any, **named: Any) -> None:
        construct(self, *arguments, **{"dashboard_agent_listen_port": None, "no_monitor": True, **named})

    with patch.object(RayParams, "__init__", as_a_guest):
        yield
