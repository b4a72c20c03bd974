"""What a process leaves behind when it is killed: locked while the process lives, and removed by the next one."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_YOUNG_S = 60.0  # what was made and not locked yet


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Lock a file or folder that this process has made, for the body or until the process ends, however it does."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove(folder: Path, pattern: str) -> None:
    """Remove the user's own files and folders of this pattern that nobody holds any more."""
    for path in folder.glob(pattern):
        try:
            status = path.lstat()
            if status.st_uid != os.geteuid() or time.time() - status.st_mtime < _YOUNG_S:
                continue
            descriptor = _open(path)
        except OSError:
            continue  # it has gone meanwhile, or is a link
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
