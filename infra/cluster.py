"""Ray: the cluster that RAY_ADDRESS names, or one of our own on this machine for as long as it is needed. [edge]

Anybody who can connect to a Ray runs code as its user. So our own Ray listens on loopback alone, asks for a token, and
keeps its files (token and logs, too) in a folder that only the user can enter.
"""

import atexit
import dataclasses
import json
import logging
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
from ray._private import ray_constants
from ray._private.authentication import authentication_token_setup
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._private.worker import BaseContext
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from infra import cluster_address, credentials, journal, leftovers, privacy, process_environment, run_lock, worker_setup
from infra.errors import ClusterError
from infra.manifest import CODE_REVISION_VARIABLE, code_revision
from infra.resources import ClusterShape, Workers, total

PROJECT = Path(__file__).parent.parent
LOCAL_VARIABLE = "PRECEPTOR_LOCAL_RAY"
_SHIPPED = ("pipelines", "train", "serve", "infra")
_MIN_LOGICAL_CPUS = 8
_OBJECT_STORE_BYTES = 1 << 30
_MORE_NODES_BYTES = 100 << 20  # of a logical node's object store
_PLACED_WITHIN_S = 15.0  # a placement group that fits is placed much sooner, even on a busy machine
_FOLDER_PREFIX = "preceptor-ray-"
_LONGEST_PATH = 107  # of a socket, in bytes
_LONGEST_SOCKET = "/r/session_2026-11-26_04-26-16_460401_4194304/sockets/plasma_store"

# Makes Ray and all that runs on it listen on loopback alone. Otherwise Ray replaces 127.0.0.1 by an address that other
# machines can reach, as it does everywhere but on Windows and macOS.
_ON_LOOPBACK = {
    ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "VLLM_HOST_IP": "127.0.0.1",
}
# Not set, since Ray's job client would prefer either to the address that it is given, and send jobs and token there.
_NO_OTHER_CLUSTER = dict.fromkeys(("RAY_ADDRESS", ray_constants.RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE))

# Set before a local Ray starts, since its daemons read them once. By default Ray runs its workers at nice 15, so that
# on a small machine everything else runs before the engine; and it starts workers before there are tasks for them.
_LOCAL_ENVIRONMENT = {
    "RAY_worker_niceness": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def connect() -> None:
    """Connect this process to the cluster of its job, to the one that RAY_ADDRESS names, or to a local one, which ends
    when this process ends.

    Raises ClusterError when Ray cannot be reached or does not start.
    """
    if ray.is_initialized():
        return
    if own := os.environ.get(cluster_address.JOB_CLUSTER_VARIABLE):
        os.environ["RAY_ADDRESS"] = own
    if cluster_address.named_by_user():
        _init()
        return
    running = ExitStack()
    running.enter_context(_local(dashboard=False))
    atexit.register(running.close)


def is_on_loopback() -> bool:
    """Whether the Ray that this process starts, or that has started it, is reachable from this machine alone."""
    return not ray_constants.ENABLE_RAY_CLUSTER


def require_all(stages: Mapping[str, Sequence[Workers]]) -> None:
    """Raise ClusterError for the first stage whose workers do not fit on a local Ray, before any stage runs. The user's
    own cluster is not checked: it may grow."""
    if not ray.is_initialized():
        return
    for name, asked in stages.items():
        cpus, gpus = total(asked)
        require(lambda _: None, cpus=cpus, gpus=gpus, what=name)


def require(say: Callable[[str], None], *, cpus: float, gpus: float, what: str = "the stage") -> None:
    """Keep a stage from waiting for ever for resources that the connected cluster does not have.

    A local Ray never grows: raises ClusterError when it is too small. Another cluster may grow: then `say` gets a line
    about what the stage waits for.
    """
    held = ray.cluster_resources()
    missing = [
        f"{asked:g} {name}s (it has {held.get(name, 0):g})"
        for name, asked in (("CPU", cpus), ("GPU", gpus))
        if asked > held.get(name, 0)
    ]
    if missing and os.environ.get(LOCAL_VARIABLE):
        raise ClusterError(
            f"This machine's Ray is too small: {what} asks for {' and '.join(missing)}. Ask for less, or name a "
            "cluster: export RAY_ADDRESS=http://HEAD:8265"
        )
    if missing:
        say(f"the cluster is too small for {' and '.join(missing)}: waiting for it to grow")


@dataclasses.dataclass(frozen=True)
class Addresses:
    """Where jobs are submitted, and where their drivers connect; each is None where RAY_ADDRESS or the job decides."""

    jobs: str | None
    drivers: str | None


@contextmanager
def cluster() -> Iterator[Addresses]:
    """A cluster that takes jobs: the one that RAY_ADDRESS names, or a local one.

    A local Ray is stopped at the end, with all that its jobs left running.
    """
    if cluster_address.named_by_user():
        yield Addresses(None, None)
        return
    with _local(dashboard=True) as context:
        yield Addresses(f"http://{context.dashboard_url}", context.address_info["gcs_address"])


@contextmanager
def private() -> Iterator[Path]:
    """A Ray that this process starts in the body can be reached from this machine alone, and only with a token.

    Yields a folder for Ray's files that only the user can enter. It is removed at the end; if the body raises, it is
    kept for its logs until this is called again.
    """
    folder, token = _new_folder()
    authentication = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": None, "RAY_AUTH_TOKEN_PATH": str(token)}
    with (
        leftovers.locked(folder),
        _environment_variables(
            _ON_LOOPBACK | process_environment.no_proxy_variables() | authentication | _NO_OTHER_CLUSTER
        ),
        patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False),  # Ray has read its variable when it was imported
    ):
        authentication_token_setup.AuthenticationTokenLoader.instance().reset_cache()
        authentication_token_setup._enable_token_auth()
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _new_folder() -> tuple[Path, Path]:
    """A folder for Ray's files and the token in it. Raises ClusterError when there cannot be one."""
    # Not in TMPDIR, which may be too long for the path of a socket.
    within = os.environ.get("RAY_TMPDIR") or "/tmp"  # noqa: S108 - what is made in it is private
    leftovers.remove_unlocked(Path(within), f"{_FOLDER_PREFIX}*")
    try:
        folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=within))
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
    except OSError as error:
        raise ClusterError(
            f"{within} takes no files of Ray's ({error.strerror or error}). Free space there, or name another folder, "
            "of a short path: export RAY_TMPDIR=FOLDER"
        ) from error
    return folder, token


@contextmanager
def _environment_variables(values: dict[str, str | None]) -> Iterator[None]:
    """Environment variables for as long as the body runs; None for one that must not be set."""

    def put(all_of_them: dict[str, str | None]) -> None:
        for name, value in all_of_them.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    before = {name: os.environ.get(name) for name in values}
    put(values)
    try:
        yield
    finally:
        put(before)


def credentials_for(addresses: Addresses, folder: Path) -> AbstractContextManager[Path | None]:
    """The file in `folder` by which jobs get the credentials; None for a local Ray, which inherits them."""
    return credentials.handed_over(folder) if addresses.jobs is None else nullcontext()


def job_environment(credentials_file: Path | None, run_token: str) -> dict[str, object]:
    """The runtime environment of a job: our packages and no other file, the privacy settings, the code's revision, the
    token that lets it into the run folder, and the path of the credentials file, if there is one. Everybody who can see
    the cluster can see this environment.
    """
    variables = {name: os.environ[name] for name in privacy.SILENCE}
    if credentials_file is not None:
        variables[credentials.FILE_VARIABLE] = str(credentials_file)
    variables[CODE_REVISION_VARIABLE] = json.dumps(code_revision())
    variables[journal.DRIVER_VARIABLE] = "1"
    variables[run_lock.TOKEN_VARIABLE] = run_token
    return {
        "working_dir": str(PROJECT),
        "excludes": ["/*", "!/.", *(f"!/{package}" for package in _SHIPPED)],
        "env_vars": variables | worker_setup.SETUP_HOOK,
    }


def _init(**settings: Any) -> BaseContext:
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with cluster_address.explaining_failures(settings.get("address"), for_jobs=False):
            return ray.init(logging_level=logging.ERROR, **settings)
    finally:
        # Ray has set a handler of its own, with which SIGTERM would abort this process and leave its drafts behind.
        signal.signal(signal.SIGTERM, on_sigterm)


@contextmanager
def logical(shape: ClusterShape) -> Iterator[None]:
    """A local Ray that claims to have a cluster's nodes, CPUs and GPUs: workers are placed as they would be there."""
    with _local(dashboard=False, shape=shape) as context, ExitStack() as nodes:
        for _ in range(shape.nodes - 1):
            parameters = RayParams(
                gcs_address=context.address_info["gcs_address"],
                num_cpus=shape.cpus,
                num_gpus=shape.gpus,
                object_store_memory=_MORE_NODES_BYTES,
                min_worker_port=0,
                max_worker_port=0,
                include_dashboard=False,
                dashboard_agent_listen_port=None,
            )
            node = Node(parameters, head=False, shutdown_at_exit=True, spawn_reaper=True)
            nodes.callback(node.kill_all_processes, check_alive=False, allow_graceful=True)
        yield


def without_place(asked: Sequence[Workers]) -> str | None:
    """Which of these workers, which run at the same time, the connected Ray cannot place, in words; None if it can
    place all of them. Their placement groups are reserved and given back.
    """
    groups: list[PlacementGroup] = []
    try:
        for each in sorted(asked, key=lambda workers: (workers.gpus, workers.cpus), reverse=True):
            for number in range(each.fewest):
                groups.append(placement_group(each.bundles(), strategy="STRICT_PACK"))
                if not groups[-1].wait(_PLACED_WITHIN_S):
                    return f"{number} of {each.fewest} {each.what} were placed, each with {each.bundles()}"
        return None
    finally:
        for group in groups:
            remove_placement_group(group)


@contextmanager
def _local(dashboard: bool, shape: ClusterShape | None = None) -> Iterator[BaseContext]:
    """A Ray of our own, stopped at the end. shape: of the cluster that it claims to be; this starts its first node."""
    for name, value in _LOCAL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with private() as folder, _environment_variables({LOCAL_VARIABLE: "1"}):
        if (too_long := len(os.fsencode(folder)) + len(_LONGEST_SOCKET) - _LONGEST_PATH) > 0:
            raise ClusterError(
                f"RAY_TMPDIR={folder.parent} is {too_long} bytes too long for the path of a socket. Name a shorter "
                "one: export RAY_TMPDIR=FOLDER"
            )
        # The agent, which starts the jobs, gets a free port: its default is one fixed port, and a second cluster on the
        # machine would come up without an agent and take no job. The autoscaler, which has no node to add, is left out:
        # its start and its end take a second each.
        try:
            with _hidden_parameters(dashboard_agent_listen_port=None, no_monitor=True):
                context = _init(
                    address="local",
                    num_cpus=shape.cpus if shape else max(_MIN_LOGICAL_CPUS, os.cpu_count() or 1),
                    num_gpus=shape.gpus if shape else None,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    include_dashboard=dashboard,
                    log_to_driver=not dashboard and shape is None,
                    runtime_env={"env_vars": worker_setup.SETUP_HOOK | _with_our_packages()},
                    # A folder within ours, since Ray lets everybody into its own folder.
                    _temp_dir=str(folder / "r"),
                )
            yield context
        finally:
            ray.shutdown()


def _with_our_packages() -> dict[str, str]:
    """The variable by which a worker finds its setup function, which runs before Ray adds the driver's code."""
    paths = [str(PROJECT), os.environ.get("PYTHONPATH")]
    return {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


@contextmanager
def _hidden_parameters(**hidden: Any) -> Iterator[None]:
    """Let `ray.init` start a Ray with parameters that it has no arguments for, by a patch of Ray's own constructor of
    them."""
    construct = RayParams.__init__

    def with_hidden(self: RayParams, *arguments: Any, **named: Any) -> None:
        construct(self, *arguments, **{**hidden, **named})

    with patch.object(RayParams, "__init__", with_hidden):
        yield
