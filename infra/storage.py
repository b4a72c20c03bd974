"""Where files of the world lie: a path of this machine or a URI such as s3://bucket/prefix, read in the same words."""

import dataclasses
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.fs as pafs

from infra.digests import digest_json
from infra.errors import InputError, first_line

_COPY_BYTES = 1 << 20
_MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file below a folder: its name from there on, its size in bytes, and when it was changed (nanoseconds)."""

    name: str
    size: int
    changed_ns: int


def is_remote(uri: str) -> bool:
    """Whether this names a store instead of a path of this machine."""
    return "://" in uri


def is_whole(uri: str) -> bool:
    """Whether this is an absolute path or a URI, which means the same wherever it is read."""
    return is_remote(uri) or uri.startswith("/")


def join(uri: str, name: str) -> str:
    """A name below a folder; an absolute path or URI stays what it is."""
    return name if is_whole(name) else f"{uri.rstrip('/')}/{name}"


def parent(uri: str) -> str:
    """The folder that a file lies in."""
    if not is_remote(uri):
        return str(Path(uri).parent)
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rstrip('/').rpartition('/')[0]}"


def exists(uri: str) -> bool:
    """Whether a file or a folder is there; raises InputError when the store does not answer."""
    return kind(uri) is not None


def kind(uri: str) -> str | None:
    """`file`, `folder`, or None when nothing is there; raises InputError when the store does not answer."""
    if not is_remote(uri):
        path = Path(uri)
        return "folder" if path.is_dir() else "file" if path.is_file() else None
    store, path_in_store = _store(uri)
    with _telling(uri):
        found = store.get_file_info(path_in_store).type
    return {pafs.FileType.File: "file", pafs.FileType.Directory: "folder"}.get(found)


def size(uri: str) -> int:
    """A file's size in bytes; raises InputError when there is none."""
    if not is_remote(uri):
        return Path(uri).stat().st_size
    store, path = _store(uri)
    with _telling(uri):
        return int(store.get_file_info(path).size or 0)


def open_binary(uri: str) -> BinaryIO:
    """A file's bytes as a seekable stream; raises InputError when they cannot be read."""
    try:
        if not is_remote(uri):
            return Path(uri).open("rb")
        store, path = _store(uri)
        return cast("BinaryIO", io.BufferedReader(store.open_input_file(path), _COPY_BYTES))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{uri} cannot be read: {first_line(error)}") from error


def listing(uri: str) -> Iterator[Entry]:
    """Every plain file below a folder, in no certain order; links to folders are not followed."""
    if not is_remote(uri):
        yield from _local_listing(Path(uri))
        return
    store, path = _store(uri)
    with _telling(uri):
        infos = store.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    for info in infos:
        if info.is_file:
            yield Entry(info.path[len(path) :].lstrip("/"), info.size, info.mtime_ns or 0)


def _local_listing(folder: Path) -> Iterator[Entry]:
    for within, _, names in os.walk(folder):
        for name in names:
            path = Path(within, name)
            try:
                status = path.stat()
            except OSError:
                continue  # a link to nowhere
            if stat.S_ISREG(status.st_mode):
                yield Entry(str(path.relative_to(folder)), status.st_size, status.st_mtime_ns)


def digest_listing(uri: str) -> str:
    """Digest of what a folder holds by names, sizes and times: for data sets, which are too large to be read just to
    find that nothing changed. A single file counts likewise."""
    entries = listing(uri) if kind(uri) == "folder" else iter(())
    if not is_remote(uri) and Path(uri).is_file():
        status = Path(uri).stat()
        entries = iter([Entry(Path(uri).name, status.st_size, status.st_mtime_ns)])
    return digest_json(sorted(dataclasses.astuple(entry) for entry in entries))


def digest(uri: str) -> str:
    """SHA-256 of a file's content; raises InputError when it cannot be read."""
    with open_binary(uri) as stream, _telling(uri):
        digest = hashlib.sha256()
        while block := stream.read(_COPY_BYTES):
            digest.update(block)
        return digest.hexdigest()


def remove(uri: str) -> None:
    """Delete all that lies below a folder of a store; raises InputError when the store does not take it."""
    store, path = _store(uri)
    with _telling(uri):
        store.delete_dir(path)


def upload(folder: Path, uri: str) -> None:
    """Copy a sealed artifact into a store, its manifest last; raises InputError when the store does not take it."""
    store, path = _store(uri)
    files = sorted((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.name == _MANIFEST)
    with _telling(uri):
        for file in files:
            target = f"{path}/{file.relative_to(folder)}"
            with file.open("rb") as source, store.open_output_stream(target) as sink:
                while block := source.read(_COPY_BYTES):
                    sink.write(block)


@contextmanager
def _telling(uri: str) -> Iterator[None]:
    """Turns a store's trouble into one clear InputError."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{uri}: the store does not answer as it should: {first_line(error)}") from error


def _store(uri: str) -> tuple[Any, str]:
    try:
        store, path = pafs.FileSystem.from_uri(uri)
        return store, str(path)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise InputError(f"{uri} names no store that can be reached: {first_line(error)}") from error
