"""Digests: SHA-256, in hexadecimal, of bytes, files, folders and JSON values."""

import hashlib
import json
from pathlib import Path
from typing import Any

from infra.folders import linked_files, open_file

LARGE_FILE_BYTES = 1 << 30
_PROBE_BYTES = 1 << 20


def digest_bytes(data: bytes) -> str:
    """SHA-256 of the bytes, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces); raises TypeError on anything else."""
    return digest_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, read in blocks."""
    with open_file(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_material(path: Path) -> str:
    """Digest of a file or folder from outside the run: every name and content below it, in sorted order.

    Of a file above 1 GiB (the shards of a large model) only size, first and last MiB are read: reading half a terabyte
    to find that nothing changed would cost more than the stage. Links are followed, since a hub's cache has them.
    Raises FileNotFoundError, and OSError for a pipe, socket or device.
    """
    files = linked_files(path) if path.is_dir() else {".": path}
    return digest_json({name: _digest_possibly_large(file) for name, file in files.items()})


def _digest_possibly_large(path: Path) -> str:
    size = path.stat().st_size
    if size <= LARGE_FILE_BYTES:
        return digest_file(path)
    with open_file(path) as stream:
        head = stream.read(_PROBE_BYTES)
        stream.seek(-_PROBE_BYTES, 2)
        return digest_json({"size": size, "head": digest_bytes(head), "tail": digest_bytes(stream.read())})
