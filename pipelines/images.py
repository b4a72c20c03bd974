"""Bytes of the world -> a safe RGB image, or a reason why not: the one door for images."""

import io
import stat
from pathlib import Path

from PIL import Image, ImageStat, UnidentifiedImageError

MAX_BYTES = 64 << 20
MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")  # Pillow knows more, one of which runs a program
_DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})

Image.MAX_IMAGE_PIXELS = None  # our own limit, which is lower and an error, stands in the place of Pillow's warning


class UnreadableImageError(Exception):
    """These bytes give no image; the message is the reason, a few words without the path."""


def decode(data: bytes) -> Image.Image:
    """The first frame as RGB, 8 bits a channel; what has more is scaled from its darkest to its brightest value.

    Raises UnreadableImageError for anything that is too large, truncated or no image.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImageError("too_many_pixels")
            return _eight_bits(image).convert("RGB")
    except UnidentifiedImageError as error:
        raise UnreadableImageError("not_an_image") from error
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError) as error:
        raise UnreadableImageError("damaged_image") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    # Pillow clips deep grey to 255, which turns a 16-bit radiograph white.
    if image.mode not in _DEEP_MODES:
        return image
    deep = image.convert("F")
    low, high = (float(end) for end in deep.getextrema())  # type: ignore[arg-type]  # two numbers for one channel
    scale = 255 / (high - low) if high > low else 0.0
    return deep.point(lambda value: value * scale - low * scale).convert("L")


def read(path: Path) -> Image.Image:
    """The image in a file as RGB; raises UnreadableImageError."""
    return decode(read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """The bytes of an image's file; raises UnreadableImageError when it is no plain file or too large."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImageError("missing_image")
        if status.st_size > MAX_BYTES:
            raise UnreadableImageError("image_file_too_large")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UnreadableImageError("missing_image") from error


def suffix(data: bytes) -> str:
    """The file name's ending that fits readable image bytes, whatever the file was called, for example `.png`."""
    with Image.open(io.BytesIO(data)) as image:
        return f".{(image.format or 'image').lower()}"


def blank(image: Image.Image) -> Image.Image:
    """An image of the same size that shows nothing: its mean grey everywhere."""
    grey = round(ImageStat.Stat(image.convert("L")).mean[0])
    return Image.new("RGB", image.size, (grey, grey, grey))


def png(image: Image.Image) -> bytes:
    """The image as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
