"""What every process that Ray starts for us runs first; a variable tells Ray so. [edge]"""

import os
import sys
from pathlib import Path
from typing import Any

import ray
from ray._common import tls_utils
from ray._private import ray_constants

from infra import credentials, reach, surroundings


def prepare() -> None:
    """Take the job's credentials; see to it that the driver which a job's supervisor starts finds this Python, as
    `python`, and this cluster; and where Ray listens on loopback alone, have Serve's replicas do so too.

    A replica takes pickled requests from other replicas, on every interface, and never from the endpoint's callers.
    """
    surroundings.settle()
    credentials.load_in_worker()
    commands = str(Path(sys.executable).parent)  # a Ray that was started by its path, /venv/bin/ray, has them nowhere
    if commands not in (paths := os.environ.get("PATH", os.defpath).split(os.pathsep)):
        os.environ["PATH"] = os.pathsep.join([commands, *paths])
    os.environ[reach.OWN_VARIABLE] = ray.get_runtime_context().gcs_address
    if not ray_constants.ENABLE_RAY_CLUSTER:
        tls_utils.add_port_to_grpc_server = _add_port_on_loopback  # Serve takes it from here when it is imported


def _add_port_on_loopback(server: Any, address: str) -> int:
    port: int = _add_port(server, address.replace("[::]:", "127.0.0.1:"))
    return port


_add_port = tls_utils.add_port_to_grpc_server

# As a variable, into which Ray turns its `worker_process_setup_hook`: given that, it forgets a job's other variables.
SETUP_HOOK = {ray_constants.WORKER_PROCESS_SETUP_HOOK_ENV_VAR: f"{__name__}.{prepare.__name__}"}
