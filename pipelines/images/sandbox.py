"""Images of the world -> stored images, or reasons why not, in processes of their own that can be ended.

A decoder that is fed hostile bytes may crash, hang or fill the memory. It does so in a child with little memory, which
is replaced when it dies or takes too long; the row in question gets a reason and no other is touched: each child has a
pipe of its own, which its death leaves broken for nobody else, and no image is blamed for what another left behind.
"""

import contextlib
import dataclasses
import functools
import hashlib
import math
import multiprocessing
import os
import resource
import signal
import time
import traceback
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing import connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from infra import storage
from infra.digests import digest_bytes
from infra.errors import InputError
from pipelines.images import decoding
from pipelines.images.decoding import Box, Normal, UnreadableImageError
from pipelines.records import StoredImage

TIMEOUT_S = 20.0
MEMORY_BYTES = 2 << 30  # over what the child has when it starts: enough for the largest image that is taken
_AHEAD = 8  # images under way for each child: a slow one does not make the others wait, and few hold memory
_GIVEN = 2  # of these, how many a child has: the next is there when it is done with one
_LAST_S = 5.0  # over its time, after which a child ends itself: whoever should have ended it is no more
_PRELOADED = [  # once, so that a child's successor is there at once
    "pipelines.images.sandbox",
    "imagehash",
    "scipy.fftpack",
    *(f"PIL.{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP")),
]
_REDUCING_GAP = 3.0  # averages first, in whole steps: as good as without, says Pillow, and several times quicker
_READY, _LATE, _DEAD, _GORGED = "ready", "takes_too_long", "crashes_the_decoder", "needs_too_much_memory"
_FLAT = 2.0  # standard deviation of grey values below which nothing can be told apart


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """An image to be looked at: where it is, what the source calls it, and the part that is meant; see `StoredImage`
    for crop."""

    location: str
    name: str
    crop: str
    stretch_tiff: bool


def context() -> ForkServerContext:
    """What starts confined children: a server that has imported all that they need, so that one is there at once."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(_PRELOADED)
    return made


class Door:
    """Looks at images, several at a time; used as `with Door(...) as door`."""

    def __init__(self, *, max_pixels: int, workers: int, timeout_s: float = TIMEOUT_S) -> None:
        self._max_pixels = max_pixels
        self._timeout_s = timeout_s
        self._ahead = workers * _AHEAD
        self._todo: deque[_Job] = deque()
        self._context = context()
        self._children = [_Child(self._context) for _ in range(workers)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the children."""
        while self._children:
            self._children.pop().end()

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
        waiting: deque[_Job] = deque()
        for request in requests:
            waiting.append(_Job(request))
            self._todo.append(waiting[-1])
            if len(waiting) >= self._ahead:
                yield self._outcome(waiting.popleft())
        while waiting:
            yield self._outcome(waiting.popleft())

    def _outcome(self, job: "_Job") -> Any:
        self._give()
        while not job.done:
            self._take()
            self._give()
        if isinstance(job.outcome, BaseException):
            raise job.outcome
        return job.outcome

    def _give(self) -> None:
        """Hand what is to do to the children that have the least."""
        for full in range(1, _GIVEN + 1):
            for child in self._children:
                if self._todo and len(child.jobs) < full:
                    child.give(self._todo.popleft(), self._max_pixels, self._timeout_s)

    def _take(self) -> None:
        """Wait for the next outcomes, or until a child has taken too long."""
        busy = [child for child in self._children if child.jobs]
        left_s = min(child.since for child in busy) + self._timeout_s - time.monotonic()
        ready = connection.wait([child.pipe for child in busy], None if left_s == math.inf else max(0.0, left_s))
        for child in busy:
            if child.pipe in ready:
                said = child.hear()
                if said in (_DEAD, _GORGED):
                    self._replace(child, said)
                elif said != _READY:
                    child.finish(said)
            elif time.monotonic() - child.since > self._timeout_s:
                self._replace(child, _LATE)

    def _replace(self, child: "_Child", reason: str) -> None:
        """Let another do what the child has left. A death or a lack of memory may come of what an earlier image left
        behind: such an image is tried once more, and is to blame if it is the first that its child looks at."""
        child.end()
        if reason == _LATE or child.is_fresh:
            child.finish(reason)
        heir = _Child(self._context)
        for job in child.jobs:
            heir.give(job, self._max_pixels, self._timeout_s)
        self._children[self._children.index(child)] = heir


@dataclasses.dataclass(slots=True)
class _Job:
    """A request and, once it is done, what it gave."""

    request: Request
    done: bool = False
    outcome: Any = None


class _Child:
    """A process that looks at images, and the jobs that it has, the first of which it is at.

    since: when it began with that one, or later; infinite until the process is ready, since its start is no image's
    fault. is_fresh: it has finished none.
    """

    def __init__(self, context: ForkServerContext) -> None:
        self.jobs: deque[_Job] = deque()
        self.since = math.inf
        self.is_fresh = True
        self.pipe, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(far, dict(os.environ)), daemon=True)
        self._process.start()
        far.close()

    def give(self, job: _Job, max_pixels: int, timeout_s: float) -> None:
        """Let it do one more job."""
        if not self.jobs and self.since < math.inf:
            self.since = time.monotonic()
        self.jobs.append(job)
        with contextlib.suppress(OSError):  # it is dead, as will be seen when its answer is read
            self.pipe.send((_look, job.request, max_pixels, timeout_s))

    def hear(self) -> Any:
        """That it is ready, what its first job gave, or that it is dead. Raises RuntimeError when it did not start."""
        try:
            said = self.pipe.recv()
        except (EOFError, OSError) as error:
            if self.since < math.inf:
                return _DEAD
            self._process.join()
            raise RuntimeError(f"a child of the door ended at its start ({self._process.exitcode})") from error
        self.since = time.monotonic()
        return said

    def finish(self, outcome: Any) -> None:
        """Its first job is done."""
        job = self.jobs.popleft()
        job.done, job.outcome = True, outcome
        self.is_fresh = False

    def end(self) -> None:
        """Kill it, whatever it is at."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _serve(pipe: connection.Connection, environment: dict[str, str]) -> None:
    """In a child: do one job after another until nobody is left to give any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on
    confine(environment, MEMORY_BYTES)
    pipe.send(_READY)
    with contextlib.suppress(EOFError, OSError):
        while True:
            look, request, max_pixels, timeout_s = pipe.recv()
            signal.setitimer(signal.ITIMER_REAL, timeout_s + _LAST_S)
            pipe.send(_tried(look, request, max_pixels))
            signal.setitimer(signal.ITIMER_REAL, 0)


def _tried(look: Any, request: Request, max_pixels: int) -> Any:
    try:
        return look(request, max_pixels)
    except MemoryError:
        return _GORGED
    except Exception as error:  # noqa: BLE001 - a fault of ours, which is raised in the parent
        error.add_note(traceback.format_exc())
        return error


def confine(environment: dict[str, str], memory_bytes: int) -> None:
    """In a child, at its start: so much memory over what it has then and no more, no core dump of what it held, and
    nothing on standard error, where libraries complain of each damaged byte.

    environment: the parent's of now; the server that children are forked from may be older, and not know of a store.
    """
    os.environ.update(environment)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory_bytes, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _look(request: Request, max_pixels: int) -> tuple[dict[str, Any], str, bytes] | str:
    """In a child: what is known of an image, its file name's ending and its bytes as they are stored; or the reason."""
    try:
        data = _read(request.location)
        normal = decoding.normalise(
            data, max_pixels=max_pixels, box=parse_box(request.crop), stretch_tiff=request.stretch_tiff
        )
        return _facts(request, data, normal), normal.suffix, normal.data
    except UnreadableImageError as error:
        return str(error)


def _read(location: str) -> bytes:
    if not storage.is_remote(location):
        return decoding.read_bytes(Path(location))
    try:
        archive, dot_zip, member = location.partition(".zip/")
        if dot_zip:
            return decoding.read_member(_remote_zip(f"{archive}.zip"), member)
        with storage.open_binary(location) as stream:
            data = stream.read(decoding.MAX_BYTES + 1)
    except (InputError, OSError, zipfile.BadZipFile) as error:
        raise UnreadableImageError("missing_image") from error
    if len(data) > decoding.MAX_BYTES:
        raise UnreadableImageError("image_file_too_large")
    return data


@functools.lru_cache(maxsize=4)
def _remote_zip(uri: str) -> zipfile.ZipFile:
    """A store's zip, opened once in a child: its directory can be larger than all that is read of it."""
    return zipfile.ZipFile(storage.open_binary(uri))


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
    """The box that a crop's text says; None for the whole image."""
    if not crop:
        return None
    left, top, right, bottom = (float(edge) for edge in crop.split(","))
    return left, top, right, bottom


def perceptual_hash(image: Image.Image) -> str:
    """The 64-bit pHash of an image, 16 hexadecimal digits; empty for a flat one, whose hash would be chance."""
    import imagehash

    small = image.convert("L").resize((32, 32), Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP)
    if np.asarray(small).std() < _FLAT:
        return ""
    return str(imagehash.phash(small))
