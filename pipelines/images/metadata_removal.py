"""The bytes of a PNG or JPEG -> the same without its metadata: only those bytes that its pixels are decoded from.

Images carry names of patients, places, devices, earlier versions, and other files appended to them. Stored images are
sent to teachers and endpoints, so only parts that are known to be needed are kept. Where any byte is not understood,
the file is given up here, and the caller encodes its pixels anew.
"""

import re
import struct
import zlib
from collections.abc import Iterator

from pipelines.images.parts import MAX_PARTS, PNG, header

_MAX_BYTES_PER_PIXEL, _EXTRA_BYTES = 4, 1 << 16  # a larger file is encoded anew; request bodies have a limit
_BLOCK = 1 << 16
_CHANNELS = {0: 1, 2: 3}  # by the colour type of a PNG that can be kept: grey, RGB
_ONE_PASS = ((0, 0, 1, 1),)  # first column and row of a pass, and the steps to the next ones
_ADAM_7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_START, _END, _SCAN, _APP_0, _APP_14, _APP_15, _COMMENT = 0xD8, 0xD9, 0xDA, 0xE0, 0xEE, 0xEF, 0xFE
_NEEDED = frozenset({*range(0xC0, 0xD0), _SCAN, 0xDB, 0xDD}) - {0xC8}  # frames, tables, scans
_MARKER = re.compile(rb"\xff++([\x01-\xfe])", re.DOTALL)
_SCAN_ENDS = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)  # a marker; not a stuffed byte or a restart
_JFIF_BYTES, _ADOBE_BYTES = 14, 12  # of the two application segments that say how colours are stored


class _NotUnderstoodError(ValueError):
    """A file has a part that is not understood."""


def without_metadata(data: bytes) -> bytes | None:
    """The image without everything that its pixels do not need; the same bytes where there is nothing else.

    data: a PNG or JPEG of one upright frame, in grey or RGB of at most 8 bits. Returns None where the pixels have to be
    encoded anew, because some bytes are not understood, or there are more parts or bytes than the endpoint accepts.
    """
    try:
        bare = b"".join(_png_parts(data) if data.startswith(PNG) else _jpeg_parts(data))
        _, width, height = header(bare, ("PNG", "JPEG"))
    except (OSError, ValueError, struct.error, zlib.error):
        return None
    return bare if len(bare) <= _MAX_BYTES_PER_PIXEL * width * height + _EXTRA_BYTES else None


def _png_parts(data: bytes) -> Iterator[bytes | memoryview]:
    chunks = [(kind, body, whole) for kind, body, whole in png_chunks(data) if kind in {b"IHDR", b"IDAT", b"IEND"}]
    if [kind for kind, *_ in chunks if kind != b"IDAT"] != [b"IHDR", b"IEND"] or chunks[0][0] != b"IHDR":
        raise _NotUnderstoodError("chunks are missing, doubled or out of place")
    _check_pixels(chunks[0][1], [body for kind, body, _ in chunks if kind == b"IDAT"])
    yield PNG
    for _, _, whole in chunks:
        yield whole


def png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Yield each chunk up to IEND: its kind, its body, and the whole chunk."""
    view, place = memoryview(data), len(PNG)
    for _ in range(MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, place)
        whole = view[place : place + 12 + length]
        is_critical = kind[0] & 0x20 == 0
        if len(whole) < 12 + length or (is_critical and kind not in {b"IHDR", b"PLTE", b"IDAT", b"IEND"}):
            raise _NotUnderstoodError("a chunk is cut off or unknown")
        if is_critical and zlib.crc32(whole[4:-4]) != int.from_bytes(whole[-4:]):
            raise _NotUnderstoodError("a checksum is wrong")
        yield kind, whole[8:-4], whole
        if kind == b"IEND":
            if length:
                raise _NotUnderstoodError("the end has content")
            return
        place += len(whole)
    raise _NotUnderstoodError("too many chunks")


def _check_pixels(about: memoryview, packed: list[memoryview]) -> None:
    """Raise _NotUnderstoodError unless the compressed data is exactly the rows that the header describes.

    about: body of IHDR. packed: bodies of IDAT.
    """
    width, height, depth, colour, *methods, interlace = struct.unpack(">IIBBBBB", about)
    if colour not in _CHANNELS or methods != [0, 0] or interlace > 1:
        raise _NotUnderstoodError("a header of another kind")
    left, unpacker = 0, zlib.decompressobj()
    for x, y, step_x, step_y in _ADAM_7 if interlace else _ONE_PASS:
        across, down = -((x - width) // step_x), -((y - height) // step_y)
        if across > 0 and down > 0:
            left += down * (1 - (-across * depth * _CHANNELS[colour] // 8))
    for body in packed:
        for start in range(0, len(body), _BLOCK):
            if unpacker.eof:
                raise _NotUnderstoodError("there is data behind the pixels")
            left -= len(unpacker.decompress(body[start : start + _BLOCK], left + 1))
            if left < 0 or unpacker.unconsumed_tail or unpacker.unused_data:
                raise _NotUnderstoodError("there is data behind the pixels")
    if left or not unpacker.eof:
        raise _NotUnderstoodError("pixels are missing")


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    place = 0
    for number in range(MAX_PARTS):
        marker = _MARKER.match(data, place)
        if marker is None or (marker[1][0] == _START) != (number == 0):
            raise _NotUnderstoodError("there is data between the segments")
        code, place = marker[1][0], marker.end()
        if code in {_START, _END}:
            yield bytes((0xFF, code))
            if code == _END:
                return
            continue
        (length,) = struct.unpack_from(">H", data, place)
        body = data[place + 2 : place + length]
        if len(body) != length - 2:
            raise _NotUnderstoodError("a segment is cut off")
        place += length
        yield _segment(code, body)
        if code == _SCAN:
            scan_ends = _SCAN_ENDS.search(data, place)
            if scan_ends is None:
                raise _NotUnderstoodError("the image has no end")
            yield data[place : scan_ends.start()]
            place = scan_ends.start()
    raise _NotUnderstoodError("too many segments")


def _segment(code: int, body: bytes) -> bytes:
    """A JPEG's segment as it is kept; empty where it is not needed."""
    if code == _APP_0 and len(body) >= _JFIF_BYTES and body.startswith(b"JFIF\0"):
        body = body[: _JFIF_BYTES - 2] + bytes(2)  # no thumbnail
    elif code == _APP_14 and len(body) >= _ADOBE_BYTES and body.startswith(b"Adobe"):
        body = body[:_ADOBE_BYTES]
    elif _APP_0 <= code <= _APP_15 or code == _COMMENT:
        return b""
    elif code not in _NEEDED:
        raise _NotUnderstoodError("an unknown segment")
    return struct.pack(">BBH", 0xFF, code, len(body) + 2) + body
