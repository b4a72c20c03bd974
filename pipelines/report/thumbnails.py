"""An image that a model was shown -> a small one beside the page, or in it."""

import io
from pathlib import Path
from typing import Protocol

from PIL import Image

from infra.digests import digest_bytes
from infra.errors import InputError
from pipelines.images import decoding
from pipelines.images.decoding import UnreadableImageError
from pipelines.inference.backends.chat import data_url

SIDE = 256  # pixels at most
_KEPT_BYTES = 12_000  # an image of no more is shown as it is
_QUALITY = 72
_NAME_DIGITS = 20
_PNG = b"\x89PNG"
_JPEG = b"\xff\xd8\xff"


class _Shown(Protocol):
    def read(self) -> bytes: ...


def thumbnail(image: _Shown) -> tuple[bytes, str]:
    """An image of at most 256 pixels a side, or the image itself where that takes few bytes, and its format in lower
    case. Raises InputError for one that cannot be read."""
    try:
        return _small(image.read())
    except UnreadableImageError as error:
        raise InputError(f"{image}: {error}. It was readable when the questions were sealed.") from error


def _small(data: bytes) -> tuple[bytes, str]:
    if len(data) <= _KEPT_BYTES and data.startswith((_PNG, _JPEG)):
        return data, "png" if data.startswith(_PNG) else "jpeg"
    small = decoding.decode_small(data, SIDE)
    small.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    written = io.BytesIO()
    small.save(written, "WEBP", quality=_QUALITY)
    return written.getvalue(), "webp"


def as_url(image: _Shown) -> str:
    """The small image as a URL that carries it. Raises InputError."""
    return data_url(*thumbnail(image))


class Folder:
    """Small images in a folder, each picture once, as long as there is room."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._room = folder, most_bytes
        self.num_left_out = 0

    def put(self, image: _Shown) -> str | None:
        """The image's path from the page; None where there is no room. Raises InputError."""
        data, kind = thumbnail(image)
        path = self._folder / f"{digest_bytes(data)[:_NAME_DIGITS]}.{kind}"
        if not path.exists():
            if len(data) > self._room:
                self.num_left_out += 1
                return None
            self._folder.mkdir(exist_ok=True)
            path.write_bytes(data)
            self._room -= len(data)
        return f"{self._folder.name}/{path.name}"
