"""An image's bytes -> its format and size, or an error where it has more parts than are ever read.

The endpoint refuses an image beyond these limits, and the image sandbox seals none.
"""

import io
import warnings

from PIL import Image

# A progressive JPEG may have a million scans of a few bytes, each of which redraws all of it; real ones have about ten.
MAX_JPEG_SCANS = 100
# Each chunk, segment or block before the pixels costs a read, however few bytes it has; real images have some tens of
# them, and some hundreds with a large colour profile.
MAX_READS = 5_000
# Engines read a PNG's chunks behind its pixels too. A packed one (profile or text) of a kilobyte may unpack to a
# megabyte; real images have a few.
MAX_PARTS = 20_000
MAX_PACKED_CHUNKS = 16
PNG = b"\x89PNG\r\n\x1a\n"
_PACKED_CHUNKS = (b"iCCP", b"zTXt", b"iTXt")


class TooManyPartsError(ValueError):
    """An image has too many parts; the message says of what."""


class _FewReads(io.BytesIO):
    """A stream from which an image's header is read in a bounded number of steps."""

    _num_reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Called by Pillow."""
        self._num_reads += 1
        if self._num_reads > MAX_READS:
            raise OSError("the image has too many parts")
        return super().read(size)


def header(data: bytes, formats: tuple[str, ...]) -> tuple[str, int, int]:
    """Format, width and height (pixels) of an image; its pixels are not decoded.

    Raises TooManyPartsError, and for bytes that are no image of these formats whatever Pillow raises.
    """
    if data.startswith(PNG):
        _check_png_chunks(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damage that it can read past
        with Image.open(_FewReads(data), formats=formats) as image:
            (width, height), kind = image.size, "JPEG" if image.format == "MPO" else str(image.format)
    if kind == "JPEG" and data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise TooManyPartsError(f"A JPEG has more than {MAX_JPEG_SCANS} scans.")
    return kind, width, height


def _check_png_chunks(data: bytes) -> None:
    num_chunks = num_packed = 0
    offset, kind = len(PNG), b""
    while offset < len(data) and kind != b"IEND":
        kind = data[offset + 4 : offset + 8]
        num_chunks += 1
        num_packed += kind in _PACKED_CHUNKS
        if num_chunks > MAX_PARTS or num_packed > MAX_PACKED_CHUNKS:
            raise TooManyPartsError(
                f"A PNG has more than {MAX_PARTS} chunks, or more than {MAX_PACKED_CHUNKS} profiles and packed texts."
            )
        offset += 12 + int.from_bytes(data[offset : offset + 4])
