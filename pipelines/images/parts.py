"""An image's bytes -> its format and size, or that it has more parts than are read: one bound for all.

The endpoint refuses what is beyond it; the door seals nothing that is.
"""

import io
import warnings

from PIL import Image

# A progressive JPEG may draw all of itself again in each of a million scans of a few bytes; real ones have about ten.
MAX_JPEG_SCANS = 100
# Each chunk, segment or block before an image's pixels is read by itself, and may be of a few bytes; real images have
# some tens, and with a large colour profile some hundreds.
MAX_READS = 5_000
# Engines read a PNG's chunks behind its pixels too. One of a kilobyte may unpack to a thousand: profiles and texts, of
# which real images have a few.
MAX_PARTS = 20_000
MAX_PACKED_CHUNKS = 16
PNG = b"\x89PNG\r\n\x1a\n"
_PACKED_CHUNKS = (b"iCCP", b"zTXt", b"iTXt")


class TooManyPartsError(ValueError):
    """An image is taken apart no further; the message says what there is too much of."""


class _FewReads(io.BytesIO):
    """Bytes of which only the beginning of an image is read, in a bounded number of steps."""

    _num_reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Called by Pillow."""
        self._num_reads += 1
        if self._num_reads > MAX_READS:
            raise OSError("the image has too many parts")
        return super().read(size)


def header(data: bytes, formats: tuple[str, ...]) -> tuple[str, int, int]:
    """Format, width and height of an image of few enough parts, of which nothing is decoded.

    Raises TooManyPartsError, and for bytes that are no such image whatever Pillow does.
    """
    if data.startswith(PNG):
        _check_png_chunks(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow remarks on damage that it can read past
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
