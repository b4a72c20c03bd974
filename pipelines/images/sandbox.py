"""The image sandbox: images as the world has them -> stored images, or the reasons why not, decoded in confined child
processes."""

import dataclasses
import hashlib
import zipfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

from infra.digests import digest_bytes
from pipelines.images import decoding, image_bytes
from pipelines.images.confined_processes import ConfinedPool
from pipelines.images.decoding import Box, Normal, UnreadableImageError
from pipelines.images.perceptual_hash import perceptual_hash
from pipelines.records import StoredImage

TIMEOUT_S = 20.0
MEMORY_BYTES = 2 << 30  # of a child, in addition to what it has at its start: enough for the largest accepted image


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """An image to decode.

    location: its path or URI; see `image_bytes.read`. name: as the source calls it. crop: `left,top,right,bottom` in
    pixels, empty for the whole image. stretch_tiff: see `decoding.normalise`.
    """

    location: str
    name: str
    crop: str
    stretch_tiff: bool


Decoded = tuple[dict[str, Any], str, bytes]  # StoredImage's fields but `path`, the file name's suffix, the stored bytes


def decode_request(request: Request, max_pixels: int) -> Decoded | str:
    """Read, decode and normalise one image; returns the reason where it cannot be used. Runs in a child process."""
    try:
        data = image_bytes.read(request.location)
        normal = decoding.normalise(
            data, max_pixels=max_pixels, box=parse_box(request.crop), stretch_tiff=request.stretch_tiff
        )
        return _facts(request, data, normal), normal.suffix, normal.data
    except UnreadableImageError as error:
        return str(error)


def _facts(request: Request, data: bytes, normal: Normal) -> dict[str, Any]:
    pixels = hashlib.sha256(f"{normal.pixels.width}x{normal.pixels.height}:".encode())
    pixels.update(normal.pixels.tobytes())
    return {
        "name": request.name,
        "crop": request.crop,
        "source_digest": digest_bytes(data),
        "digest": digest_bytes(normal.data),
        "pixel_digest": pixels.hexdigest(),
        "perceptual_hash": perceptual_hash(normal.pixels),
        "width": normal.pixels.width,
        "height": normal.pixels.height,
        "changes": normal.changes,
    }


def parse_box(crop: str) -> Box | None:
    """The box that `left,top,right,bottom` describes; None for an empty text, the whole image. Raises ValueError."""
    if not crop:
        return None
    left, top, right, bottom = (float(edge) for edge in crop.split(","))
    return left, top, right, bottom


class Decode(Protocol):
    """What a child does for each request; a function that can be pickled."""

    def __call__(self, request: Request, max_pixels: int) -> Decoded | str:
        """As `decode_request`."""


class ImageSandbox:
    """Decodes images, several at a time; used as `with ImageSandbox(...) as sandbox`.

    max_pixels: of each stored image. workers: number of child processes. timeout_s: seconds that one image may take.
    decode: what a child does for each request.
    """

    def __init__(
        self,
        *,
        max_pixels: int,
        workers: int,
        timeout_s: float = TIMEOUT_S,
        decode: Decode = decode_request,
    ) -> None:
        self._pool = ConfinedPool(
            partial(decode, max_pixels=max_pixels),
            workers=workers,
            memory_bytes=MEMORY_BYTES,
            timeout_s=timeout_s,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.__exit__(*error)

    def store(self, requests: Iterable[Request], archive: Path, folder: Path) -> Iterator[StoredImage | str]:
        """For each request its stored image, written into a new zip below `folder`, or the reason why not; in order.

        The same requests write the same bytes. Raises OSError when the zip cannot be written.
        """
        stored: set[str] = set()
        with zipfile.ZipFile(folder / archive, "w", zipfile.ZIP_STORED) as target:
            for decoded in self._pool.map(requests):
                if isinstance(decoded, str):
                    yield decoded
                    continue
                facts, suffix, data = decoded
                member = f"{facts['digest'][:32]}{suffix}"
                if member not in stored:
                    stored.add(member)
                    target.writestr(zipfile.ZipInfo(member), data)  # an entry without a date of its own
                yield StoredImage(path=f"{archive}/{member}", **facts)

    def check(self, requests: Iterable[Request]) -> Iterator[str | None]:
        """For each request the reason why its image cannot be used, or None; nothing is written."""
        for decoded in self._pool.map(requests):
            yield decoded if isinstance(decoded, str) else None
