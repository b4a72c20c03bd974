"""Bytes of the world -> a safe RGB image, or a reason why not: the one door for images."""

import io
import warnings
from pathlib import Path

from PIL import Image, ImageStat, UnidentifiedImageError

MAX_BYTES = 64 << 20
MAX_PIXELS = 64_000_000


class UnreadableImageError(Exception):
    """These bytes give no image; the message is the reason, a few words without the path."""


def decode(data: bytes) -> Image.Image:
    """The first frame as RGB; raises UnreadableImageError for anything that is too large, truncated or no image."""
    if len(data) > MAX_BYTES:
        raise UnreadableImageError("image_file_too_large")
    try:
        with warnings.catch_warnings():
            # Pillow only warns about a decompression bomb of up to twice its limit; ours is a limit.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UnreadableImageError("too_many_pixels")
                return image.convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(
            "not_an_image" if isinstance(error, UnidentifiedImageError) else "too_many_pixels"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UnreadableImageError("damaged_image") from error


def read(path: Path) -> Image.Image:
    """The image in a file as RGB; raises UnreadableImageError."""
    try:
        return decode(path.read_bytes())
    except OSError as error:
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
