"""What every process that Ray starts for us runs first, by Ray's worker_process_setup_hook. [edge]"""

import os
import sys
from pathlib import Path
from typing import Any

import ray
from ray._common import tls_utils
from ray._private import ray_constants

from infra import cluster_address, credentials, process_environment


def set_up_worker() -> None:
    """Load the job's credentials; let the driver that a job's supervisor starts find this Python, as `python`, and this
    cluster; and where Ray listens on loopback alone, make Serve's replicas listen there alone, too."""
    process_environment.set_up()
    credentials.load_in_worker()
    commands = str(Path(sys.executable).parent)  # a Ray that was started by its path, /venv/bin/ray, has them nowhere
    if commands not in (paths := os.environ.get("PATH", os.defpath).split(os.pathsep)):
        os.environ["PATH"] = os.pathsep.join([commands, *paths])
    os.environ[cluster_address.JOB_CLUSTER_VARIABLE] = ray.get_runtime_context().gcs_address
    if not ray_constants.ENABLE_RAY_CLUSTER:
        tls_utils.add_port_to_grpc_server = _add_port_on_loopback


_add_port = tls_utils.add_port_to_grpc_server


def _add_port_on_loopback(server: Any, address: str) -> int:
    """Takes the place of Ray's own function, which Serve imports after this: a replica would listen on every interface
    for other replicas, whose requests it unpickles."""
    port: int = _add_port(server, address.replace("[::]:", "127.0.0.1:"))
    return port


# The variable that Ray makes of its option `worker_process_setup_hook`; the option itself would drop a job's others.
SETUP_HOOK = {ray_constants.WORKER_PROCESS_SETUP_HOOK_ENV_VAR: f"{__name__}.{set_up_worker.__name__}"}
