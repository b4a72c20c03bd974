"""An image's URL -> the URL that an engine may see, or the refusal. Only the header is decoded: size is known before
memory is taken for it."""

import binascii
import io
import re
import warnings
from http import HTTPStatus
from urllib.parse import urlsplit

from PIL import Image

from pipelines.images import MAX_ASPECT
from serve.api.errors import Refused

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
# A progressive JPEG may draw all of itself again in each of a million scans of a few bytes; real ones have about ten.
_MAX_JPEG_SCANS = 100
# Each chunk, segment or block before an image's pixels is read by itself, and may be of a few bytes; real images have
# some tens, and with a large colour profile some hundreds.
_MAX_READS = 5_000
# Engines read a PNG's chunks behind its pixels too. One of a kilobyte may unpack to a thousand: profiles and texts, of
# which real images have a few.
_MAX_PNG_CHUNKS = 20_000
_PACKED_CHUNKS = (b"iCCP", b"zTXt", b"iTXt")
_MAX_PACKED_CHUNKS = 16
_PNG = b"\x89PNG\r\n\x1a\n"
_DATA_URL = re.compile(r"data:image/[\w.+-]{1,40};base64", re.ASCII | re.IGNORECASE)
# Parsers disagree on backslashes, on blanks and on who stands before an @: the engine's could see another host.
_PLAIN_ADDRESS = re.compile(r"https?://[^@/?#]*([/?#].*)?", re.IGNORECASE)
_PLAIN_CHARACTERS = re.compile(r"[!-\[\]-~]+")
_SHOWN_CHARACTERS = 80


def checked_url(url: str, max_pixels: int, domains: tuple[str, ...]) -> str:
    """The URL as an engine gets it: a data URL with a checked image, or an address on one of the listed hosts.

    Raises Refused.
    """
    if url[:5].lower() == "data:":
        return _checked_data_url(url, max_pixels)
    _check_address(url, domains)
    return url


class _FewReads(io.BytesIO):
    """Bytes of which only the beginning of an image is read, in a bounded number of steps."""

    _num_reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Called by Pillow."""
        self._num_reads += 1
        if self._num_reads > _MAX_READS:
            raise OSError("the image has too many parts")
        return super().read(size)


def _checked_data_url(url: str, max_pixels: int) -> str:
    kind, comma, payload = url.partition(",")
    if not comma or not _DATA_URL.fullmatch(kind):
        raise _refused("An image's data URL reads data:image/png;base64,... (or jpeg, webp, gif).")
    try:
        data = binascii.a2b_base64(payload, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise _refused("An image's data URL holds no valid base64.") from error
    return f"data:image/{_check_image(data, max_pixels).lower()};base64,{payload}"


def _check_image(data: bytes, max_pixels: int) -> str:
    """The format of an image that may be decoded; raises Refused for anything else."""
    if data.startswith(_PNG):
        _check_png_chunks(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow remarks on damage that it can read past
            with Image.open(_FewReads(data), formats=FORMATS) as image:
                (width, height), kind = image.size, str(image.format)
    except Exception as error:
        raise _refused(f"An image cannot be read; {', '.join(FORMATS)} are taken.") from error
    if width * height > max_pixels:
        raise _refused(
            f"An image has {width} x {height} pixels; at most {max_pixels} are taken. Send it smaller: "
            "models are shown less than that anyway."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise _refused(f"An image has {width} x {height} pixels: one side is over {MAX_ASPECT} times the other.")
    if kind == "JPEG" and data.count(b"\xff\xda") > _MAX_JPEG_SCANS:
        raise _refused(f"A JPEG has more than {_MAX_JPEG_SCANS} scans.")
    return "jpeg" if kind == "MPO" else kind


def _check_png_chunks(data: bytes) -> None:
    num_chunks = num_packed = 0
    offset, kind = len(_PNG), b""
    while offset < len(data) and kind != b"IEND":
        kind = data[offset + 4 : offset + 8]
        num_chunks += 1
        num_packed += kind in _PACKED_CHUNKS
        if num_chunks > _MAX_PNG_CHUNKS or num_packed > _MAX_PACKED_CHUNKS:
            raise _refused(
                f"A PNG has more than {_MAX_PNG_CHUNKS} chunks, or more than {_MAX_PACKED_CHUNKS} profiles and packed "
                "texts."
            )
        offset += 12 + int.from_bytes(data[offset : offset + 4])


def _check_address(url: str, domains: tuple[str, ...]) -> None:
    try:
        address = urlsplit(url)
        host = address.hostname or ""
    except ValueError as error:
        raise _refused("An image's URL cannot be read.") from error
    is_plain = _PLAIN_CHARACTERS.fullmatch(url) and _PLAIN_ADDRESS.fullmatch(url)
    if not is_plain or host not in domains:
        allowed = f" or from {', '.join(domains)}" if domains else ""
        raise _refused(
            f"Images come as data: URLs{allowed}; nothing is fetched from {host[:_SHOWN_CHARACTERS] or 'elsewhere'!r}. "
            "The endpoint's owner lists further hosts with --set 'deploy.image_domains=[\"HOST\"]'"
        )


def _refused(message: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, message)
