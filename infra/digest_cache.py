"""Which files of an artifact had the right digest when they were last read: kept beside the artifact, so that a file
that was not written since need not be read again.

It is not in the manifest, since a copy of the folder has other times than the one that was sealed.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from infra.folders import open_file, replacing

_MOST_BYTES = 64 << 20


def stamp(status: os.stat_result) -> list[int]:
    """A file's size, and when its inode last changed (nanoseconds): each write changes that, and nobody can set it."""
    return [status.st_size, status.st_ctime_ns]


def read(artifact: Path, digest: str) -> dict[str, Any]:
    """Name -> stamp of the files that were checked, for an artifact with this digest; empty if nothing can be read."""
    try:
        with open_file(_beside(artifact)) as stream:
            stated = json.loads(stream.read(_MOST_BYTES))
        return dict(stated["files"]) if stated["digest"] == digest else {}
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return {}


def write(artifact: Path, digest: str, files: Mapping[str, os.stat_result]) -> None:
    """Remember that these files were checked; nothing is remembered beside a folder that cannot be written."""
    stamps = {name: stamp(each) for name, each in files.items()}
    with suppress(OSError), replacing(_beside(artifact)) as stream:
        json.dump({"digest": digest, "files": stamps}, stream)


def _beside(artifact: Path) -> Path:
    return artifact.with_name(f".{artifact.name}.checked")
