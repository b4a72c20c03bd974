"""A sealed image, by the record that names it -> exactly the bytes that were sealed, or the reason why not.

A record has the digest of each image beside its path, and a reader gets the bytes of that digest or an error. So no
other image is ever shown or learned from, and no stage has to digest all images before it begins. Many workers read
from hundreds of shards in any order, so a process remembers where a shard's members lie, and keeps no file open.
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
_LOCAL_HEADER = struct.Struct(
    "<26xHH"
)  # before a member's bytes; ends with the lengths of its name and of an extra field


@dataclass(frozen=True, slots=True)
class SealedImage:
    """path: of its file, as a name in a shard (`images/00000.zip/NAME`). digest: SHA-256 of its bytes."""

    path: Path
    digest: str

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> bytes:
        """The bytes that were sealed. Raises UnreadableImageError when they are missing or were changed."""
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


class _HasImages(Protocol):
    @property
    def images(self) -> tuple[str, ...]: ...
    @property
    def image_digests(self) -> tuple[str, ...]: ...


def of(folder: Path, record: _HasImages) -> tuple[SealedImage, ...]:
    """The images that a record names, in its order. folder: of the questions artifact."""
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
    """A member's name -> offset of its header and its size in bytes. Members are stored uncompressed.

    state: what tells this shard from another one that took its place.
    """
    with zipfile.ZipFile(shard) as opened:
        return {member.filename: (member.header_offset, member.file_size) for member in opened.infolist()}
