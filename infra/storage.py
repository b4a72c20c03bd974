"""Files from outside a run, at a path of this machine or at s3://bucket/prefix, behind the same functions.

Each answer of a store has a time limit. S3 is the only store: other schemes are refused by name, before anything looks
for their servers or credentials.
"""

import dataclasses
import hashlib
import io
import os
import queue
import re
import stat
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import pyarrow as pa
import pyarrow.fs as pafs

from infra.digests import digest_json
from infra.errors import InputError, first_line
from infra.folders import open_file, plain_files
from infra.manifest import MANIFEST
from infra.redaction import redacted

_COPY_BYTES = 1 << 20
_CONNECT_S, _SILENT_S, _ATTEMPTS = 4.0, 4.0, 3  # to connect to a store, for its next byte, and how often to try
_ANSWER_S = 30.0  # for all attempts together, and a second more for each MiB
_MANY_ANSWERS_S = 600.0  # for a prefix's whole listing, which is asked for in many parts
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.\-_]{0,254}", re.IGNORECASE)
_OPTIONS = re.compile(r"\?[a-z_]+=")  # Arrow would read secrets and another endpoint from them
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file below a folder: its path relative to the folder, size in bytes, and time of change in nanoseconds."""

    name: str
    size: int
    changed_ns: int


def is_remote(uri: str) -> bool:
    """Whether this names a store instead of a path of this machine."""
    return "://" in uri


def is_whole(uri: str) -> bool:
    """Whether this is an absolute path or a URI, and so means the same in every folder."""
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
    found = _answer(uri, lambda: store.get_file_info(path_in_store).type)
    return {pafs.FileType.File: "file", pafs.FileType.Directory: "folder"}.get(found)


def size(uri: str) -> int:
    """A file's size in bytes; raises InputError when there is none."""
    if not is_remote(uri):
        return Path(uri).stat().st_size
    store, path = _store(uri)
    return int(_answer(uri, lambda: store.get_file_info(path).size) or 0)


def open_binary(uri: str) -> BinaryIO:
    """A file's bytes as a seekable stream; raises InputError when they cannot be read."""
    if is_remote(uri):
        return cast("BinaryIO", io.BufferedReader(_Remote(uri), _COPY_BYTES))
    try:
        return open_file(Path(uri))
    except OSError as error:
        raise InputError(f"{uri} cannot be read: {error.strerror}") from error


class _Remote(io.RawIOBase):
    """A file of a store; each read has a time limit."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        store, path = _store(uri)
        self._uri = uri
        self._file = _answer(uri, lambda: store.open_input_file(path))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        size = len(buffer)
        data = _answer(self._uri, lambda: self._file.read(size), _ANSWER_S + size / _COPY_BYTES)
        buffer[: len(data)] = data
        return len(data)


def listing(uri: str) -> Iterator[Entry]:
    """Every plain file below a folder, in any order; links to folders are not followed."""
    if not is_remote(uri):
        yield from _local_listing(Path(uri))
        return
    store, path = _store(uri)
    below = pafs.FileSelector(path, recursive=True, allow_not_found=True)
    for info in _answer(uri, lambda: store.get_file_info(below), _MANY_ANSWERS_S):
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
    """Digest of the names, sizes and times of the files in a folder, or of a single file: for data sets, which are too
    large to read just to find that nothing changed."""
    entries = listing(uri) if kind(uri) == "folder" else iter(())
    if not is_remote(uri) and Path(uri).is_file():
        status = Path(uri).stat()
        entries = iter([Entry(Path(uri).name, status.st_size, status.st_mtime_ns)])
    return digest_json(sorted(dataclasses.astuple(entry) for entry in entries))


def digest(uri: str) -> str:
    """SHA-256 of a file's content; raises InputError when it cannot be read."""
    with open_binary(uri) as stream:
        digest = hashlib.sha256()
        while block := stream.read(_COPY_BYTES):
            digest.update(block)
        return digest.hexdigest()


def remove(uri: str) -> None:
    """Delete everything below a folder of a store; raises InputError when the store refuses."""
    store, path = _store(uri)
    _answer(uri, lambda: store.delete_dir(path), _MANY_ANSWERS_S)


def upload(folder: Path, uri: str) -> None:
    """Copy a sealed artifact into a store, its manifest last; raises InputError when the store refuses."""
    store, path = _store(uri)
    for name in sorted(plain_files(folder), key=lambda name: (name == MANIFEST, name)):
        sink = _answer(uri, partial(store.open_output_stream, f"{path}/{name}"))
        with open_file(folder / name) as source:
            while block := source.read(_COPY_BYTES):
                _answer(uri, partial(sink.write, block))
        _answer(uri, sink.close, _MANY_ANSWERS_S)


def _answer(uri: str, ask: Callable[[], T], limit_s: float = _ANSWER_S) -> T:
    """The answer of a store; raises InputError when it fails, or takes longer than the limit.

    The store is asked in another thread: its own code hears no signals, so Ctrl-C would have to wait for it.
    """
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def wait() -> None:
        try:
            answers.put((ask(), None))
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that asked
            answers.put((None, error))

    threading.Thread(target=wait, daemon=True, name="store").start()
    try:
        answer, error = answers.get(timeout=limit_s)
    except queue.Empty:
        raise InputError(f"{redacted(uri)}: the store did not answer within {limit_s:g} s.") from None
    if isinstance(error, OSError | pa.ArrowException):
        said = redacted(first_line(error))
        raise InputError(f"{redacted(uri)} cannot be read or written in its store: {said}") from error
    if error is not None:
        raise error
    return cast("T", answer)


def _store(uri: str) -> tuple[Any, str]:
    """The store of a URI, and its path there. Raises InputError for any store but S3."""
    scheme, _, rest = uri.partition("://")
    if scheme != "s3":
        instead = f"Write the path alone: {rest}" if scheme == "file" else "Copy it to either."
        raise InputError(
            f"{redacted(uri)} names no store that is read here: s3://bucket/prefix is, and a path of this machine. "
            f"{instead}"
        )
    bucket, _, name = rest.rstrip("/").partition("/")
    if not _BUCKET.fullmatch(bucket) or _OPTIONS.search(name):
        raise InputError(
            f"{redacted(uri)} is no s3://bucket/prefix alone. Who asks, where and in which region is said "
            "in AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL and AWS_DEFAULT_REGION."
        )
    return _answer(uri, lambda: _s3(bucket)), f"{bucket}/{name}".rstrip("/")


def _s3(bucket: str) -> Any:
    """S3 with the environment's settings. Amazon is asked for the bucket's region only if neither endpoint nor region
    is set."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    scheme, _, host = endpoint.rpartition("://")
    return pafs.S3FileSystem(
        region=region or ("us-east-1" if endpoint else pafs.resolve_s3_region(bucket)),
        endpoint_override=host.rstrip("/") or None,
        scheme=scheme or "https",
        connect_timeout=_CONNECT_S,
        request_timeout=_SILENT_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
    )
