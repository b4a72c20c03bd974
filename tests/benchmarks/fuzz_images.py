"""Mutated files of every accepted format through the image sandbox: any outcome but an image or a known reason is a
fault.

`python -m tests.benchmarks.fuzz_images [--files N]` (`make fuzz-images`): N files of each format, 10,000 by default.
Prints what became of them, keeps those that crashed, hung or gorged their child in build/fuzz, and exits non-zero at a
fault.
"""

import argparse
import dataclasses
import io
import itertools
import random
import re
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from pipelines.images import decoding
from pipelines.images.sandbox import Decode, ImageSandbox, Request, decode_request
from pipelines.questions.ingest import batched
from pipelines.questions.set_aside_reasons import MEANING
from pipelines.records import StoredImage

NUM_FILES = 10_000
MAX_PIXELS = 1 << 16
KEPT = Path(__file__).parents[2] / "build/fuzz"
_SIZE = (30, 20)
_BATCH = 256
_HUGE = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
_REMARKABLE = frozenset({"crashes_the_decoder", "takes_too_long", "needs_too_much_memory"})
_TIFF_OF_RGB = (
    "raw",
    "tiff_lzw",
    "tiff_deflate",
    "tiff_adobe_deflate",
    "packbits",
    "jpeg",
    "tiff_jpeg",
    "lzma",
    "zstd",
)
_TIFF_OF_BITS = ("tiff_ccitt", "group3", "group4", "tiff_raw_16", "packbits")
# What stands before the numbers that a format's readers trust.
_ANCHORS = {
    "PNG": rb".{4}(IHDR|PLTE|tRNS|IDAT|acTL|fcTL|fdAT|eXIf|pHYs|IEND)",
    "JPEG": rb"\xff[\xc0-\xfe]",
    "TIFF": rb"[\x00-\xff][\x01\x02\x87][\x01-\x0d]\x00",
    "BMP": rb"^BM|(?<=^BM.{16})",
    "GIF": rb"GIF8|[\x21\x2c]",
    "WEBP": rb"RIFF|VP8[ LX]|ALPH|ANIM|ANMF|EXIF",
}


def seeds(kind: str) -> list[bytes]:
    """Sound files of a format, of 30 x 20 pixels, in its modes and compressions."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (*_SIZE[::-1], 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, _SIZE[::-1], dtype=np.uint16))
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    grey, palette, bits, clear = rgb.convert("L"), rgb.convert("P"), rgb.convert("1"), rgb.convert("RGBA")
    plain = [(image, {}) for image in (rgb, grey, palette, bits)]
    match kind:
        case "PNG":
            others = [(clear, {}), (grey.convert("LA"), {}), (deep, {}), (palette, {"transparency": 3}), (rgb, frames)]
            made = [*plain, *others, (grey.quantize(4), {"bits": 2}), (rgb, {"exif": exif})]
            return [*_saved(kind, made), interlaced(grey), _deep_rgb(deep)]
        case "JPEG":
            others = [(rgb, {"progressive": True}), (rgb, {"subsampling": 0, "restart_marker_blocks": 1})]
            cmyk = rgb.convert("CMYK")
            made = [(rgb, {}), (grey, {}), *others, (cmyk, {}), (cmyk, {"progressive": True}), (rgb, {"exif": exif})]
            return [*_saved(kind, made), *_saved("MPO", [(rgb, frames)])]
        case "TIFF":
            compressed = [(rgb, name) for name in _TIFF_OF_RGB] + [(bits, name) for name in _TIFF_OF_BITS]
            made = [*plain, *((image, {"compression": name}) for image, name in compressed)]
            modes = [(deep, {}), (deep, {"compression": "tiff_lzw"}), (rgb.convert("CMYK"), {}), (clear, {})]
            others = [
                (grey.convert("F"), {}),
                (grey.convert("I"), {}),
                (rgb, {"big_tiff": True}),
                (rgb, {"exif": exif}),
            ]
            return [*_saved(kind, [*made, *modes, *others, (rgb, frames)]), _tiled(grey, 1), _tiled(grey, 8)]
        case "BMP":
            return [*_saved(kind, [*plain, (clear, {})]), _run_length_bmp(8), _run_length_bmp(4)]
        case "GIF":
            return _saved(kind, [*plain, (palette, {"interlace": 0}), (palette, {"transparency": 3}), (rgb, frames)])
        case _:
            lossless = {"lossless": True}
            made = [(rgb, {}), (rgb, lossless), (clear, {}), (clear, lossless), (rgb, frames), (rgb, {"exif": exif})]
            return _saved(kind, [*made, (rgb, frames | lossless)])


def _saved(kind: str, made: list[tuple[Image.Image, dict[str, object]]]) -> list[bytes]:
    files = []
    for image, options in made:
        buffer = io.BytesIO()
        image.save(buffer, format=kind, **options)
        files.append(buffer.getvalue())
    return files


def png_chunk(name: bytes, body: bytes) -> bytes:
    """A PNG's chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(size: tuple[int, int], depth: int, colour: int, interlace: int, rows: bytes) -> bytes:
    """A PNG of any header, of the kinds that Pillow reads and does not write."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlace)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def interlaced(grey: Image.Image) -> bytes:
    adam7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    pixels = np.asarray(grey)
    parts = [pixels[y::step_y, x::step_x] for x, y, step_x, step_y in adam7]
    rows = (b"\0" + row.tobytes() for part in parts if part.size for row in part)
    return png(grey.size, 8, 0, 1, b"".join(rows))


def _deep_rgb(deep: Image.Image) -> bytes:
    pixels = np.repeat(np.asarray(deep)[..., None], 3, axis=2).astype(">u2")
    return png(deep.size, 16, 2, 0, b"".join(b"\0" + row.tobytes() for row in pixels))


def _tiled(grey: Image.Image, compression: int) -> bytes:
    """A TIFF of four tiles."""
    tiles = [grey.crop((x, y, x + 16, y + 16)).tobytes() for y in (0, 16) for x in (0, 16)]
    if compression != 1:
        tiles = [zlib.compress(tile) for tile in tiles]
    starts = [8, *itertools.accumulate(map(len, tiles), initial=8)][1:]
    end = starts.pop()
    tags = {256: grey.width, 257: grey.height, 258: 8, 259: compression, 262: 1, 277: 1, 322: 16, 323: 16}
    entries = [struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items()]
    entries += [struct.pack("<HHII", 324, 4, 4, end), struct.pack("<HHII", 325, 4, 4, end + 16)]
    numbers = struct.pack("<8I", *starts, *map(len, tiles))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", end + len(numbers)) + b"".join(tiles) + numbers + directory


def _run_length_bmp(depth: int) -> bytes:
    width, height = _SIZE
    palette = b"".join(bytes((n, n, n, 0)) for n in range(1 << depth))
    literal = bytes((0, 4, 1, 2, 3, 4)) if depth == 8 else bytes((0, 4, 0x12, 0x34))
    row = literal + bytes((width - 4, 5, 0, 0))
    body = row * height + b"\0\1"
    start = 54 + len(palette)
    header = struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start)
    about = struct.pack("<IiiHHIIiiII", 40, width, height, 1, depth, 1 if depth == 8 else 2, len(body), 0, 0, 0, 0)
    return header + about + palette + body


def mutated(whole: bytes, kind: str, others: list[bytes], rng: random.Random) -> bytes:
    """One damage, or several: bytes changed, numbers made huge, parts cut, doubled, moved or taken from other files;
    half of them where the format keeps its numbers."""
    data = bytearray(whole)
    anchors = [found.end() - 2 for found in re.finditer(_ANCHORS[kind], whole, re.DOTALL)]
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        place, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 16, 64))
        if rng.random() < 0.5 and anchors:
            place = min(len(data), rng.choice(anchors) + rng.randrange(28))
        match rng.randrange(8):
            case 0:
                data[place : place + length] = rng.randbytes(length)
            case 1:
                data[place : place + 1] = bytes((rng.randrange(256),))
            case 2 | 3:
                size, order = rng.choice((1, 2, 4)), rng.choice(("big", "little"))
                data[place : place + size] = (rng.choice(_HUGE) % (1 << 8 * size)).to_bytes(size, order)
            case 4:
                del data[place : place + length]
            case 5:
                data[place:place] = data[place : place + length] * rng.choice((1, 50))
            case 6:
                other = rng.choice(others)
                start = rng.randrange(len(other))
                data[place : place + length] = other[start : start + length]
            case _:
                data[place:] = rng.choice((b"", data[place:] + rng.randbytes(length)))
    return with_right_checksums(data) if kind == "PNG" and rng.random() < 0.75 else bytes(data)


def with_right_checksums(data: bytearray) -> bytes:
    """A damaged PNG with the checksum of each of its chunks put right, so that the damage is not found by it."""
    place = 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(data)


@dataclasses.dataclass
class Findings:
    """What became of a format's mutated files: outcomes, `image` among them; faults, in words; the longest wait for an
    outcome; and the most memory that a child held."""

    kind: str
    outcomes: Counter[str] = dataclasses.field(default_factory=Counter)
    faults: list[str] = dataclasses.field(default_factory=list)
    slowest_ms: float = 0.0
    peak_mib: int = 0
    seconds: float = 0.0


def fuzz(kind: str, num_files: int, folder: Path, kept: Path, decode: Decode = decode_request) -> Findings:
    """Decode mutated files of a format in a sandbox of their own.

    num_files: how many. folder: to work in. kept: where remarkable files are left. decode: what a child does.
    """
    findings, rng, originals = Findings(kind), random.Random(kind), seeds(kind)
    started = time.monotonic()
    with ImageSandbox(max_pixels=MAX_PIXELS, workers=2, decode=decode) as sandbox:
        for batch in batched(_written(kind, originals, num_files, rng, folder), _BATCH):
            _pass(sandbox, batch, folder, kept, findings)
            findings.peak_mib = max(findings.peak_mib, *map(_peak_mib, of_forkserver()))
    findings.faults += [f"left behind: process {child.pid}" for child in of_forkserver()]
    findings.seconds = time.monotonic() - started
    return findings


def _written(kind: str, originals: list[bytes], num_files: int, rng: random.Random, folder: Path) -> Iterator[Request]:
    for number in range(num_files):
        path = folder / f"{number % _BATCH}.bin"
        path.write_bytes(mutated(rng.choice(originals), kind, originals, rng))
        yield Request(str(path), path.name, rng.choice(("", "", "1,1,9,9.5")), rng.random() < 0.5)


def _pass(sandbox: ImageSandbox, batch: list[Request], folder: Path, kept: Path, findings: Findings) -> None:
    outcomes, last = [], time.monotonic()
    for each in sandbox.store(batch, Path("stored.zip"), folder):
        outcomes.append(each)
        findings.slowest_ms = max(findings.slowest_ms, (time.monotonic() - last) * 1000)
        last = time.monotonic()
    with zipfile.ZipFile(folder / "stored.zip") as archive:
        for request, each in zip(batch, outcomes, strict=True):
            reason = each if isinstance(each, str) else "image"
            fault = _fault(each, archive)
            findings.outcomes[reason] += 1
            findings.faults += [fault] if fault else []
            if fault or reason in _REMARKABLE:
                kept.mkdir(parents=True, exist_ok=True)
                name = f"{findings.kind}-{findings.outcomes.total()}-{reason}.bin"
                (kept / name).write_bytes(Path(request.location).read_bytes())


def _fault(outcome: StoredImage | str, archive: zipfile.ZipFile) -> str:
    """What is wrong with an outcome; empty where it is a known reason, or an image that can be read again."""
    if isinstance(outcome, str):
        return "" if outcome in MEANING else f"unknown outcome {outcome!r}"
    try:
        image = decoding.decode(archive.read(outcome.path.rpartition("/")[2]))
    except decoding.UnreadableImageError as error:
        return f"a stored image cannot be read: {error}"
    sound = image.size == (outcome.width, outcome.height) and image.width * image.height <= MAX_PIXELS
    return "" if sound else f"a stored image is {image.size}, not {outcome.width} x {outcome.height}"


def of_forkserver() -> list[psutil.Process]:
    """The children of all sandboxes of this process, whose parent is the server that forks them."""
    server = forkserver._forkserver._forkserver_pid
    return psutil.Process(server).children() if server else []


def _peak_mib(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def main(num_files: int) -> None:
    """Fuzz every format and print a line for each."""
    everything = []
    for kind in decoding.FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            found = fuzz(kind, num_files, Path(folder), KEPT)
        everything.append(found)
        print(f"{kind}: {found.outcomes.total()} files in {found.seconds:.0f} s", flush=True)
    reasons = sorted(set().union(*(found.outcomes for found in everything)) - {"image"})
    columns = ["format", "files", "image", *reasons, "slowest_ms", "peak_mib"]
    print("\n" + "  ".join(columns))
    for found in everything:
        counts = [found.outcomes.total(), found.outcomes["image"], *(found.outcomes[reason] for reason in reasons)]
        row = [found.kind, *counts, round(found.slowest_ms), found.peak_mib]
        print("  ".join(f"{value:>{len(name)}}" for name, value in zip(columns, row, strict=True)))
    if faults := [f"{found.kind}: {fault}" for found in everything for fault in found.faults]:
        sys.exit("\n".join(["faults:", *faults]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.fuzz_images", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--files", type=int, default=NUM_FILES, help="of each format")
    main(parser.parse_args().files)
