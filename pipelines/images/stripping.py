"""The bytes of a PNG or JPEG -> those that its pixels are decoded from, and nothing else.

Images come with the names of patients, places, devices, earlier versions, and with files behind their end. None of it
is needed, and what is stored is sent to others. So what is known to be needed is kept; a file of which any byte is not
understood is given up here, and its pixels are stored anew.
"""

import re
import struct
import zlib
from collections.abc import Iterator

from pipelines.images.parts import MAX_PARTS, PNG, header

_BYTES_PER_PIXEL, _SOME_BYTES = 4, 1 << 16  # more than these no pixels need, and bodies of requests have a limit
_BLOCK = 1 << 16
_CHANNELS = {0: 1, 2: 3}  # by the colour type of a PNG whose pixels can stay as they are: grey, colour
_WHOLE = ((0, 0, 1, 1),)
_INTERLACED = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_START, _END, _SCAN, _APP_0, _APP_14, _APP_15, _COMMENT = 0xD8, 0xD9, 0xDA, 0xE0, 0xEE, 0xEF, 0xFE
_NEEDED = frozenset({*range(0xC0, 0xD0), _SCAN, 0xDB, 0xDD}) - {0xC8}  # frames, tables, scans
_MARKER = re.compile(rb"\xff++([\x01-\xfe])", re.DOTALL)
_SCAN_ENDS = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)  # neither a byte of it nor where it starts again
_JFIF_BYTES, _ADOBE_BYTES = 14, 12  # of the segments that say how colours are stored


class _UnclearError(ValueError):
    """A file has a part that is not understood."""


def stripped(data: bytes) -> bytes | None:
    """The image without what is not decoded into its pixels; the same bytes where there is nothing else.

    data: a PNG or JPEG that shows one frame, upright, in grey or RGB of at most 8 bits. None where its pixels have to
    be stored anew: bytes that are not understood, or more parts or bytes than the endpoint takes.
    """
    try:
        bare = b"".join(_png_parts(data) if data.startswith(PNG) else _jpeg_parts(data))
        _, width, height = header(bare, ("PNG", "JPEG"))
    except (OSError, ValueError, struct.error, zlib.error):
        return None
    return bare if len(bare) <= _BYTES_PER_PIXEL * width * height + _SOME_BYTES else None


def _png_parts(data: bytes) -> Iterator[bytes | memoryview]:
    chunks = [(kind, body, whole) for kind, body, whole in _png_chunks(data) if kind in {b"IHDR", b"IDAT", b"IEND"}]
    if [kind for kind, *_ in chunks if kind != b"IDAT"] != [b"IHDR", b"IEND"] or chunks[0][0] != b"IHDR":
        raise _UnclearError("chunks are missing, doubled or out of place")
    _check_pixels(chunks[0][1], [body for kind, body, _ in chunks if kind == b"IDAT"])
    yield PNG
    for _, _, whole in chunks:
        yield whole


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """The kind of each chunk up to the end of the image, what it holds, and all of it."""
    view, place = memoryview(data), len(PNG)
    for _ in range(MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, place)
        whole = view[place : place + 12 + length]
        is_critical = kind[0] & 0x20 == 0
        if len(whole) < 12 + length or (is_critical and kind not in {b"IHDR", b"PLTE", b"IDAT", b"IEND"}):
            raise _UnclearError("a chunk is cut off or unknown")
        if is_critical and zlib.crc32(whole[4:-4]) != int.from_bytes(whole[-4:]):
            raise _UnclearError("a checksum is wrong")
        yield kind, whole[8:-4], whole
        if kind == b"IEND":
            if length:
                raise _UnclearError("the end has content")
            return
        place += len(whole)
    raise _UnclearError("too many chunks")


def _check_pixels(about: memoryview, packed: list[memoryview]) -> None:
    """That what is packed is the rows that the header speaks of, with nothing behind them, packed or not."""
    width, height, depth, colour, *methods, interlace = struct.unpack(">IIBBBBB", about)
    if colour not in _CHANNELS or methods != [0, 0] or interlace > 1:
        raise _UnclearError("a header of another kind")
    left, unpacker = 0, zlib.decompressobj()
    for x, y, step_x, step_y in _INTERLACED if interlace else _WHOLE:
        across, down = -((x - width) // step_x), -((y - height) // step_y)
        if across > 0 and down > 0:
            left += down * (1 - (-across * depth * _CHANNELS[colour] // 8))
    for body in packed:
        for start in range(0, len(body), _BLOCK):
            if unpacker.eof:
                raise _UnclearError("something is behind the pixels")
            left -= len(unpacker.decompress(body[start : start + _BLOCK], left + 1))
            if left < 0 or unpacker.unconsumed_tail or unpacker.unused_data:
                raise _UnclearError("something is behind the pixels")
    if left or not unpacker.eof:
        raise _UnclearError("pixels are missing")


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    place = 0
    for number in range(MAX_PARTS):
        marker = _MARKER.match(data, place)
        if marker is None or (marker[1][0] == _START) != (number == 0):
            raise _UnclearError("something is between the segments")
        code, place = marker[1][0], marker.end()
        if code in {_START, _END}:
            yield bytes((0xFF, code))
            if code == _END:
                return
            continue
        (length,) = struct.unpack_from(">H", data, place)
        body = data[place + 2 : place + length]
        if len(body) != length - 2:
            raise _UnclearError("a segment is cut off")
        place += length
        yield _segment(code, body)
        if code == _SCAN:
            scan_ends = _SCAN_ENDS.search(data, place)
            if scan_ends is None:
                raise _UnclearError("the image has no end")
            yield data[place : scan_ends.start()]
            place = scan_ends.start()
    raise _UnclearError("too many segments")


def _segment(code: int, body: bytes) -> bytes:
    """A segment of a JPEG as it is kept; empty where it is not needed."""
    if code == _APP_0 and len(body) >= _JFIF_BYTES and body.startswith(b"JFIF\0"):
        body = body[: _JFIF_BYTES - 2] + bytes(2)  # no thumbnail
    elif code == _APP_14 and len(body) >= _ADOBE_BYTES and body.startswith(b"Adobe"):
        body = body[:_ADOBE_BYTES]
    elif _APP_0 <= code <= _APP_15 or code == _COMMENT:
        return b""
    elif code not in _NEEDED:
        raise _UnclearError("an unknown segment")
    return struct.pack(">BBH", 0xFF, code, len(body) + 2) + body
