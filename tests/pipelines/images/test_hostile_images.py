import io
import struct
import time
import zipfile
import zlib

import pytest
from PIL import Image

from pipelines.images import decoding, image_bytes
from pipelines.images.sandbox import ImageSandbox, Request
from tests.benchmarks import fuzz_images
from tests.benchmarks.fuzz_images import png, png_chunk

TIMEOUT_S = 3
SLOW = {None, "takes_too_long"}
LIMITS = {"takes_too_long", "needs_too_much_memory", "damaged_image"}
SIDE = 8000  # of the largest square that is taken


@pytest.mark.parametrize("kind", decoding.FORMATS)
def test_mutated_files_are_images_or_have_a_known_reason(tmp_path, kind):
    found = fuzz_images.fuzz(kind, 400, tmp_path, tmp_path / "kept")
    assert found.outcomes.total() == 400
    assert found.faults == []
    assert found.outcomes["image"] > 20
    assert found.outcomes["damaged_image"] > 20


def surprise(request, max_pixels):
    return "surprise"


def test_an_outcome_that_nobody_knows_is_a_fault_and_its_file_is_kept(tmp_path):
    found = fuzz_images.fuzz("PNG", 3, tmp_path, tmp_path / "kept", decode=surprise)
    assert found.faults == ["unknown outcome 'surprise'"] * 3
    assert len(list((tmp_path / "kept").iterdir())) == 3


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


SMALL = Image.new("RGB", (8, 8), "red")
BLOB = zlib.compress(bytes(300 << 20))


def with_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    """A sound PNG with these chunks behind its header."""
    whole = saved(SMALL, "PNG")
    return whole[:33] + b"".join(png_chunk(*chunk) for chunk in chunks) + whole[33:]


def patched(whole: bytes, place: int, layout: str, *numbers: int) -> bytes:
    """The file with other numbers at a place."""
    new = struct.pack(layout, *numbers)
    return whole[:place] + new + whole[place + len(new) :]


def resized_jpeg(width: int, height: int, **options) -> bytes:
    """A JPEG that says that it has another size, and has data for a few pixels."""
    whole = saved(SMALL, "JPEG", **options)
    frame = whole.index(b"\xff\xc2" if options else b"\xff\xc0")
    return patched(whole, frame + 5, ">HH", height, width)


def many_scans(side: int, number: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    whole = saved(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * number + whole[-2:]


def tiff(*entries: tuple[int, int, int, int], size: int = 100, compression: int = 1, tail: int = 20_000) -> bytes:
    """A BigTIFF of grey pixels with these entries (tag, type, count, value) in its directory, in front of zeros."""
    plain = ((256, size), (257, size), (258, 8), (259, compression), (262, 1), (277, 1))
    fields = [*((tag, 4, 1, value) for tag, value in plain), *entries]
    directory = b"".join(struct.pack("<HHQQ", *field) for field in fields)
    return b"II\x2b\0\x08\0\0\0" + struct.pack("<QQ", 16, len(fields)) + directory + bytes(8 + tail)


def cyclic_tiff() -> bytes:
    """A TIFF whose first directory names itself as the next."""
    whole = saved(SMALL, "TIFF")
    first = int.from_bytes(whole[4:8], "little")
    return patched(whole, first + 2 + 12 * int.from_bytes(whole[first : first + 2], "little"), "<I", first)


def many_directories(number: int) -> bytes:
    """A TIFF of as many images, each of whose directories names the next."""
    tags = ((256, 100), (257, 100), (258, 8), (259, 1), (262, 1), (273, 0), (277, 1))
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    size = 2 + len(fields) + 4
    nexts = [8 + size * n for n in range(1, number)] + [0]
    return b"II*\0\x08\0\0\0" + b"".join(b"\7\0" + fields + struct.pack("<I", each) for each in nexts) + bytes(10_000)


def large_webp(side: int) -> bytes:
    """A WebP that says that its canvas is larger than its image."""
    whole = saved(SMALL, "WEBP", lossless=True, exif=b"x")
    return patched(whole, whole.index(b"VP8X") + 12, "<HBHB", *divmod(side - 1, 1 << 16)[::-1] * 2)


def many_frames(kind: str, number: int) -> bytes:
    frames = [Image.new("RGB", (8, 8), (n % 256, n // 256, 0)) for n in range(number)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


GIF, BMP = saved(SMALL, "GIF"), saved(SMALL, "BMP")
HOSTILE = {
    "png_of_few_bytes": (lambda: png((SIDE, SIDE), 16, 6, 0, b"\0"), {"damaged_image"}),
    "png_beyond_the_limit": (lambda: png((60_000, 60_000), 8, 2, 0, b"\0"), {"too_many_pixels"}),
    "png_like_a_thread": (lambda: saved(Image.new("L", (60_000, 1)), "PNG"), {"too_elongated"}),
    "png_bomb_within": (lambda: saved(Image.new("RGB", (SIDE, SIDE)), "PNG"), SLOW),
    "png_bomb_interlaced": (lambda: png((SIDE, SIDE), 8, 2, 1, bytes((3 * SIDE + 2) * SIDE)), SLOW),
    "png_text_bomb": (lambda: with_chunks((b"zTXt", b"x\0\0" + BLOB)), {"damaged_image"}),
    "png_unicode_bomb": (lambda: with_chunks((b"iTXt", b"x\0\1\0\0\0" + BLOB)), {"damaged_image"}),
    "png_profile_bomb": (lambda: with_chunks((b"iCCP", b"x\0\0" + BLOB)), {"damaged_image"}),
    "png_many_texts": (
        lambda: with_chunks(*[(b"zTXt", b"x\0\0" + zlib.compress(bytes(1_000_000)))] * 100),
        {"damaged_image"},
    ),
    "png_many_chunks": (lambda: with_chunks(*[(b"tEXt", b"a\0")] * 2_000_000), SLOW),
    "png_many_frames": (lambda: many_frames("PNG", 2000), {None}),
    "gif_many_frames": (lambda: many_frames("GIF", 2000), {None}),
    "gif_many_extensions": (lambda: GIF[:37] + b"\x21\xfe\0" * 20_000_000 + GIF[37:], {None, "damaged_image"}),
    "gif_huge_screen": (lambda: patched(GIF, 6, "<HH", 65_535, 65_535), {"too_many_pixels"}),
    "gif_frame_beyond": (lambda: patched(GIF, GIF.index(b"\x2c") + 5, "<HH", 65_535, 65_535), {"too_many_pixels"}),
    "webp_many_frames": (lambda: many_frames("WEBP", 2000), {None}),
    "webp_huge_canvas": (lambda: large_webp(1 << 24), {"damaged_image"}),
    "webp_large_canvas": (lambda: large_webp(SIDE), {"damaged_image"}),
    "jpeg_many_scans": (lambda: many_scans(4000, 2000), {"takes_too_long", None}),
    "jpeg_few_bytes": (lambda: resized_jpeg(SIDE, SIDE, progressive=True), SLOW),
    "jpeg_huge": (lambda: resized_jpeg(65_500, 65_500), {"too_many_pixels"}),
    "jpeg_many_segments": (lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 16_000_000, {*LIMITS}),
    "jpeg_padded": (lambda: b"\xff\xd8" + b"\xff" * 60_000_000 + saved(SMALL, "JPEG")[3:], SLOW),
    "tiff_cyclic": (cyclic_tiff, {None}),
    "tiff_many_directories": (lambda: many_directories(500_000), {None}),
    "tiff_many_tags": (lambda: tiff(*[(40_000 + n % 20_000, 3, 1, 1) for n in range(1_000_000)]), {*LIMITS}),
    "tiff_many_strips": (lambda: tiff((278, 4, 1, 1), (273, 4, 10_000_000, 300), tail=41_000_000), {*LIMITS}),
    "tiff_many_tiles": (
        lambda: tiff((322, 3, 1, 1), (323, 3, 1, 1), (324, 4, 10_000_000, 300), size=4000, tail=41_000_000),
        {*LIMITS},
    ),
    "tiff_strips_that_are_not_there": (lambda: tiff((278, 4, 1, 1), (273, 4, 1 << 30, 16)), {"damaged_image"}),
    "tiff_huge_tile": (
        lambda: tiff((322, 4, 1, 65_520), (323, 4, 1, 32_752), (324, 4, 1, 16), (325, 4, 1, 100), compression=5),
        {*LIMITS},
    ),
    "bmp_of_few_bytes": (lambda: patched(BMP, 18, "<ii", SIDE, SIDE), {"damaged_image"}),
    "bmp_huge": (lambda: patched(BMP, 18, "<ii", 1 << 30, 1 << 30), {"too_many_pixels", "damaged_image"}),
    "exif_cyclic": (
        lambda: saved(SMALL, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIII", 1, 0x8769, 4, 1, 8, 8)),
        {None},
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_made_to_be_slow_or_large_ends_in_bounded_time_and_memory(tmp_path, name):
    make, outcomes = HOSTILE[name]
    (tmp_path / "hostile").write_bytes(make())
    (tmp_path / "sound").write_bytes(saved(SMALL, "PNG"))
    requests = [Request(str(tmp_path / name), name, "", stretch_tiff=False) for name in ("sound", "hostile", "sound")]
    with ImageSandbox(max_pixels=1 << 20, workers=1, timeout_s=TIMEOUT_S) as opened:
        started = time.monotonic()
        before, hostile, after = opened.check(requests)
        assert time.monotonic() - started < 2 * TIMEOUT_S + 4  # what lacks memory is tried twice
    assert (before, after) == (None, None)
    assert hostile in outcomes


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_bomb_as_a_member_has_a_reason_and_the_next_member_is_read(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "i.zip", "w", method) as archive:
        archive.writestr("bomb", bytes(image_bytes.MAX_BYTES + 1))
        archive.writestr("sound", saved(SMALL, "PNG"))
    requests = [Request(str(tmp_path / "i.zip" / name), name, "", stretch_tiff=False) for name in ("bomb", "sound")]
    with ImageSandbox(max_pixels=1 << 20, workers=1) as opened:
        assert list(opened.check(requests)) == ["image_file_too_large", None]
