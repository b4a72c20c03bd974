import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pipelines import images
from pipelines.images import UnreadableImageError

MANY = 1 << 20  # pixels: a budget that nothing here exceeds


def noise(size=(30, 20), mode="RGB") -> Image.Image:
    shape = (size[1], size[0], 3)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).convert(mode)


def encoded(image: Image.Image, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def bomb(side: int) -> bytes:
    """A PNG that says it has so many pixels on each side, in a hundred bytes."""
    whole = encoded(Image.new("L", (8, 8)))
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


def normal(data: bytes, **options) -> images.Normal:
    return images.normalise(data, max_pixels=MANY, **options)


def refused(data: bytes, **options) -> str:
    with pytest.raises(UnreadableImageError) as error:
        normal(data, **options)
    return str(error.value)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (noise(mode=mode), kind)
        for kind, modes in {
            "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
            "JPEG": ("L", "RGB", "CMYK"),
            "TIFF": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "LAB", "YCbCr"),
            "BMP": ("1", "L", "P", "RGB"),
            "GIF": ("L", "P", "RGB"),
            "WEBP": ("RGB", "RGBA"),
        }.items()
        for mode in modes
    ],
    ids=lambda value: value if isinstance(value, str) else value.mode,
)
def test_every_mode_of_every_format_becomes_rgb_of_the_same_size(image, kind):
    made = normal(encoded(image, kind))
    assert (made.image.mode, made.image.size) == ("RGB", image.size)
    assert images.decode(made.data).tobytes() == made.image.tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_plain_image_is_stored_as_it_came(kind):
    data = encoded(noise(), kind)
    made = normal(data)
    assert (made.data, made.changes, made.suffix) == (data, (), f".{kind.lower()}")


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "GIF"])
def test_a_format_that_not_every_reader_knows_is_stored_as_png(kind):
    made = normal(encoded(noise(), kind))
    assert made.suffix == ".png"
    assert made.changes


def test_a_wrong_ending_does_not_matter_and_the_stored_one_fits(tmp_path):
    (tmp_path / "x.jpg").write_bytes(encoded(noise()))
    assert normal(images.read_bytes(tmp_path / "x.jpg")).suffix == ".png"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_shown_upright(kind, orientation):
    image = noise()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    made = normal(encoded(image, kind, exif=exif, **options))
    wanted = image.copy()
    wanted.getexif()[0x0112] = orientation
    wanted = ImageOps.exif_transpose(wanted)
    assert made.image.size == wanted.size
    if kind != "JPEG":
        assert made.image.tobytes() == wanted.tobytes()
    if kind != "TIFF":
        assert ("upright" in made.changes) == (orientation > 1)


def test_deep_grey_keeps_its_contrast():
    deep = Image.fromarray(np.array([[300, 30_000]], np.uint16))
    for kind in ("PNG", "TIFF"):
        assert list(normal(encoded(deep, kind)).image.convert("L").get_flattened_data()) == [0, 255]


def test_numbers_that_are_none_are_black_and_spoil_no_others():
    floats = Image.fromarray(np.array([[np.nan, -np.inf, 1.0, 3.0, np.inf]], np.float32))
    assert list(normal(encoded(floats, "TIFF")).image.convert("L").get_flattened_data()) == [0, 0, 0, 255, 0]


def test_an_8_bit_tiff_is_stretched_where_its_source_says_so_and_no_other_format_is():
    grey = Image.fromarray(np.array([[100, 110]], np.uint8))
    values = {
        (kind, stretch): list(normal(encoded(grey, kind), stretch_tiff=stretch).image.convert("L").get_flattened_data())
        for kind in ("TIFF", "PNG")
        for stretch in (False, True)
    }
    assert values == {
        ("TIFF", True): [0, 255], ("TIFF", False): [100, 110], ("PNG", True): [100, 110], ("PNG", False): [100, 110]
    }  # fmt: skip


def test_what_is_transparent_shows_white():
    clear = Image.new("RGBA", (2, 1), (9, 9, 9, 0))
    assert normal(encoded(clear)).image.getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (2, 1))
    assert normal(encoded(palette, transparency=0)).image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_of_several_frames_the_first_is_shown_and_alone_is_stored(kind):
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    made = normal(encoded(first, kind, save_all=True, append_images=[second] * 3))
    red, _, blue = made.image.getpixel((4, 4))
    assert red > 200
    assert blue < 60
    assert "first_frame" in made.changes
    with Image.open(io.BytesIO(made.data)) as stored:
        assert getattr(stored, "n_frames", 1) == 1


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 20_000))
def test_a_budget_of_pixels_is_kept_without_distortion(width, height, budget):
    smaller = images.within(Image.new("L", (width, height)), budget)
    assert smaller.width * smaller.height <= max(budget, *smaller.size)
    if width * height <= budget:
        assert smaller.size == (width, height)
    else:
        scale = (budget / (width * height)) ** 0.5
        assert abs(smaller.width - width * scale) <= 1
        assert abs(smaller.height - height * scale) <= 1


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((2, 3, 10, 13), (8, 10)),
        ((2.5, 3.5, 9.1, 9.1), (8, 7)),
        ((-99, -99, 5, 1e9), (5, 20)),
        ((0, 0, 30, 20), (30, 20)),
    ],
)
def test_a_crop_is_clamped_to_the_image_and_to_whole_pixels(box, size):
    made = normal(encoded(noise()), box=box)
    assert made.image.size == size
    assert "cropped" in made.changes


@pytest.mark.parametrize("box", [(40, 0, 50, 5), (5, 5, 5, 9), (9, 0, 2, 5), (0, -9, 5, -1)])
def test_a_crop_outside_the_image_has_a_reason(box):
    assert refused(encoded(noise()), box=box) == "crop_outside_image"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not_an_image"),
        (b"hello", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n", "not_an_image"),
        (encoded(noise((64, 64)))[:-30], "damaged_image"),
        (bomb(60_000), "too_many_pixels"),
        (encoded(Image.new("L", (201, 1))), "too_elongated"),
    ],
)
def test_what_is_no_image_or_too_large_has_a_reason(data, reason):
    assert refused(data) == reason


@pytest.mark.parametrize("kind", images.FORMATS)
def test_a_file_cut_short_anywhere_is_an_image_or_has_a_reason(kind):
    whole = encoded(noise(), kind)
    reasons = set()
    for length in range(0, len(whole), 7):
        try:
            normal(whole[:length])
        except UnreadableImageError as error:
            reasons.add(str(error))
    assert reasons <= {"not_an_image", "damaged_image"}
    assert "damaged_image" in reasons


def test_a_zip_s_member_reads_as_a_file_does(tmp_path):
    data = encoded(noise())
    with zipfile.ZipFile(tmp_path / "i.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images/x.png", data)
    path = tmp_path / "i.zip/images/x.png"
    assert images.read_bytes(path) == data
    assert images.size(path) == (30, 20)
    with pytest.raises(UnreadableImageError, match="missing_image"):
        images.read_bytes(tmp_path / "i.zip/none.png")


def test_a_zip_that_takes_another_s_place_is_read_anew(tmp_path):
    for content in (b"first", b"second"):
        with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
            archive.writestr("x", content)
        (tmp_path / "new.zip").replace(tmp_path / "i.zip")
        assert images.read_bytes(tmp_path / "i.zip/x") == content


def test_a_zip_bomb_is_read_no_further_than_a_file_may_be_large(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "i.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", bytes(10_000_000))
    with pytest.raises(UnreadableImageError, match="image_file_too_large"):
        images.read_bytes(tmp_path / "i.zip/x")


def test_a_member_that_is_damaged_or_encrypted_has_a_reason(tmp_path):
    with zipfile.ZipFile(tmp_path / "i.zip", "w") as archive:
        archive.writestr("x", b"content that is stored")
    whole = (tmp_path / "i.zip").read_bytes()
    (tmp_path / "damaged.zip").write_bytes(whole.replace(b"content", b"CONTENT"))
    encrypted = whole.replace(b"PK\x03\x04\x14\x00\x00\x00", b"PK\x03\x04\x14\x00\x01\x00")
    encrypted = encrypted.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")
    assert encrypted != whole
    (tmp_path / "encrypted.zip").write_bytes(encrypted)
    for name in ("damaged", "encrypted"):
        with pytest.raises(UnreadableImageError, match="damaged_zip_member"):
            images.read_bytes(tmp_path / f"{name}.zip/x")


def test_a_blank_image_has_the_same_size_and_one_grey():
    shown = images.blank(noise())
    assert shown.size == (30, 20)
    assert len(shown.getcolors()) == 1
