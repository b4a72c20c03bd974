"""Credentials on their way to a cluster: in a file that only the user can read, instead of a job's environment.

A job's environment stands in Ray's logs, which everybody can read, and in its Jobs API. A local Ray needs no file: its
processes inherit the environment of the process that starts it.
"""

import json
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from infra import leftovers
from infra.errors import ConfigError

FILE_VARIABLE = "PRECEPTOR_CREDENTIALS_FILE"
VARIABLES = (  # not those of MLflow: the driver of a flow talks to it, and the jobs do not
    "PRECEPTOR_API_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    # These are no secrets, but the keys above belong to this store.
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
)
_PREFIX = ".credentials-"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@contextmanager
def handed_over(folder: Path) -> Iterator[Path | None]:
    """A file in `folder` with the credentials of this process's environment, while the body runs; None when there are
    none.

    Raises ConfigError when others could read the file.
    """
    given = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    if not given:
        yield None
        return
    path = folder / f"{_PREFIX}{uuid.uuid4().hex}"
    try:
        _write(path, given)
        with leftovers.locked(path):
            yield path
    finally:
        with suppress(OSError):
            path.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove the files that killed processes left in a folder."""
    leftovers.remove_unlocked(folder, f"{_PREFIX}*")


def _write(path: Path, given: dict[str, str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            _check(stream.fileno(), path)
            json.dump(given, stream)
    except OSError as error:
        raise ConfigError(f"{path}: credentials cannot be handed over in it: {error.strerror}") from error


def load() -> None:
    """Put the job's credentials into this process's environment; does nothing without a credentials file.

    Raises ConfigError for a file that is not there, or that another user owns or may read.
    """
    if not (named := os.environ.get(FILE_VARIABLE)):
        return
    try:
        os.environ.update(_read(Path(named)))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{FILE_VARIABLE}={named}: there is no such file. The flow writes it into its run folder, which all nodes "
            "have to see, and removes it when it ends."
        ) from error


def load_in_worker() -> None:
    """As `load`, in a process that Ray starts for a job, but without errors: the job has read the file before, and a
    replica lives longer than the flow and its file."""
    with suppress(FileNotFoundError, ConfigError):
        if named := os.environ.get(FILE_VARIABLE):
            os.environ.update(_read(Path(named)))


def _read(path: Path) -> dict[str, str]:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW)) as stream:
            _check(stream.fileno(), path)
            held = json.load(stream)
        return {name: str(held[name]) for name in VARIABLES if name in held}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} holds no credentials that can be read: {type(error).__name__}") from error


def _check(descriptor: int, path: Path) -> None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & _OTHERS:
        raise ConfigError(
            f"{path} has credentials that only user {os.geteuid()} may read, but its owner is {status.st_uid} and its "
            f"mode {stat.S_IMODE(status.st_mode):04o}. Run jobs as the user who starts the flow, with the run folder "
            "on a file system that keeps permissions; or give the cluster's nodes the variables themselves."
        )
