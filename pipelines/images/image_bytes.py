"""Where an image lies -> its bytes as they are there, or the reason why not: a file, a member of a zip, or either of
them in a store."""

import functools
import stat
import zipfile
from pathlib import Path

from infra import storage
from infra.errors import InputError
from pipelines.images import zip_members
from pipelines.images.decoding import UnreadableImageError

MAX_BYTES = 64 << 20
_OPEN_ZIPS = 16


def read(location: str) -> bytes:
    """The bytes of an image, at most MAX_BYTES.

    location: a path or an `s3://` URI, of a file or of a zip's member (`images.zip/1.png`). Raises UnreadableImageError
    when it is missing, no plain file, too large, or cannot be unpacked.
    """
    try:
        data = _read_remote(location) if storage.is_remote(location) else _read_local(Path(location))
    except (InputError, OSError, ValueError) as error:
        raise UnreadableImageError("missing_image") from error
    if len(data) > MAX_BYTES:
        raise UnreadableImageError("image_file_too_large")
    return data


def _read_local(path: Path) -> bytes:
    if archive := next((parent for parent in path.parents if parent.suffix == ".zip" and parent.is_file()), None):
        status = archive.stat()
        opened = _open_zip(str(archive), (status.st_ino, status.st_size, status.st_mtime_ns))
        return _read_member(opened, str(path.relative_to(archive)))
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImageError("missing_image")
    if status.st_size > MAX_BYTES:
        raise UnreadableImageError("image_file_too_large")
    return path.read_bytes()


def _read_remote(uri: str) -> bytes:
    archive, dot_zip, member = uri.partition(".zip/")
    if dot_zip:
        return _read_member(_open_zip(f"{archive}.zip", ()), member)
    with storage.open_binary(uri) as stream:
        return stream.read(MAX_BYTES + 1)


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """One byte more than MAX_BYTES at most, whatever the member's entry says of its size."""
    try:
        with archive.open(zip_members.info(archive, name)) as member:
            return member.read(MAX_BYTES + 1)
    except KeyError as error:
        raise UnreadableImageError("missing_image") from error
    except MemoryError:
        raise
    except Exception as error:  # damaged or encrypted: each way of packing has errors of its own
        raise UnreadableImageError("damaged_zip_member") from error


@functools.lru_cache(maxsize=_OPEN_ZIPS)
def _open_zip(uri: str, state: tuple[int, ...]) -> zipfile.ZipFile:
    """A zip, opened once in a process, because its directory can be larger than all that is read of it.

    state: what tells a local file from another one that took its place; unknown for a store's.
    """
    try:
        return zipfile.ZipFile(storage.open_binary(uri) if storage.is_remote(uri) else uri)
    except (InputError, OSError):
        raise
    except Exception as error:  # a damaged directory raises whatever the code that reads it happens to raise
        raise UnreadableImageError("damaged_zip") from error
