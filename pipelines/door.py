"""Images of the world -> stored images, or reasons why not, in processes of their own that can be ended.

A decoder that is fed hostile bytes may crash, hang or fill the memory. It does so in a child with little memory, which
is replaced when it dies or takes too long; the row in question gets a reason and no other is touched.
"""

import dataclasses
import hashlib
import multiprocessing
import os
import resource
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self

import numpy as np
from pebble import ProcessExpired, ProcessPool
from PIL import Image

from infra import storage
from infra.digests import digest_bytes
from infra.errors import InputError
from pipelines import images
from pipelines.images import Box, Normal, UnreadableImageError
from pipelines.records import StoredImage

TIMEOUT_S = 20.0
MEMORY_BYTES = 2 << 30  # over what the child has when it starts: enough for the largest image that is taken
_AHEAD = 8  # images under way for each child: none waits for work, and few hold memory
_PRELOADED = ["pipelines.door", "imagehash", "scipy.fftpack"]  # once, so that a child's successor is there at once
_FLAT = 2.0  # standard deviation of grey values below which nothing can be told apart


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """An image to be looked at: where it is, what the source calls it, and the part that is meant; see `StoredImage`
    for crop."""

    location: str
    name: str
    crop: str
    stretch_tiff: bool


class Door:
    """Looks at images, several at a time; used as `with Door(...) as door`."""

    def __init__(self, *, max_pixels: int, workers: int, timeout_s: float = TIMEOUT_S) -> None:
        self._max_pixels = max_pixels
        self._timeout_s = timeout_s
        self._ahead = workers * _AHEAD
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self._pool = ProcessPool(
            max_workers=workers, context=context, initializer=_confine, initargs=[dict(os.environ)]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the children."""
        self._pool.stop()
        self._pool.join()

    def store(self, requests: Iterable[Request], archive: Path, folder: Path) -> Iterator[StoredImage | str]:
        """For each request its stored image, written into a new zip below `folder`, or the reason why not; in order.

        The same requests write the same bytes. Raises OSError when the zip cannot be written.
        """
        stored: set[str] = set()
        with zipfile.ZipFile(folder / archive, "w", zipfile.ZIP_STORED) as target:
            for looked in self._look(requests):
                if isinstance(looked, str):
                    yield looked
                    continue
                facts, suffix, data = looked
                member = f"{facts['digest'][:32]}{suffix}"
                if member not in stored:
                    stored.add(member)
                    target.writestr(zipfile.ZipInfo(member), data)  # an entry without a date of its own
                yield StoredImage(path=f"{archive}/{member}", **facts)

    def check(self, requests: Iterable[Request]) -> Iterator[str | None]:
        """For each request the reason why its image cannot be used, or None; nothing is written."""
        for looked in self._look(requests):
            yield looked if isinstance(looked, str) else None

    def _look(self, requests: Iterable[Request]) -> Iterator[Any]:
        waiting: deque[Future[Any]] = deque()
        for request in requests:
            waiting.append(
                self._pool.schedule(_look, args=(request, self._max_pixels), timeout=self._timeout_s)  # type: ignore[arg-type]
            )
            if len(waiting) >= self._ahead:
                yield _outcome(waiting.popleft())
        while waiting:
            yield _outcome(waiting.popleft())


def _outcome(future: "Future[Any]") -> Any:
    try:
        return future.result()
    except TimeoutError:
        return "takes_too_long"
    except ProcessExpired:
        return "crashes_the_decoder"
    except MemoryError:
        return "needs_too_much_memory"


def _confine(environment: dict[str, str]) -> None:
    """In a child, at its start: no more memory than an image may need, no core dump of what it held, and nothing on
    standard error, where libraries complain of each damaged byte.

    environment: the parent's of now; the server that children are forked from may be older, and not know of a store.
    """
    os.environ.update(environment)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    Image.init()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _look(request: Request, max_pixels: int) -> tuple[dict[str, Any], str, bytes] | str:
    """In a child: what is known of an image, its file name's ending and its bytes as they are stored; or the reason."""
    try:
        data = _read(request.location)
        normal = images.normalise(
            data, max_pixels=max_pixels, box=parse_box(request.crop), stretch_tiff=request.stretch_tiff
        )
        return _facts(request, data, normal), normal.suffix, normal.data
    except UnreadableImageError as error:
        return str(error)


def _read(location: str) -> bytes:
    if not storage.is_remote(location):
        return images.read_bytes(Path(location))
    try:
        archive, dot_zip, member = location.partition(".zip/")
        if dot_zip:
            with storage.open_binary(f"{archive}.zip") as stream, zipfile.ZipFile(stream) as opened:
                return images.read_member(opened, member)
        with storage.open_binary(location) as stream:
            data = stream.read(images.MAX_BYTES + 1)
    except (InputError, OSError, zipfile.BadZipFile) as error:
        raise UnreadableImageError("missing_image") from error
    if len(data) > images.MAX_BYTES:
        raise UnreadableImageError("image_file_too_large")
    return data


def _facts(request: Request, data: bytes, normal: Normal) -> dict[str, Any]:
    size = f"{normal.image.width}x{normal.image.height}:".encode()
    return {
        "name": request.name,
        "crop": request.crop,
        "source_digest": digest_bytes(data),
        "digest": digest_bytes(normal.data),
        "pixel_digest": hashlib.sha256(size + normal.image.tobytes()).hexdigest(),
        "perceptual_hash": perceptual_hash(normal.image),
        "width": normal.image.width,
        "height": normal.image.height,
        "changes": normal.changes,
    }


def parse_box(crop: str) -> Box | None:
    """The box that a crop's text says; None for the whole image."""
    if not crop:
        return None
    left, top, right, bottom = (float(edge) for edge in crop.split(","))
    return left, top, right, bottom


def perceptual_hash(image: Image.Image) -> str:
    """The 64-bit pHash of an image, 16 hexadecimal digits; empty for a flat one, whose hash would be chance."""
    import imagehash

    small = image.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    if np.asarray(small).std() < _FLAT:
        return ""
    return str(imagehash.phash(small))
