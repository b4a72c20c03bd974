"""Bytes of the world -> a safe RGB image, or a reason why not: the one door for images.

What comes from outside passes `normalise` once, in a process that can be ended (`door.py`); what is sealed is then
plain, and later stages `read` it by its path, in a folder or inside a zip.
"""

import dataclasses
import functools
import io
import stat
import warnings
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, ImageStat, UnidentifiedImageError

from pipelines.sources import members

MAX_BYTES = 64 << 20
MAX_PIXELS = 64_000_000
MAX_ASPECT = 200  # longer side over shorter one, as Qwen's image processor has it
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")  # Pillow knows more, one of which runs a program
_KEPT_FORMATS = frozenset({"PNG", "JPEG", "WEBP"})  # every reader of images knows these; others are stored as PNG
_DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_OPEN_ZIPS = 16
_PNG_LEVEL = 3  # of 9: half the time of 6, zlib's own choice, for a few per cent more bytes

Image.MAX_IMAGE_PIXELS = None  # our own limit, which is lower and an error, stands in the place of Pillow's warning


class UnreadableImageError(Exception):
    """These bytes give no image; the message is the reason, a few words without the path."""


@dataclasses.dataclass(frozen=True)
class Normal:
    """A normalised image, the bytes that it is stored as with their file name's ending, and what was changed."""

    image: Image.Image
    data: bytes
    suffix: str
    changes: tuple[str, ...]


Box = tuple[float, float, float, float]


def normalise(data: bytes, *, max_pixels: int, box: Box | None = None, stretch_tiff: bool = False) -> Normal:
    """The image that a model may be shown: first frame, upright, 8 bits, cropped to `box`, at most `max_pixels`.

    box: left, top, right, bottom in pixels, clamped to the image. stretch_tiff: scale a TIFF from its darkest to its
    brightest value also when it has 8 bits. The source's own bytes are kept where nothing has to change. Raises
    UnreadableImageError.
    """
    image, kind, changes = _decoded(data, stretch_tiff)
    if box is not None:
        image = crop(image, box)
        _check_aspect(image)
        changes.append("cropped")
    fitting = within(image, max_pixels)
    if fitting is not image:
        changes.append("resized")
    if not changes and kind in _KEPT_FORMATS:
        return Normal(_rgb(fitting), data, f".{kind.lower()}", ())
    return Normal(_rgb(fitting), png(fitting), ".png", tuple(changes) or ("as_png",))


def decode(data: bytes) -> Image.Image:
    """The first frame as RGB, upright, on white where it is transparent, 8 bits a channel; what has more is scaled from
    its darkest to its brightest value.

    Raises UnreadableImageError for anything that is too large, truncated or no image.
    """
    return _rgb(_decoded(data, stretch_tiff=False)[0])


def _decoded(data: bytes, stretch_tiff: bool) -> tuple[Image.Image, str, list[str]]:
    """The image, grey where it is stored so and else RGB; its format; and what had to be changed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow remarks on damage that it can read past
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UnreadableImageError("too_many_pixels")
                _check_aspect(image)
                return _flattened(image, stretch_tiff)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("damaged_image" if _begins_well(data) else "not_an_image") from error
    except MemoryError as error:
        raise UnreadableImageError("needs_too_much_memory") from error
    except Exception as error:  # decoders meet hostile bytes with whatever their code happens to raise
        raise UnreadableImageError("damaged_image") from error


def _begins_well(data: bytes) -> bool:
    """Whether the first bytes are those of an accepted format."""
    return any(accepts and accepts(data[:16]) for _, accepts in (Image.OPEN[kind] for kind in FORMATS))


def _check_aspect(image: Image.Image) -> None:
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise UnreadableImageError("too_elongated")


def _flattened(image: Image.Image, stretch_tiff: bool) -> tuple[Image.Image, str, list[str]]:
    changes = []
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    if getattr(image, "is_animated", False) or image.format == "MPO":
        changes.append("first_frame")
    orientation = image.getexif().get(0x0112, 1)
    ImageOps.exif_transpose(image, in_place=True)
    if orientation in range(2, 9):
        changes.append("upright")
    if image.mode in _DEEP_MODES or (stretch_tiff and kind == "TIFF" and image.mode in {"L", "RGB"}):
        image = stretched(image)
        changes.append("stretched")
    if image.has_transparency_data:
        whole = image.convert("RGBA")
        image = Image.new("RGB", whole.size, "white")
        image.paste(whole, mask=whole)
        changes.append("on_white")
    elif image.mode not in {"RGB", "L"}:
        image = image.convert("RGB")
        changes.append("as_rgb")
    image.info.clear()  # what it says of colours, which a PNG would take over, was said of other pixels
    return image, kind, changes


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def stretched(image: Image.Image) -> Image.Image:
    """8 bits a channel from the darkest (0) to the brightest value (255); what is no number is black.

    Pillow clips deep grey to 255 instead, which turns a 16-bit radiograph white.
    """
    values = np.asarray(image)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    scale = 255 / (high - low) if high > low else 0.0
    shown = np.empty(values.shape, np.uint8)
    for row, line in zip(shown, values, strict=True):  # a whole image in double precision would not fit a child
        row[...] = np.rint((np.where(np.isfinite(line), line, low).astype(np.float64) - low) * scale)
    return Image.fromarray(shown)


def crop(image: Image.Image, box: Box) -> Image.Image:
    """The part inside left, top, right, bottom, clamped to the image and to whole pixels outwards."""
    left, top, right, bottom = box
    edges = (
        max(0, int(np.floor(left))),
        max(0, int(np.floor(top))),
        min(image.width, int(np.ceil(right))),
        min(image.height, int(np.ceil(bottom))),
    )
    if edges[0] >= edges[2] or edges[1] >= edges[3]:
        raise UnreadableImageError("crop_outside_image")
    return image.crop(edges)


def within(image: Image.Image, max_pixels: int) -> Image.Image:
    """The image, made smaller until it has at most `max_pixels`, in its own proportions as far as whole pixels go."""
    width, height = image.size
    if width * height <= max_pixels:
        return image
    scale = (max_pixels / (width * height)) ** 0.5
    smaller = (max(1, int(width * scale)), max(1, int(height * scale)))
    return image.resize(smaller, Image.Resampling.LANCZOS)


def read(path: Path) -> Image.Image:
    """The image in a file, or in a zip's member, as RGB; raises UnreadableImageError."""
    return decode(read_bytes(path))


def size(path: Path) -> tuple[int, int]:
    """Width and height of a sealed image, without decoding it; raises UnreadableImageError."""
    try:
        with Image.open(io.BytesIO(read_bytes(path)), formats=FORMATS) as image:
            return image.size
    except OSError as error:
        raise UnreadableImageError("not_an_image") from error


def read_bytes(path: Path) -> bytes:
    """The bytes of an image's file, or of a member of a zip (`images.zip/1.png`).

    Raises UnreadableImageError when it is no plain file or too large.
    """
    try:
        if archive := next((parent for parent in path.parents if parent.suffix == ".zip" and parent.is_file()), None):
            status = archive.stat()
            return read_member(
                _zip(archive, (status.st_ino, status.st_size, status.st_mtime_ns)), str(path.relative_to(archive))
            )
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImageError("missing_image")
        if status.st_size > MAX_BYTES:
            raise UnreadableImageError("image_file_too_large")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UnreadableImageError("missing_image") from error


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member's bytes, never more than MAX_BYTES, whatever its entry says. Raises UnreadableImageError."""
    try:
        with archive.open(members.info(archive, name)) as member:
            data = member.read(MAX_BYTES + 1)
    except KeyError as error:
        raise UnreadableImageError("missing_image") from error
    except MemoryError:
        raise
    except Exception as error:  # damaged or encrypted: each way of packing has errors of its own
        raise UnreadableImageError("damaged_zip_member") from error
    if len(data) > MAX_BYTES:
        raise UnreadableImageError("image_file_too_large")
    return data


@functools.lru_cache(maxsize=_OPEN_ZIPS)
def _zip(path: Path, state: tuple[int, ...]) -> zipfile.ZipFile:
    """The opened zip; state: what tells this file from another one that took its place."""
    try:
        return zipfile.ZipFile(path)
    except OSError:
        raise
    except Exception as error:  # a damaged directory is not always found to be one
        raise UnreadableImageError("damaged_zip") from error


def blank(image: Image.Image) -> Image.Image:
    """An image of the same size that shows nothing: its mean grey everywhere."""
    grey = round(ImageStat.Stat(image.convert("L")).mean[0])
    return Image.new("RGB", image.size, (grey, grey, grey))


def png(image: Image.Image) -> bytes:
    """The image as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()
