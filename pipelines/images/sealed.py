"""A sealed image, by the record that names it -> its very bytes, or the reason why not.

Whoever uses an image has its digest beside its path, and gets these bytes or an error: so nothing is shown, taught or
learned from that is not what the record was made for, and no stage has to digest all images before it begins. Many
workers read from hundreds of shards in any order: of each shard a process keeps where its members lie, and no open
file.
"""

import functools
import hashlib
import os
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from infra.folders import open_file
from pipelines.images import decoding
from pipelines.images.decoding import UnreadableImageError

CHANGED = "image_was_changed"
_KNOWN_SHARDS = 4096
_LOCAL_HEADER = struct.Struct("<26xHH")  # before a member's bytes: ends with the lengths of a name and of what follows


@dataclass(frozen=True, slots=True)
class SealedImage:
    """path: of its file, as a name in a shard (`images/00000.zip/NAME`). digest: SHA-256 of its bytes."""

    path: Path
    digest: str

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> bytes:
        """The bytes that were sealed. Raises UnreadableImageError when they are not there any more."""
        try:
            data = _member(self.path.parent, self.path.name)
        except (OSError, KeyError) as error:
            raise UnreadableImageError("missing_image") from error
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
            raise UnreadableImageError(CHANGED) from error
        if hashlib.sha256(data).hexdigest() != self.digest:
            raise UnreadableImageError(CHANGED)
        return data

    def decode(self) -> Image.Image:
        """The image as RGB. Raises UnreadableImageError."""
        return decoding.decode(self.read())


class _Showing(Protocol):
    @property
    def images(self) -> tuple[str, ...]: ...
    @property
    def image_digests(self) -> tuple[str, ...]: ...


def of(folder: Path, record: _Showing) -> tuple[SealedImage, ...]:
    """The images that a record names, in its order. folder: the questions artifact."""
    named = zip(record.images, record.image_digests, strict=True)
    return tuple(SealedImage(folder / path, digest) for path, digest in named)


def _member(shard: Path, name: str) -> bytes:
    with open_file(shard) as stream:
        status = os.fstat(stream.fileno())
        begins, size = _directory(shard, (status.st_ino, status.st_size, status.st_mtime_ns))[name]
        stream.seek(begins)
        stream.seek(sum(_LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))), os.SEEK_CUR)
        return stream.read(size)


@functools.lru_cache(maxsize=_KNOWN_SHARDS)
def _directory(shard: Path, state: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """Name -> where a member's header begins, and how many bytes it has; they lie there as they are, not packed.

    state: what tells this shard from another that took its place.
    """
    with zipfile.ZipFile(shard) as opened:
        return {member.filename: (member.header_offset, member.file_size) for member in opened.infolist()}
