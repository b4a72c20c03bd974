"""Ray: the cluster that RAY_ADDRESS names, or one of our own on this machine for as long as it is needed. [edge]"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
import ray.exceptions
from ray._private.worker import BaseContext

from infra import privacy
from infra.errors import ClusterError
from infra.manifest import CODE_REVISION_VARIABLE, code_revision

PROJECT = Path(__file__).parent.parent
_NOT_SHIPPED = ["runs", "build", "data", "tests", "**/__pycache__", ".*_cache", ".hypothesis"]
_MIN_LOGICAL_CPUS = 8
_OBJECT_STORE_BYTES = 1 << 30

# Set before a local Ray starts, since its daemons read them once. Ray runs its workers at nice 15, which on a small
# machine lets everything else go before the engine.
_LOCAL_ENVIRONMENT = {"RAY_worker_niceness": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def connect() -> None:
    """Connect this process to the cluster of its job, to the one RAY_ADDRESS names, or to a local one that ends with
    it.

    Raises ClusterError when Ray cannot be reached or does not start.
    """
    if not ray.is_initialized():
        _init(dashboard=False)


@contextmanager
def cluster() -> Iterator[str | None]:
    """A cluster that takes jobs; yields the address of its Jobs API, None when RAY_ADDRESS says it.

    A local Ray is stopped at the end, with all that its jobs left running.
    """
    if os.environ.get("RAY_ADDRESS"):
        yield None
        return
    context = _init(dashboard=True)
    try:
        yield f"http://{context.dashboard_url}"
    finally:
        ray.shutdown()


def job_environment() -> dict[str, object]:
    """The runtime environment of a job: this project's files, our privacy settings, and the code's revision."""
    variables = {name: os.environ[name] for name in privacy.SILENCE}
    for name in ("MLFLOW_TRACKING_URI", "PRECEPTOR_API_KEY"):
        if name in os.environ:
            variables[name] = os.environ[name]
    variables[CODE_REVISION_VARIABLE] = json.dumps(code_revision())
    return {"working_dir": str(PROJECT), "excludes": _NOT_SHIPPED, "env_vars": variables}


def _init(dashboard: bool) -> BaseContext:
    asked = os.environ.get("RAY_ADDRESS")
    try:
        if asked:
            return ray.init(logging_level=logging.ERROR)
        for name, value in _LOCAL_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        return ray.init(
            "local",
            num_cpus=max(_MIN_LOGICAL_CPUS, os.cpu_count() or 1),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=dashboard,
            logging_level=logging.ERROR,
            log_to_driver=not dashboard,
        )
    except (ray.exceptions.RayError, RuntimeError, ConnectionError, ValueError, OSError) as error:
        hint = (
            f"No cluster answers at RAY_ADDRESS={asked}; unset it to use this machine" if asked else "Ray did not start"
        )
        raise ClusterError(f"{hint}: {str(error).splitlines()[0]}") from error
