"""One writer for a run folder, the flow or a stage by itself; other processes are told which one it is.

The lock is a file in the run folder with its holder's name. The holder keeps it locked (flock, which NFS passes on to
its server), so that it is free as soon as the holder ends, even if it is killed. Where locks do not reach the other
machine, the file is a lease: its holder writes into it every few seconds, and a process that wants the folder watches
for a while whether these writes go on.
"""

import contextlib
import dataclasses
import errno
import fcntl
import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from infra.errors import ArtifactError

NAME = ".in_use"
TOKEN_VARIABLE = "PRECEPTOR_RUN"  # noqa: S105 - it names the flow that a job works for, and opens nothing
_BEATS_EVERY_S = 5.0
_SILENT_FOR_S = 20.0
_POLL_S = 0.5
_NAMES_ITSELF_WITHIN_S = 2.0  # a process that has just made the file
_MOST_BYTES = 4096
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that holds a run folder. token: of this hold. boot: of its kernel, see `_boot`. beat: grows with each
    write while it lives."""

    token: str
    what: str
    user: str
    host: str
    boot: str
    pid: int
    since: str
    beat: int = 0


@dataclasses.dataclass(frozen=True)
class Hold:
    """This process holds the run folder. token: lets its jobs in. killed: token of the last holder if it was killed."""

    token: str
    killed: str | None


@contextlib.contextmanager
def held(run_dir: Path, what: str, say: Callable[[str], None]) -> Iterator[Hold]:
    """Hold a run folder while the body runs; a job of the flow that holds it already is let in.

    Raises ArtifactError when another process holds it (it says which, since when, and what to type), or when the folder
    cannot be written.
    """
    path = run_dir / NAME
    if token := os.environ.get(TOKEN_VARIABLE):
        _let_in(path, token)
        yield Hold(token, None)
        return
    descriptor, before = _take(run_dir, path, say)
    own = Holder(
        token=uuid.uuid4().hex,
        what=what,
        user=_user(),
        host=socket.gethostname(),
        boot=_boot(),
        pid=os.getpid(),
        since=time.strftime("%Y-%m-%d %H:%M:%S %z"),
    )
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(descriptor, path, own, ended), daemon=True)
    try:
        try:
            _write(descriptor, own)
        except OSError as error:
            raise _refused(run_dir, error) from error
        if before is not None and before.boot != own.boot:
            _check_again(run_dir, path, own)
        beating.start()
        yield Hold(own.token, before.token if before else None)
    finally:
        ended.set()
        if beating.ident is not None:
            beating.join()
        now = _read(path)
        with contextlib.suppress(OSError):
            if _is_at(descriptor, path) and (
                now is None or now.token == own.token
            ):  # otherwise another machine has taken it
                path.unlink()
        os.close(descriptor)


def _let_in(path: Path, token: str) -> None:
    """Raise ArtifactError unless the flow that has started this job holds the run folder that the job sees."""
    holder = _read(path)
    if holder is None or holder.token != token:
        raise ArtifactError(
            f"{path.parent} is not held by the flow that has started this job"
            + (f", but by {_named(holder)}." if holder else ": this machine sees another folder of that name, or none.")
            + " Jobs need the run folder on storage that all machines share, under the same path."
        )


def _take(run_dir: Path, path: Path, say: Callable[[str], None]) -> tuple[int, Holder | None]:
    """The lock file, open and ours; and its holder before, if that was killed."""
    while True:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            descriptor, is_new = _open(path)
        except OSError as error:
            raise _refused(run_dir, error) from error
        try:
            is_locked = _lock(descriptor, run_dir)
            before = None if is_new else _read_once_named(path)
            if before is not None and not (is_locked and before.boot == _boot()):
                _wait_until_silent(path, run_dir, before, say)
            if _is_at(descriptor, path):
                return descriptor, before
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder before has removed it meanwhile


def _open(path: Path) -> tuple[int, bool]:
    """The lock file, and whether this process has made it: only one process can, over all machines."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644), True
    except FileExistsError:
        return os.open(path, flags | os.O_CREAT, 0o644), False


def _lock(descriptor: int, run_dir: Path) -> bool:
    """Lock the file; False on a file system without locks. Raises ArtifactError when a living process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(run_dir, _read(run_dir / NAME)) from None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise _refused(run_dir, error) from error
    return True


def _read_once_named(path: Path) -> Holder | None:
    """The holder that the file names; None if it was killed before it wrote its name, or has ended."""
    until = time.monotonic() + _NAMES_ITSELF_WITHIN_S
    while (holder := _read(path)) is None and path.exists() and time.monotonic() < until:
        time.sleep(_POLL_S)
    return holder


def _wait_until_silent(path: Path, run_dir: Path, before: Holder, say: Callable[[str], None]) -> None:
    """Raise ArtifactError if the holder, whom our lock may not reach, still writes into the file."""
    say(f"flow: looking for {_SILENT_FOR_S:.0f} s whether {run_dir} is still in use by {_named(before)}")
    until = time.monotonic() + _SILENT_FOR_S
    while time.monotonic() < until:
        time.sleep(_POLL_S)
        now = _read(path)
        if now is None:
            return  # it has ended
        if now != before:
            raise _in_use(run_dir, now)


def _check_again(run_dir: Path, path: Path, own: Holder) -> None:
    """Raise ArtifactError if another machine has taken the dead holder's file at the same time."""
    time.sleep(2 * _POLL_S)
    now = _read(path)
    if now is None or now.token != own.token:
        raise _in_use(run_dir, now)


def _beat(descriptor: int, path: Path, own: Holder, ended: threading.Event) -> None:
    beat = 0
    while not ended.wait(_BEATS_EVERY_S):
        if (now := _read(path)) is not None and now.token != own.token:
            return  # this machine was asleep, and another has taken the folder
        beat += 1
        with contextlib.suppress(OSError):  # a full disk; the lock still says that the folder is in use
            _write(descriptor, dataclasses.replace(own, beat=beat))


def _write(descriptor: int, holder: Holder) -> None:
    """In one write, always of the same length, so that nobody reads half of it."""
    text = json.dumps(dataclasses.asdict(holder)).encode()[:_MOST_BYTES].ljust(_MOST_BYTES)
    if os.pwrite(descriptor, text, 0) < _MOST_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)


def _read(path: Path) -> Holder | None:
    """The holder that a lock file names. The file is opened anew, since only then NFS looks for what others wrote."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return Holder(**json.loads(os.read(descriptor, _MOST_BYTES)))
        finally:
            os.close(descriptor)
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at this path."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _in_use(run_dir: Path, holder: Holder | None) -> ArtifactError:
    stop = f"stop it (kill {holder.pid} on {holder.host})" if holder else "stop it"
    return ArtifactError(
        f"{run_dir} is in use by {_named(holder) if holder else 'another process'}. Wait for it, {stop}, "
        "or give this one a folder of its own: --run-dir DIR"
    )


def _named(holder: Holder) -> str:
    return f"{holder.what}, process {holder.pid} of {holder.user} on {holder.host}, since {holder.since}"


def _refused(run_dir: Path, error: OSError) -> ArtifactError:
    return ArtifactError(
        f"{run_dir} cannot be written: {error.strerror or error}. Free space, mend its permissions, or choose another "
        "--run-dir."
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # the user has no name, as in a container
        return str(os.geteuid())


def _boot() -> str:
    """An id of the running kernel: locks reach all of its processes, in all containers."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return socket.gethostname()
