"""Folders of this machine: the files in them, and how a new folder replaces an older one so that one of them is there
at every moment."""

import ctypes
import errno
import fcntl
import io
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TextIO

from infra.errors import ArtifactError, PreceptorError

_CURRENT_FOLDER, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
_NO_EXCHANGE = frozenset(
    {
        errno.EINVAL,
        errno.ENOSYS,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EXDEV,
    }  # from NFS, FUSE, sandboxes and layered file systems
)
_POLL_S = 0.01
_LONGEST_WAIT_S = 10.0  # for another process that is between its two renames
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_file(path: Path) -> io.BufferedReader:
    """A plain file's bytes; raises OSError for anything else, and never waits for a pipe's other end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    return os.fdopen(descriptor, "rb")


def plain_files(folder: Path) -> dict[str, os.stat_result]:
    """Every file below a folder, by its path relative to the folder. Raises ArtifactError for anything but plain files
    and folders: the target of a link can change unseen, and a pipe can be read only once."""
    found = {}
    for name, status in _below(folder):
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no plain file")
            raise ArtifactError(
                f"{folder / name} is {kind}, and a sealed folder holds nothing but plain files. Put the file itself "
                f"there, or delete {folder} to have it made again."
            )
        found[name] = status
    return found


def _below(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a folder except folders; links are not followed."""
    waiting = [""]
    while waiting:
        within = waiting.pop()
        with os.scandir(folder / within) as entries:
            for entry in entries:
                name = f"{within}/{entry.name}" if within else entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
                else:
                    yield name, entry.stat(follow_symlinks=False)


def linked_files(folder: Path) -> dict[str, Path]:
    """Every file below a folder from outside the run, by its path relative to the folder. Links are followed, since a
    hub's cache is made of them.

    A folder that several links lead to counts once, and broken links are left out. Raises OSError for a pipe, socket or
    device.
    """
    found: dict[str, Path] = {}
    waiting, seen = [folder], set()
    while waiting:
        within = waiting.pop()
        here = os.path.realpath(within)
        if here in seen:
            continue
        seen.add(here)
        for path in sorted(within.iterdir()):
            if path.is_dir():
                waiting.append(path)
            elif path.is_file():
                found[str(path.relative_to(folder))] = path
            elif path.exists():
                raise OSError(errno.EINVAL, "it is no plain file", str(path))
    return found


class BusyError(PreceptorError):
    """Another process holds a lock."""


@contextmanager
def locked(lock: Path, timeout_s: float = 0.0) -> Iterator[None]:
    """Hold a lock file; the lock ends with its process, even if that is killed.

    Raises BusyError when another process holds it for the whole timeout.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + timeout_s
    with lock.open("w") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise BusyError(f"another process holds {lock.absolute()}") from None
                time.sleep(_POLL_S)
        yield


def only_writer(place: Path) -> AbstractContextManager[None]:
    """Hold the lock of a place. Raises BusyError when another process writes there."""
    return locked(place.with_name(f".{place.name}.lock"))


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A text file to write, which takes its place when the body ends: a reader sees the old one or the new one."""
    partial = path.with_name(
        f".{path.name}.partial-{uuid.uuid4().hex[:8]}"
    )  # two processes may write the same file at once
    try:
        with partial.open("w") as stream:
            yield stream
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def new_draft(place: Path) -> Path:
    """A path beside a place for a new draft folder; anybody may remove a draft while nobody writes there."""
    return place.with_name(f".{place.name}.draft-{uuid.uuid4().hex[:8]}")


def clear(place: Path) -> None:
    """Remove the drafts that killed writers left beside a place, and put back a folder that one had set aside. Called
    by the place's only writer."""
    _put_back(place)
    for leftover in place.parent.glob(f".{place.name}.draft-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def restore(place: Path) -> None:
    """Put the older folder back if a writer was killed between its two renames; wait if a writer is between them now.

    Raises ArtifactError when that cannot be done.
    """
    until = time.monotonic() + _LONGEST_WAIT_S
    while not os.path.lexists(place) and is_set_aside(place):
        try:
            with only_writer(place):
                _put_back(place)
        except BusyError:
            if time.monotonic() > until:
                raise ArtifactError(f"{place} is being replaced by another process that does not go on.") from None
            time.sleep(_POLL_S)
        except OSError as error:
            raise ArtifactError(f"{_aside(place)} cannot be put back as {place}: {error.strerror}.") from error


def is_set_aside(place: Path) -> bool:
    """Whether a writer is between its two renames, or was killed there."""
    return os.path.lexists(_aside(place))


def _aside(place: Path) -> Path:
    return place.with_name(f".{place.name}.aside")


def _put_back(place: Path) -> None:
    if is_set_aside(place):
        _aside(place).rename(new_draft(place) if os.path.lexists(place) else place)


def put_in_place(draft: Path, place: Path) -> None:
    """Move a folder to its place, over an older one: at every moment, and after a kill, one of them is there whole.

    Called by the place's only writer. Raises OSError, with the older one in its place.
    """
    if not os.path.lexists(place):
        draft.rename(place)
    elif _exchanged(draft, place):
        _remove(draft)
    else:
        _replace_in_two_steps(draft, place)
    sync(place.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Let two folders change places at once; False where the system or its file system cannot."""
    rename: Any = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_CURRENT_FOLDER, os.fsencode(one), _CURRENT_FOLDER, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _replace_in_two_steps(draft: Path, place: Path) -> None:
    """For file systems that cannot exchange folders: after a kill in between, `restore` finds the older one aside."""
    aside = _aside(place)
    place.rename(aside)
    try:
        draft.rename(place)
    finally:
        _put_back(place)  # at once, so that it does not come back when the new one is deleted
    for leftover in place.parent.glob(f".{place.name}.draft-*"):
        _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def sync(folder: Path) -> None:
    """Write the names in a folder to the disk, so that they survive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
