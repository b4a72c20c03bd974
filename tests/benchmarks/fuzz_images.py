"""Mutated files of every accepted format through the door: what is neither an image nor a known reason is a fault.

`python -m tests.benchmarks.fuzz_images [FILES]` (`make fuzz-images`): so many files of each format, 10,000 by default.
Prints what became of them, and exits non-zero at a fault.
"""

import io
import random
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from pipelines.door import Door, Request
from pipelines.sources.intake import portions
from pipelines.sources.reasons import MEANING

NUM_FILES = 10_000
_TIFF = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4")
_PORTION = 256
_HUGE = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def seeds(kind: str) -> list[bytes]:
    """Sound files of a format, in its modes and compressions."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (20, 30), dtype=np.uint16))
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = {"exif": exif}
    grey, palette, bilevel, clear = rgb.convert("L"), rgb.convert("P"), rgb.convert("1"), rgb.convert("RGBA")
    made: dict[str, list[tuple[Image.Image, dict[str, object]]]] = {
        "PNG": [*((image, {}) for image in (rgb, grey, palette, bilevel, clear, deep)), (rgb, frames), (rgb, turned)],
        "JPEG": [(rgb, {}), (grey, {}), (rgb.convert("CMYK"), {}), (rgb, {"progressive": True}), (rgb, turned)],
        "TIFF": [
            *((bilevel if name == "group4" else rgb, {"compression": name}) for name in _TIFF),
            *((image, {}) for image in (deep, grey.convert("F"), palette, rgb.convert("CMYK"))),
            (rgb, frames),
        ],
        "BMP": [(rgb, {}), (grey, {}), (palette, {}), (bilevel, {}), (clear, {})],
        "GIF": [(palette, {}), (grey, {}), (rgb, frames)],
        "WEBP": [(rgb, {}), (rgb, {"lossless": True}), (clear, {}), (rgb, frames), (rgb, turned)],
    }
    files = []
    for image, options in made[kind]:
        buffer = io.BytesIO()
        image.save(buffer, format=kind, **options)
        files.append(buffer.getvalue())
    if kind == "JPEG":
        buffer = io.BytesIO()
        rgb.save(buffer, format="MPO", **frames)
        files.append(buffer.getvalue())
    return files


def mutated(whole: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One damage, or several: bytes changed, numbers made huge, parts cut, doubled, moved or taken from other files."""
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        place, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 16, 64))
        damage = rng.randrange(7)
        if damage == 0:
            data[place : place + length] = rng.randbytes(length)
        elif damage == 1 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif damage == 2:
            size, order = rng.choice((1, 2, 4)), rng.choice(("big", "little"))
            data[place : place + size] = (rng.choice(_HUGE) % (1 << 8 * size)).to_bytes(size, order)
        elif damage == 3:
            del data[place : place + length]
        elif damage == 4:
            data[place:place] = data[place : place + length] * rng.choice((1, 50))
        elif damage == 5:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            data[place : place + length] = other[start : start + length]
        else:
            del data[place:]
    return bytes(data)


def with_right_checksums(data: bytes) -> bytes:
    """A damaged PNG with the checksum of each of its chunks put right, so that the damage is not found by it."""
    fixed, place = bytearray(data), 8
    while place + 12 <= len(fixed):
        end = place + 8 + int.from_bytes(fixed[place : place + 4], "big")
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = zlib.crc32(fixed[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(fixed)


def fuzz(kind: str, num_files: int, door: Door, folder: Path) -> Counter[str]:
    """Outcome -> how many of the format's mutated files had it; `image` where one came through."""
    rng = random.Random(f"{kind}")
    originals = seeds(kind)
    outcomes: Counter[str] = Counter()
    for portion in portions(_written(originals, num_files, rng, folder), _PORTION):
        outcomes.update(reason or "image" for reason in door.check(portion))
    return outcomes


def _written(originals: list[bytes], num_files: int, rng: random.Random, folder: Path) -> Iterator[Request]:
    for number in range(num_files):
        path = folder / f"{number % (2 * _PORTION)}.bin"
        data = mutated(rng.choice(originals), originals, rng)
        path.write_bytes(with_right_checksums(data) if data.startswith(b"\x89PNG") and number % 4 else data)
        yield Request(str(path), path.name, rng.choice(("", "", "1,1,9,9.5")), rng.random() < 0.5)


def faults(outcomes: Counter[str]) -> list[str]:
    """Outcomes that nobody knows."""
    return [outcome for outcome in outcomes if outcome != "image" and outcome not in MEANING]


def main(num_files: int) -> None:
    """Fuzz every format and print a line for each."""
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder, Door(max_pixels=1 << 20, workers=2) as door:
        for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"):
            started = time.monotonic()
            outcomes = fuzz(kind, num_files, door, Path(folder))
            wrong += faults(outcomes)
            held = max((child.memory_info().rss for child in psutil.Process().children(recursive=True)), default=0)
            counts = ", ".join(f"{outcome} {count}" for outcome, count in outcomes.most_common())
            print(
                f"{kind:<5} {outcomes.total()} files in {time.monotonic() - started:.1f} s, "
                f"largest child {held >> 20} MiB: {counts}",
                flush=True,
            )
    sys.exit(f"unknown outcomes: {wrong}" if wrong else 0)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else NUM_FILES)
