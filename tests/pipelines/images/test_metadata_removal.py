"""What is stored of an image shows its pixels and says nothing else."""

import base64
import io
import random
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from infra.digests import digest_bytes
from pipelines.images import decoding, metadata_removal, parts
from pipelines.images.decoding import UnreadableImageError
from pipelines.images.sandbox import ImageSandbox, Request
from tests.benchmarks import fuzz_images
from tests.benchmarks.fuzz_images import png, png_chunk

MANY = 1 << 20
CANARY = b"Erika Mustermann, born 12.08.1964"
REAL = Path(__file__).parents[4] / "shared/real"
# Of 24 x 16 pixels, coded arithmetically, the second one progressive; Pillow reads and does not write such.
ARITHMETIC = [
    (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAx"
        "NDQ0Hyc5PTgyPC4zNDL/2wBDAQkJCQwLDBgNDRgyIRwhMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIy"
        "MjIyMjIyMjL/yQARCAAQABgDASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/ALiXbPrbsnn7Uh2uzT8nurB7Eo1R"
        "nQcExnKnPu3GjJwRMWm+dzA1rP/Z"
    ),
    (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAx"
        "NDQ0Hyc5PTgyPC4zNDL/2wBDAQkJCQwLDBgNDRgyIRwhMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIy"
        "MjIyMjIyMjL/ygARCAAQABgDASIAAhEBAxEB/8wABgAQARD/2gAMAwEAAhADEAAAAf8AcL74T8FO6we0tYj/zAAEEAX/2gAIAQEA"
        "AQUCHqjVN6ufQP/MAAQRBf/aAAgBAwEBPwEeqRj/zAAEEQX/2gAIAQIBAT8Blv/MAAQQBf/aAAgBAQAGPwLA/8wABBAF/9oACAEB"
        "AAE/IdNAXdD/2gAMAwEAAgADAAAAEOzg/8wABBEF/9oACAEDAQE/ENGY/8wABBEF/9oACAECAQE/EOD/zAAEEAX/2gAIAQEAAT8Q"
        "J1qWWP/Z"
    ),
]


def picture(mode="RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


PNG, JPEG = saved(picture(), "PNG"), saved(picture(), "JPEG")
IDAT = PNG[41 : 41 + int.from_bytes(PNG[33:37])]


def segment(code: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(body) + 2) + body


def exif() -> bytes:
    """EXIF with a name, a place, a device, and a thumbnail that has a name of its own."""
    tags = Image.Exif()
    tags[0x010E] = tags[0x010F] = tags[0x013B] = CANARY.decode()
    tags.get_ifd(0x8825)[0x1D] = CANARY.decode()
    return tags.tobytes() + JPEG[:2] + segment(0xFE, CANARY) + JPEG[2:]


PACKED = zlib.compress(CANARY)
CHUNKS = {
    "tEXt": (b"tEXt", b"Patient\0" + CANARY),
    "zTXt": (b"zTXt", b"Patient\0\0" + PACKED),
    "iTXt": (b"iTXt", b"Patient\0\0\0\0\0" + CANARY),
    "iTXt packed": (b"iTXt", b"Patient\0\1\0\0\0" + PACKED),
    "XMP": (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x>" + CANARY + b"</x>"),
    "eXIf": (b"eXIf", exif()[6:]),
    "iCCP": (b"iCCP", b"profile\0\0" + PACKED),
    "tIME": (b"tIME", bytes((7, 172, 8, 12, 1, 2, 3))),
    "pHYs": (b"pHYs", bytes(9)),
    "gAMA": (b"gAMA", bytes(4)),
    "sPLT": (b"sPLT", CANARY + b"\0\x08"),
    "private": (b"prVt", CANARY),
    "PLTE": (b"PLTE", CANARY),  # suggested colours, which no pixel is of
}
SEGMENTS = {
    "EXIF": segment(0xE1, exif()),
    "XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x>" + CANARY + b"</x>"),
    "ICC": segment(0xE2, b"ICC_PROFILE\0\1\1" + CANARY),
    "IPTC": segment(0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\0\0\0\x26\x1c\2\x78\0" + bytes((len(CANARY),)) + CANARY),
    "JFXX": segment(0xE0, b"JFXX\0\x10" + JPEG[:2] + segment(0xFE, CANARY) + JPEG[2:]),
    "comment": segment(0xFE, CANARY),
    "filling": b"\xff" * 9,
    **{f"APP{number}": segment(0xE0 + number, CANARY) for number in range(16)},
}
ONE_FRAME = png_chunk(b"acTL", struct.pack(">II", 1, 0)) + png_chunk(
    b"fcTL", struct.pack(">IIIIIHHBB", 0, 30, 20, 0, 0, 1, 1, 0, 0)
)
JPEG_SCAN = JPEG.index(b"\xff\xda")
PLACES = {
    **{f"PNG {name}": (PNG, PNG[:33] + png_chunk(*chunk) + PNG[33:]) for name, chunk in CHUNKS.items()},
    **{f"PNG {name} behind": (PNG, PNG[:-12] + png_chunk(*each) + PNG[-12:]) for name, each in CHUNKS.items()},
    "PNG one frame": (PNG, PNG[:33] + ONE_FRAME + PNG[33:]),
    "PNG trailing": (PNG, PNG + CANARY),
    "PNG trailing image": (PNG, PNG + PNG[:33] + png_chunk(b"tEXt", CANARY) + PNG[33:]),
    **{f"JPEG {name}": (JPEG, JPEG[:2] + each + JPEG[2:]) for name, each in SEGMENTS.items()},
    **{f"JPEG {name} later": (JPEG, JPEG[:JPEG_SCAN] + each + JPEG[JPEG_SCAN:]) for name, each in SEGMENTS.items()},
    **{f"JPEG {name} behind": (JPEG, JPEG[:-2] + SEGMENTS[name] + JPEG[-2:]) for name in SEGMENTS if name != "filling"},
    "JPEG thumbnail": (JPEG, JPEG[:2] + segment(0xE0, JPEG[6:18] + bytes((11, 1)) + CANARY) + JPEG[20:]),
    "JPEG trailing": (JPEG, JPEG + CANARY),
    "JPEG trailing image": (JPEG, JPEG + JPEG[:2] + segment(0xFE, CANARY) + JPEG[2:]),
    "JPEG trailing video": (JPEG, JPEG + b"\0\0\0\x18ftypmp42" + CANARY),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_what_is_stored_is_the_image_as_if_nothing_had_ever_been_added_to_it(place):
    plain, told = PLACES[place]
    assert told != plain
    made = decoding.normalise(told, max_pixels=MANY)
    assert (made.data, made.changes) == (plain, ())
    assert decoding.decode(made.data).tobytes() == decoding.decode(told).tobytes()


def everything_said() -> dict[str, bytes]:
    """Images that have the name in many places at once, and such as have to be changed."""
    tags = Image.Exif()
    tags[0x010E], tags[0x0112] = CANARY.decode(), 6
    tiff_tags = TiffImagePlugin.ImageFileDirectory_v2()
    tiff_tags[270] = tiff_tags[315] = CANARY.decode()
    profile = CANARY * 9
    behind = {name: told for name, (_, told) in PLACES.items()}
    return behind | {
        "all.png": PNG[:33] + b"".join(png_chunk(*each) for each in CHUNKS.values()) + PNG[33:] + CANARY,
        "all.jpeg": JPEG[:2] + b"".join(SEGMENTS.values()) + JPEG[2:] + CANARY,
        "behind_pixels.png": PNG[:33] + png_chunk(b"IDAT", IDAT + CANARY) + PNG[-12:],
        "more_pixels.png": png((30, 20), 8, 0, 0, bytes(31 * 20) + CANARY),
        "unknown.png": PNG[:33] + png_chunk(b"CRIT", CANARY) + PNG[33:],
        "unknown.jpeg": JPEG[:-2] + segment(0xF0, CANARY) + JPEG[-2:],
        "junk.jpeg": JPEG[:JPEG_SCAN] + CANARY + JPEG[JPEG_SCAN:],
        "turned.jpeg": saved(picture(), "JPEG", exif=tags, comment=CANARY, icc_profile=profile),
        "turned.png": saved(picture(), "PNG", exif=tags, icc_profile=profile),
        "clear.png": saved(picture("RGBA"), "PNG", icc_profile=profile) + CANARY,
        "large.jpeg": saved(picture().resize((1500, 1000)), "JPEG", comment=CANARY, icc_profile=profile),
        "large.tiff": saved(picture().resize((1500, 1000)), "TIFF", tiffinfo=tiff_tags, icc_profile=profile),
        "some.tiff": saved(picture(), "TIFF", tiffinfo=tiff_tags),
        "some.webp": saved(picture(), "WEBP", exif=tags, xmp=CANARY, icc_profile=profile),
        "some.gif": saved(picture(), "GIF", comment=CANARY) + CANARY,
        "some.bmp": saved(picture(), "BMP") + CANARY,
        "frames.mpo": saved(picture(), "MPO", save_all=True, append_images=[picture()], comment=CANARY),
    }


def test_nothing_that_an_image_says_of_a_patient_is_in_the_sealed_zip(tmp_path):
    requests = []
    for number, data in enumerate(everything_said().values()):
        (tmp_path / str(number)).write_bytes(data)
        requests.append(Request(str(tmp_path / str(number)), "", "", stretch_tiff=False))
    with ImageSandbox(max_pixels=MANY, workers=2) as sandbox:
        first = list(sandbox.store(requests, Path("0.zip"), tmp_path))
        list(sandbox.store(requests, Path("1.zip"), tmp_path))
    readable = [each for each in first if not isinstance(each, str)]
    assert len(readable) >= len(requests) - 1  # an unknown segment is damage to a JPEG's decoder
    whole = (tmp_path / "0.zip").read_bytes()
    assert whole == (tmp_path / "1.zip").read_bytes()
    assert CANARY not in whole
    with zipfile.ZipFile(tmp_path / "0.zip") as archive:
        for stored in readable:
            data = archive.read(stored.path.partition("/")[2])
            assert_bare(data)
            assert stored.digest == digest_bytes(data)


def assert_bare(data: bytes) -> None:
    """That an image has no parts but those of its pixels."""
    if data.startswith(parts.PNG):
        assert {kind for kind, *_ in metadata_removal.png_chunks(data)} == {b"IHDR", b"IDAT", b"IEND"}
        assert data.endswith(b"IEND\xaeB`\x82")
    else:
        with Image.open(io.BytesIO(data)) as image:
            assert [(kind, len(body)) for kind, body in image.applist] in ([("APP0", 14)], [])
        assert data.index(b"\xff\xd9") == len(data) - 2


def sound() -> dict[str, bytes]:
    """Images that can stay as they are, of every kind that there is."""
    grey, colour = picture("L"), picture()
    rows = np.asarray(grey)
    low = {
        depth: png((8, 5), depth, 0, 0, b"".join(b"\0" + rows[y].tobytes()[:depth] for y in range(5)))
        for depth in (2, 4)
    }
    in_pieces = b"".join(png_chunk(b"IDAT", IDAT[start : start + 7]) for start in range(0, len(IDAT) + 7, 7))
    found = {
        "grey": saved(grey, "PNG"),
        "interlaced": fuzz_images.interlaced(grey),
        "interlaced narrow": fuzz_images.interlaced(grey.crop((0, 0, 1, 20))),
        "interlaced low": fuzz_images.interlaced(grey.crop((0, 0, 30, 1))),
        **{f"{depth} bits": each for depth, each in low.items()},
        "many chunks": PNG[:33] + in_pieces + PNG[-12:],
        "grey jpeg": saved(grey, "JPEG"),
        "arithmetic": base64.b64decode(ARITHMETIC[0]),
        "arithmetic progressive": base64.b64decode(ARITHMETIC[1]),
        "rgb jpeg": saved(colour, "JPEG", keep_rgb=True),
        "adobe": JPEG[:2] + segment(0xEE, b"Adobe\0d\0\0\0\0\1") + JPEG[20:],
        "adobe rgb": JPEG[:2] + segment(0xEE, b"Adobe\0d\0\0\0\0\0") + JPEG[20:],
        "no jfif": JPEG[:2] + JPEG[20:],
    }  # fmt: skip
    for subsampling in (0, 1, 2):
        for options in ({}, {"progressive": True}, {"restart_marker_blocks": 1}, {"optimize": True}):
            found[f"jpeg {subsampling} {options}"] = saved(colour, "JPEG", subsampling=subsampling, **options)
    return found


@pytest.mark.parametrize("name", sound())
def test_an_image_without_anything_else_is_stored_as_it_came(name):
    data = sound()[name]
    made = decoding.normalise(data, max_pixels=MANY)
    assert (made.data, made.changes) == (data, ())


def test_which_colours_a_jpeg_says_it_has_is_kept():
    shown = {
        name: decoding.decode(metadata_removal.without_metadata(sound()[name])).tobytes()
        for name in ("adobe", "adobe rgb", "no jfif")
    }
    assert shown["adobe"] == shown["no jfif"] != shown["adobe rgb"]


def test_real_images_show_the_same_pixels_and_keep_their_bytes():
    paths = sorted(path for path in REAL.rglob("*") if path.suffix in {".jpg", ".png"})[::5]
    if not paths:
        pytest.skip("no real images beside the project")
    for path in paths:
        data = path.read_bytes()
        made = decoding.normalise(data, max_pixels=1 << 26)
        assert made.changes or decoding.decode(made.data).tobytes() == decoding.decode(data).tobytes()
        assert made.changes or len(made.data) <= len(data)


@pytest.mark.parametrize("name", ["no text", "one text", "many texts"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_cut_short_anywhere_is_not_kept(kind, name):
    plain, place, part = (PNG, 33, png_chunk(b"tEXt", CANARY)) if kind == "PNG" else (JPEG, 2, SEGMENTS["EXIF"])
    whole = plain[:place] + part * {"no text": 0, "one text": 1, "many texts": 3}[name] + plain[place:]
    assert metadata_removal.without_metadata(whole) == plain
    assert [
        length for length in range(len(whole)) if metadata_removal.without_metadata(whole[:length]) is not None
    ] == []


def test_a_damaged_image_shows_the_same_pixels_after_it_was_stripped():
    rng, kept = random.Random(0), 0
    for kind in ("PNG", "JPEG"):
        originals = [data for data in sound().values() if data.startswith(parts.PNG) == (kind == "PNG")]
        originals += [told for name, (_, told) in PLACES.items() if name.startswith(kind)]
        for _ in range(1500):
            data = fuzz_images.mutated(rng.choice(originals), kind, originals, rng)
            try:
                made = decoding.normalise(data, max_pixels=MANY)
            except UnreadableImageError:
                continue
            if not made.changes:
                kept += 1
                assert made.data == metadata_removal.without_metadata(made.data)
                assert decoding.decode(made.data).tobytes() == decoding.decode(data).tobytes()
    assert kept > 300


UNCLEAR_PNG = {
    "a wrong checksum": PNG[:-13] + bytes((PNG[-13] ^ 1,)) + PNG[-12:],
    "too many chunks": PNG[:33] + png_chunk(b"IDAT", b"") * 30_000 + PNG[33:],
    "too many texts": PNG[:33] + png_chunk(b"teXt", b"") * 30_000 + PNG[33:],
    "needless bytes": PNG[:33] + png_chunk(b"IDAT", IDAT[:2] + b"\0\0\0\xff\xff" * 20_000 + IDAT[2:]) + PNG[-12:],
    "no end": PNG[:-12],
}


@pytest.mark.parametrize("name", UNCLEAR_PNG)
def test_a_png_that_is_not_kept_is_stored_anew_without_a_loss(name, monkeypatch):
    monkeypatch.setattr(decoding, "_MAX_PNG_BYTES", 0)
    assert metadata_removal.without_metadata(UNCLEAR_PNG[name]) is None
    made = decoding.normalise(UNCLEAR_PNG[name], max_pixels=MANY)
    assert (made.suffix, made.changes) == (".png", ("as_png",))
    assert decoding.decode(made.data).tobytes() == picture().tobytes()


def test_a_jpeg_that_is_not_kept_is_stored_as_good_a_one():
    large = saved(picture().resize((400, 300)), "JPEG", progressive=True)
    last = large.rindex(b"\xff\xda")
    made = decoding.normalise(large[:last] + large[last:-2] * 200 + large[-2:], max_pixels=MANY)
    assert (made.suffix, made.changes) == (".jpeg", ("as_jpeg",))
    error = np.abs(np.asarray(made.image, int) - np.asarray(decoding.decode(made.data), int))
    assert error.mean() < 3


@pytest.mark.parametrize(
    "data",
    [
        PNG[:33] + png_chunk(b"teXt", b"") * 4_000_000 + PNG[33:],
        PNG[:33] + png_chunk(b"IDAT", b"") * 4_000_000 + PNG[33:],
        PNG[:33] + png_chunk(b"IDAT", zlib.compress(bytes(60 << 20), 9)) + PNG[-12:],
        JPEG[:-2] + b"\xff\xfe\0\2" * 10_000_000 + JPEG[-2:],
        JPEG[:JPEG_SCAN] + JPEG[JPEG_SCAN:-2] * 30_000 + JPEG[-2:],
        JPEG[:2] + b"\xff" * 50_000_000 + JPEG[2:],
        JPEG[:2] + b"\xff" * 50_000_000 + b"\0" + JPEG[2:],
        JPEG[:-2] + b"\xff" * 50_000_000 + b"\0" + JPEG[-2:],
        JPEG[:-2] + b"\xff\0" * 20_000_000 + JPEG[-2:],
    ],
    ids=["chunks", "pixel chunks", "bomb", "segments", "scans", "filling", "no filling", "scan", "escapes"],
)
def test_an_image_of_a_million_parts_is_looked_through_in_bounded_time(data):
    started = time.process_time()
    metadata_removal.without_metadata(data)
    assert time.process_time() - started < 2


def test_two_images_that_differ_in_what_they_say_are_stored_as_one(tmp_path):
    for name, said in (("a", b"one"), ("b", b"two")):
        (tmp_path / name).write_bytes(PNG[:33] + png_chunk(b"tEXt", said) + PNG[33:])
    with ImageSandbox(max_pixels=MANY, workers=1) as sandbox:
        one, two = sandbox.store(
            [Request(str(tmp_path / name), name, "", stretch_tiff=False) for name in "ab"], Path("0.zip"), tmp_path
        )
    assert (one.path, one.digest, one.pixel_digest) == (two.path, two.digest, two.pixel_digest)
    assert one.source_digest != two.source_digest
