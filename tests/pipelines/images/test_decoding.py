import io
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw

from pipelines.images import decoding
from pipelines.images.decoding import UnreadableImageError
from tests.benchmarks import fuzz_images

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


def normal(data: bytes, **options) -> decoding.Normal:
    return decoding.normalise(data, **{"max_pixels": MANY} | options)


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
    assert decoding.decode(made.data).tobytes() == made.image.tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_plain_image_is_stored_as_it_came(kind):
    data = encoded(noise(), kind)
    made = normal(data)
    assert (made.data, made.changes, made.suffix) == (data, (), f".{kind.lower()}")


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "GIF", "WEBP"])
def test_a_format_that_not_every_reader_knows_is_stored_as_png(kind):
    made = normal(encoded(noise(), kind))
    assert made.suffix == ".png"
    assert made.changes


def micrograph(size=(700, 600), *, colour=False) -> Image.Image:
    """Clouds, lines, letters and a sensor's noise."""
    rng = np.random.default_rng(1)
    drawn = np.asarray(Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).resize(size, 3), float)
    drawn = drawn if colour else drawn.mean(axis=2, keepdims=True).repeat(3, axis=2)
    image = Image.fromarray(np.clip(drawn + rng.normal(0, 2, (*size[::-1], 1)), 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.text((20, 20), "5 mm 2 theta", fill="white")
    draw.line((0, size[1], *size), fill="black", width=3)
    return image


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {"quality": 98}), ("WEBP", {"quality": 98}), ("TIFF", {"compression": "jpeg"})]
)
def test_what_came_with_a_loss_and_is_changed_is_stored_as_good_a_jpeg_as_quality_95_without_subsampling(
    kind, options, colour
):
    made = decoding.normalise(encoded(micrograph(colour=colour), kind, **options), max_pixels=200_000)
    with Image.open(io.BytesIO(made.data)) as stored:
        assert (made.suffix, stored.format, stored.size) == (".jpeg", "JPEG", made.image.size)
        best = Image.open(io.BytesIO(encoded(made.image, "JPEG", quality=95, subsampling="4:4:4")))
        assert psnr(made.image, stored.convert("RGB")) >= psnr(made.image, best) - 0.1
        assert all(sampled[1:3] == (1, 1) for sampled in stored.layer)


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {})]
)
def test_what_came_without_a_loss_stays_without(kind, options):
    made = decoding.normalise(encoded(micrograph(), kind, **options), max_pixels=200_000)
    assert made.suffix == ".png"
    assert decoding.decode(made.data).tobytes() == made.image.tobytes()


def test_a_png_that_would_be_large_is_stored_as_jpeg_and_one_that_came_is_kept(monkeypatch):
    monkeypatch.setattr(decoding, "_MAX_PNG_BYTES", 100_000)
    whole = encoded(micrograph(colour=True))
    assert len(whole) > 100_000
    assert normal(whole).data == whole
    assert normal(encoded(micrograph(colour=True), "BMP")).suffix == ".jpeg"


def test_what_no_jpeg_can_be_is_stored_as_png(monkeypatch):
    monkeypatch.setattr(decoding, "_MAX_PNG_BYTES", 0)
    for length, suffix in ((65_400, ".jpeg"), (65_600, ".png")):
        assert normal(encoded(Image.new("L", (length, 400)), "BMP"), max_pixels=1 << 26).suffix == suffix


def test_small_images_are_stored_as_png_whatever_they_came_as():
    made = decoding.normalise(encoded(micrograph(), "JPEG"), max_pixels=1 << 16)
    assert made.suffix == ".png"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_what_has_no_colour_is_stored_as_grey_and_what_has_one_pixel_of_it_as_colour(kind):
    grey = micrograph()
    dotted = grey.copy()
    dotted.paste("red", (333, 222, 349, 238))
    for image, mode in ((grey, "L"), (dotted, "RGB")):
        made = decoding.normalise(encoded(image, kind), max_pixels=200_000)
        with Image.open(io.BytesIO(made.data)) as stored:
            assert (stored.mode, made.image.mode) == (mode, "RGB")


@pytest.mark.parametrize("exif", [1, 6])
def test_a_large_jpeg_that_its_decoder_makes_smaller_looks_as_if_it_were_made_smaller_whole(exif):
    tags = Image.Exif()
    tags[0x0112] = exif
    image = micrograph((2100, 1800), colour=True)
    data = encoded(image, "JPEG", quality=95, exif=tags)
    by_decoder = decoding.normalise(data, max_pixels=150_000)
    # A crop of all of it is decoded whole.
    whole = decoding.normalise(data, max_pixels=150_000, box=(0, 0, 9999, 9999))
    assert by_decoder.image.size == whole.image.size
    assert "resized" in by_decoder.changes
    assert psnr(whole.image, by_decoder.image) > 40


def psnr(one: Image.Image, other: Image.Image) -> float:
    error = np.mean((np.asarray(one, float) - np.asarray(other, float)) ** 2)
    return 10 * np.log10(255**2 / max(error, 1e-9))


def test_a_wrong_ending_does_not_matter_and_the_stored_one_fits(tmp_path):
    (tmp_path / "x.jpg").write_bytes(encoded(noise()))
    assert normal((tmp_path / "x.jpg").read_bytes()).suffix == ".png"


UPRIGHT = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}  # by EXIF's numbers, what brings stored pixels into the order in which they are seen


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_an_image_is_shown_upright(kind, orientation):
    image = noise()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    made = normal(encoded(image, kind, exif=exif, **options))
    shown, wanted = np.asarray(made.image).astype(int), UPRIGHT[orientation](np.asarray(image)).astype(int)
    assert shown.shape == wanted.shape
    assert np.abs(shown - wanted).max() <= (8 if kind == "JPEG" else 0)
    assert ("upright" in made.changes) == (orientation > 1)
    assert decoding.decode(made.data).tobytes() == made.image.tobytes()


@pytest.mark.parametrize("mode", ["L", "I;16", "P", "RGBA", "CMYK"])
def test_every_mode_is_shown_upright(mode):
    exif = Image.Exif()
    exif[0x0112] = 6
    flat, turned = (normal(encoded(noise(mode=mode), "TIFF", **options)).image for options in ({}, {"exif": exif}))
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(flat), -1))


def test_deep_grey_keeps_its_contrast():
    deep = Image.fromarray(np.array([[300, 30_000]], np.uint16))
    for kind in ("PNG", "TIFF"):
        assert list(normal(encoded(deep, kind)).image.convert("L").get_flattened_data()) == [0, 255]


def test_grey_is_stored_as_grey_and_shown_as_rgb():
    made = normal(encoded(noise(mode="L"), "TIFF"))
    with Image.open(io.BytesIO(made.data)) as stored:
        assert (stored.mode, made.image.mode) == ("L", "RGB")


def test_a_colour_profile_is_not_stored():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode in ("RGBA", "P", "RGB"):
        assert b"iCCP" not in normal(encoded(noise(mode=mode), icc_profile=profile)).data


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


@settings(max_examples=100)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 20_000))
def test_a_budget_of_pixels_is_kept_without_distortion(width, height, budget):
    smaller = decoding.within(Image.new("L", (width, height)), budget)
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


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("size", "box"), [((20_000, 100), None), ((100, 20_000), None), ((14_000, 70), (0, 0, 14_000, 69))]
)
def test_what_would_be_too_elongated_for_qwen_when_it_is_shown_is_refused(kind, size, box):
    assert refused(encoded(Image.new("L", size), kind), box=box) == "too_elongated"


@settings(max_examples=200)
@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(100, 20_000))
def test_every_image_that_is_shown_has_sides_that_qwen_takes(long, short, budget):
    try:
        made = decoding.normalise(encoded(Image.new("L", (long, short))), max_pixels=budget)
    except UnreadableImageError as error:
        assert str(error) == "too_elongated"
        assert long / short > 100 or short / long > 100 or budget < 1000
    else:
        assert max(made.image.size) / min(made.image.size) <= 200


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
        (bytes(128) + b"DICM" + bytes(99), "dicom_image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "heic_image"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heix", "heic_image"),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1miaf", "avif_image"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0miafavif", "avif_image"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp41", "not_an_image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "jpeg_2000_image"),
        (b"\xff\x4f\xff\x51\0", "jpeg_2000_image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "jpeg_xl_image"),
        (b"%PDF-1.7\n", "pdf_document"),
        (b'<?xml version="1.0"?>\n<!-- made by hand -->\n<svg xmlns="x">', "svg_drawing"),
        (b"<html><svg>", "not_an_image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git_lfs_pointer"),
    ],
)
def test_what_is_no_image_or_too_large_has_a_reason(data, reason):
    assert refused(data) == reason


@pytest.mark.parametrize("kind", decoding.FORMATS)
def test_a_file_cut_short_anywhere_is_an_image_or_has_a_reason(kind):
    reasons = Counter()
    for whole in fuzz_images.seeds(kind):
        assert normal(whole).image.size in {(30, 20), (20, 30)}
        for length in range(0, len(whole), 10):
            try:
                normal(whole[:length])
            except UnreadableImageError as error:
                reasons[str(error)] += 1
    assert set(reasons) == {"not_an_image", "damaged_image"}
    assert reasons["damaged_image"] > reasons["not_an_image"]


def test_a_damaged_file_of_an_accepted_format_is_not_called_another_s():
    whole = encoded(noise(), "TIFF")
    assert refused(whole[:8]) == "damaged_image"
    assert refused(b"<html>" + whole) == "not_an_image"


def test_a_blank_image_has_the_same_size_and_one_grey():
    shown = decoding.blank(noise())
    assert shown.size == (30, 20)
    assert len(shown.getcolors()) == 1
