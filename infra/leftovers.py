"""Temporary files that a killed process leaves behind: each is locked while its process lives, and a later process
removes those that are not locked."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_YOUNG_S = 60.0  # a younger one may have been made a moment ago, and not be locked yet


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a file or folder that this process has made: for the body, or until the process is killed."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_unlocked(folder: Path, pattern: str) -> None:
    """Remove the user's own files and folders that match a pattern and that no living process has locked."""
    for path in folder.glob(pattern):
        try:
            status = path.lstat()
            if status.st_uid != os.geteuid() or time.time() - status.st_mtime < _YOUNG_S:
                continue
            descriptor = _open(path)
        except OSError:
            continue  # it is gone, or is a link
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        except OSError:
            continue  # it is in use
        finally:
            os.close(descriptor)


def _open(path: Path) -> int:
    """Open for locking: a folder can only be read, and a lock on NFS wants a file to be written."""
    return os.open(path, os.O_NOFOLLOW | (os.O_RDONLY if path.is_dir() else os.O_RDWR))
