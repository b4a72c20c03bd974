import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines import images


def encoded(mode="RGB", size=(8, 6), kind="PNG"):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, format=kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("RGBA", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("I;16", "PNG")]
)
def test_every_common_mode_becomes_rgb(mode, kind):
    image = images.decode(encoded(mode, kind=kind))
    assert (image.mode, image.size) == ("RGB", (8, 6))


def test_deep_grey_keeps_its_contrast():
    deep = Image.new("I;16", (2, 1))
    deep.putpixel((0, 0), 300)
    deep.putpixel((1, 0), 30_000)
    buffer = io.BytesIO()
    deep.save(buffer, format="PNG")
    shown = images.decode(buffer.getvalue())
    assert (shown.getpixel((0, 0)), shown.getpixel((1, 0))) == ((0, 0, 0), (255, 255, 255))


def test_a_format_that_would_run_a_program_is_no_image():
    with pytest.raises(images.UnreadableImageError, match="not_an_image"):
        images.decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "not_an_image"), (b"hello", "not_an_image"), (encoded(size=(64, 64))[:-30], "damaged_image")],
)
def test_what_is_no_image_has_a_reason(data, reason):
    with pytest.raises(images.UnreadableImageError, match=reason):
        images.decode(data)


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    with pytest.raises(images.UnreadableImageError, match="too_many_pixels"):
        images.decode(encoded("1", (60_000, 60_000)))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow remarks on damage that it can read past
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mutated_bytes_give_an_image_or_a_reason_and_nothing_else(data):
    whole = bytearray(encoded(size=(32, 32), kind=data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF"]))))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert images.decode(bytes(whole)).mode == "RGB"
    except images.UnreadableImageError as error:
        assert str(error) in {"not_an_image", "damaged_image", "too_many_pixels"}


def test_a_blank_image_has_the_same_size_and_one_grey():
    image = Image.new("RGB", (4, 4), (10, 20, 30))
    shown = images.blank(image)
    assert shown.size == image.size
    assert len(shown.getcolors()) == 1


def test_the_ending_fits_the_bytes_whatever_the_file_is_called():
    assert images.suffix(encoded(kind="JPEG")) == ".jpeg"
    assert images.suffix(encoded(kind="PNG")) == ".png"
