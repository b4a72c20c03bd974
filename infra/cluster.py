"""Ray: the cluster that RAY_ADDRESS names, or one of our own on this machine for as long as it is needed. [edge]

Whoever reaches a Ray runs code as its user. So our own one listens on loopback alone, takes only who has its token, and
keeps its files, the token and logs among them, in a folder that nobody else can enter.
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
_PLACED_WITHIN_S = 15.0  # a placement group that has room is there in a moment, on a machine that is busy too
_FOLDER_PREFIX = "preceptor-ray-"
_LONGEST_PATH = 107  # of a socket, in bytes
_LONGEST_SOCKET = "/r/session_2026-11-26_04-26-16_460401_4194304/sockets/plasma_store"

# What makes Ray and all that runs on it listen on loopback alone. Ray itself would replace 127.0.0.1 by an address that
# others reach, unless it believes to be on Windows or macOS, where that is refused.
_ON_LOOPBACK = {
    ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "VLLM_HOST_IP": "127.0.0.1",
}
# Ray's client of jobs would prefer either to the address that it is given: jobs and the token would go elsewhere.
_NO_OTHER_CLUSTER = dict.fromkeys(("RAY_ADDRESS", ray_constants.RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE))

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
    """Raise ClusterError for the first stage whose workers a local Ray has no room for, before any of them runs. A
    cluster of the user's is not asked: it may grow."""
    if not ray.is_initialized():
        return
    for name, asked in stages.items():
        cpus, gpus = total(asked)
        require(lambda _: None, cpus=cpus, gpus=gpus, what=name)


def require(say: Callable[[str], None], *, cpus: float, gpus: float, what: str = "the stage") -> None:
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
            f"This machine's Ray is too small: {what} asks for {' and '.join(missing)}. Ask for less, or name a "
            "cluster: export RAY_ADDRESS=http://HEAD:8265"
        )
    if missing:
        say(f"the cluster is too small for {' and '.join(missing)}: waiting for it to grow")


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
    if cluster_address.named_by_user():
        yield Addresses(None, None)
        return
    with _local(dashboard=True) as context:
        yield Addresses(f"http://{context.dashboard_url}", context.address_info["gcs_address"])


@contextmanager
def private() -> Iterator[Path]:
    """Whatever Ray is started meanwhile, by this process, is reachable from this machine alone, and with a token alone.

    Yields a folder that only the user can enter, for Ray's files. Unless the body raises it is removed in the end, else
    its logs are kept until this is called again.
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
    """The runtime environment of a job: our packages and no other file, privacy, the code's revision, by what it is let
    into the run folder, and where the credentials are, if they are in a file. Everybody who sees the cluster sees it.
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
        # Ray has put a handler of its own there, under which a polite kill aborts us with our drafts left behind.
        signal.signal(signal.SIGTERM, on_sigterm)


@contextmanager
def logical(shape: ClusterShape) -> Iterator[None]:
    """A local Ray with the nodes, CPUs and GPUs of a cluster in name alone: what is placed on it is placed as there."""
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
    """Reserve the placement groups of workers that run at the same time on the connected Ray, and give them back.

    The first one that is not placed, in words; None when all are.
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
    """A Ray of our own; in the end it is stopped. shape: its first node is said to be one of these."""
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
                    # Ray opens its own folder to everybody.
                    _temp_dir=str(folder / "r"),
                )
            yield context
        finally:
            ray.shutdown()


def _with_our_packages() -> dict[str, str]:
    """The variable by which a worker finds what it runs first, before Ray tells it where the driver's code is."""
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
