"""Images of requests: what an engine may decode, and what it never sees."""

import base64
import io
import random
import struct
import time
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.images.decoding import FORMATS as SANDBOX_FORMATS
from pipelines.images.decoding import UnreadableImageError, normalise
from pipelines.inference.backends.chat import data_url
from serve.api.errors import Refused
from serve.api.images import checked_url
from tests.benchmarks import fuzz_images
from tests.serve.api.fakes import picture

PIXELS = 1 << 22
PNG = picture()


def refusal(url, domains=()):
    with pytest.raises(Refused) as refused:
        checked_url(url, PIXELS, domains)
    assert (refused.value.status, len(refused.value.message) < 400) == (400, True)
    return refused.value.message


@pytest.mark.parametrize(("kind", "named"), [("PNG", "png"), ("JPEG", "jpeg"), ("WEBP", "webp"), ("GIF", "gif")])
def test_image_is_passed_on_under_the_name_of_what_it_is(kind, named):
    data = picture(kind=kind)
    for claimed in (named, "png", "x-unknown"):
        assert checked_url(data_url(data, claimed), PIXELS, ()) == data_url(data, named)
    assert checked_url(data_url(data).replace("data:image", "DATA:Image"), PIXELS, ()) == data_url(data, named)


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "PPM", "ICO", "PCX", "TGA", "EPS", "PDF", "SGI"])
def test_other_formats_are_refused(kind):
    assert "cannot be read" in refusal(data_url(picture(kind=kind)))


@pytest.mark.parametrize(
    "url",
    ["data:", "data:,", "data:,x", "data:image/png,AAAA", "data:image/png;base64", "data:text/plain;base64,AAAA",
     "data:image/png;base64;x,AAAA", "data:image/png;charset=x;base64,AAAA", "data:image/;base64,AAAA"],
)  # fmt: skip
def test_data_url_that_is_none_is_refused(url):
    assert "data URL reads" in refusal(url)


@pytest.mark.parametrize("payload", ["A", "AAA", "====", "AA=A", "\n", "AAAA AAAA", "-_-_", "ä", "\x00"])
def test_base64_that_is_none_is_refused(payload):
    assert "no valid base64" in refusal(f"data:image/png;base64,{payload}")


def header_of_png(width, height):
    chunk = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + chunk
        + struct.pack(">I", zlib.crc32(b"IHDR" + chunk))
        + b"\0\0\0\0IDAT5\xaf\x06\x1e"
    )


@pytest.mark.parametrize("size", [(8192, 8192), (2049, 2048), (1 << 30, 1), (0x7FFFFFFF, 0x7FFFFFFF)])
def test_image_of_too_many_pixels_is_refused_before_memory_is_taken_for_it(size):
    tracemalloc.start()
    assert f"{size[0]} x {size[1]} pixels" in refusal(data_url(header_of_png(*size)))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_image_of_as_many_pixels_as_are_taken_is_admitted():
    checked_url(data_url(header_of_png(2048, 2048)), PIXELS, ())


def test_elongated_image_is_refused():
    assert "over 200 times" in refusal(data_url(picture(4000, 8)))


def test_jpeg_that_draws_itself_a_thousand_times_is_refused():
    data = picture(64, 64, "JPEG", progressive=True)
    checked_url(data_url(data, "jpeg"), PIXELS, ())
    first = data.index(b"\xff\xda")
    last = data.rindex(b"\xff\xda")
    bomb = data[:last] + data[last:-2] * 1000 + data[-2:]
    assert len(bomb) < 1 << 20
    assert first < last
    assert "scans" in refusal(data_url(bomb, "jpeg"))


def test_jpeg_of_several_images_has_no_more_scans_than_another():
    first = Image.open(io.BytesIO(picture(64, 64, "JPEG", progressive=True)))
    buffer = io.BytesIO()
    first.save(buffer, "MPO", save_all=True, append_images=[first], progressive=True)
    data = buffer.getvalue()
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert checked_url(data_url(data, "jpeg"), PIXELS, ()) == data_url(data, "jpeg")
    last = data.rindex(b"\xff\xda")
    assert "scans" in refusal(data_url(data[:last] + data[last:-2] * 1000 + data[-2:], "jpeg"))


def png_with(*chunks):
    packed = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return PNG[:33] + packed + PNG[33:]


MEGABYTE = zlib.compress(bytes(1_000_000), 9)
JPEG, GIF = picture(kind="JPEG"), picture(kind="GIF")
GIF_HEAD = 13 + (3 << ((GIF[10] & 7) + 1) if GIF[10] & 128 else 0)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (png_with(*[(b"iCCP", b"a\0\0" + MEGABYTE)] * 4000), "profiles"),
        (png_with(*[(b"zTXt", b"a\0\0" + MEGABYTE)] * 60), "profiles"),
        (png_with(*[(b"teSt", b"")] * 6_000), "cannot be read"),
        (png_with(*[(b"teSt", b"")] * 300_000), "20000 chunks"),
        (PNG[:-12] + png_with(*[(b"teSt", b"")] * 300_000)[33:], "20000 chunks"),
        (PNG[:-12] + png_with(*[(b"iCCP", b"a\0\0" + MEGABYTE)] * 60)[33:], "profiles"),
        (JPEG[:2] + b"\xff\xe1\0\x0aExif\0\0xx" * 400_000 + JPEG[2:], "cannot be read"),
        (JPEG[:2] + b"\xff" * 4_000_000 + JPEG[2:], "cannot be read"),
        (GIF[:GIF_HEAD] + b"!\xfe" + b"\1c" * 4_000_000 + b"\0" + GIF[GIF_HEAD:], "cannot be read"),
    ],
    ids=[
        "profiles",
        "texts",
        "chunks",
        "more chunks",
        "chunks behind",
        "profiles behind",
        "segments",
        "filling",
        "blocks",
    ],
)
def test_image_of_a_million_parts_costs_little(data, word):
    url = data_url(data)
    started = time.process_time()
    assert word in refusal(url)
    assert time.process_time() - started < 0.5


def test_real_images_have_fewer_parts_than_are_refused():
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    for kind in ("PNG", "JPEG", "WEBP"):
        data = picture(1024, 1024, kind, icc_profile=random.Random(0).randbytes(900_000), exif=exif)
        assert checked_url(data_url(data), PIXELS, ()).endswith(data_url(data)[-100:])


@pytest.mark.parametrize(
    "data", [b"", PNG[:8], PNG[:20], b"GIF89a", b"RIFF\0\0\0\0WEBPVP8 ", b"\xff\xd8\xff", b"%!PS", b"PATIENT"]
)
def test_damaged_image_is_refused_without_its_content(data):
    assert "PATIENT" not in refusal(data_url(data))


@given(st.data())
def test_any_mutation_of_an_image_is_admitted_or_refused(draw):
    data = bytearray(picture(kind=draw.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF"]))))
    for _ in range(draw.draw(st.integers(1, 6))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    data = bytes(data[: draw.draw(st.integers(0, len(data)))])
    try:
        url = checked_url(data_url(data), PIXELS, ())
    except Refused as refused:
        assert refused.status == 400
    else:
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
            assert image.width * image.height <= PIXELS


def scans(number):
    whole = picture(64, 64, "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * number + whole[-2:]


MANY_PARTS = {
    "profiles": png_with(*[(b"iCCP", b"a\0\0" + zlib.compress(b""))] * 40),
    "texts": png_with(*[(b"iTXt", b"a\0\0\0\0\0b")] * 60),
    "texts behind": PNG[:-12]
    + png_with(*[(b"zTXt", b"a\0\0" + zlib.compress(b"b"))] * 60)[33 : -len(PNG) + 33]
    + PNG[-12:],
    "chunks": png_with(*[(b"teSt", b"")] * 30_000),
    "parts of pixels": png_with(*[(b"IDAT", b"")] * 30_000),
    "needless bytes": PNG[:33]
    + fuzz_images.png_chunk(b"IDAT", b"x\x01" + b"\0\0\0\xff\xff" * 9_000_000 + PNG[43:-16])
    + PNG[-12:],
    "scans": scans(200),
    "tables": JPEG[:2] + (b"\xff\xdd\0\4\0\0") * 3_000 + JPEG[2:],
    "segments": JPEG[:2] + b"\xff\xe1\0\x0aExif\0\0xx" * 3_000 + JPEG[2:],
}


@pytest.mark.parametrize("name", MANY_PARTS)
def test_an_image_of_many_parts_is_taken_once_it_is_normalised(name):
    made = normalise(MANY_PARTS[name], max_pixels=PIXELS)
    checked_url(data_url(made.data, "png"), PIXELS, ())
    assert len(made.data) < 1 << 20


@pytest.mark.parametrize("kind", SANDBOX_FORMATS)
def test_every_image_that_is_sealed_is_taken(kind):
    rng, originals, num_sealed = random.Random(kind), fuzz_images.seeds(kind), 0
    for _ in range(400):
        data = fuzz_images.mutated(rng.choice(originals), kind, originals, rng)
        try:
            made = normalise(data, max_pixels=rng.choice((300, PIXELS)), stretch_tiff=rng.random() < 0.5)
        except UnreadableImageError:
            continue
        num_sealed += 1
        name = made.suffix.removeprefix(".")
        assert checked_url(data_url(made.data, name), PIXELS, ()) == data_url(made.data, name)
    assert num_sealed > 20


@pytest.mark.parametrize(
    "url",
    ["http://example.org/a.png", "https://example.org/a.png", "file:///etc/passwd", "ftp://example.org/a.png",
     "//example.org/a.png", "http://[broken", "x", "/etc/passwd", "http://127.0.0.1:1/a", "http://169.254.169.254/"],
)  # fmt: skip
def test_image_from_elsewhere_is_refused(url):
    assert "data: URLs" in refusal(url) or "cannot be read" in refusal(url)


def test_only_listed_hosts_are_fetched_from():
    listed = ("images.example.org",)
    for url in ("https://images.example.org/a.png", "HTTP://images.example.org:8080/a@2x.png?b=c@d#e"):
        assert checked_url(url, PIXELS, listed) == url
    for url in (
        "https://example.org/a.png",
        "https://images.example.org@evil.org/a.png",
        "file://images.example.org/a",
        "https://images.example.org.evil.org/a",
        "https://evil.org\\@images.example.org/a",
        "https://evil.org@images.example.org/a",
        "https://images.example.org/\\evil.org",
        "https://images.example.org/a b",
        "https://images.exam\tple.org/a",
        "https:/images.example.org/a",
        " https://images.example.org/a",
    ):
        assert "or from images.example.org" in refusal(url, listed)
