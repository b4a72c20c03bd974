"""What has more than 8 bits a channel is shown as it would be seen."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.images import bit_depth, decoding
from pipelines.images.decoding import UnreadableImageError
from tests.benchmarks.fuzz_images import png

MANY = 1 << 22
SIZE = (40, 30)
RAMP = np.add.outer(np.arange(SIZE[1]) * 97, np.arange(SIZE[0]) * 31) % 4096  # 12 bits, all over


def tiff(
    values: np.ndarray,
    *,
    photometric: int,
    order: str = "<",
    planar: int = 1,
    compression: int = 1,
    extra: int | None = None,
) -> bytes:
    """A TIFF of one strip (for each plane) with these values: height x width, or with channels."""
    channels = values.shape[2] if values.ndim == 3 else 1
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    laid = np.moveaxis(values, -1, 0) if planar == 2 else values[None]
    strips = [part.astype(values.dtype.newbyteorder(order)).tobytes() for part in laid]
    if compression == 8:
        strips = [zlib.compress(strip) for strip in strips]
    starts = list(itertools.accumulate(map(len, strips), initial=8))
    bits, counts = [values.dtype.itemsize * 8] * channels, list(map(len, strips))
    tags = {256: [values.shape[1]], 257: [values.shape[0]], 258: bits, 259: [compression], 262: [photometric]}
    tags |= {273: starts[:-1], 277: [channels], 278: [values.shape[0]], 279: counts, 284: [planar]}
    tags |= {338: [extra]} if extra is not None else {}
    tags |= {339: [kind] * channels}
    place = starts[-1] + 2 + 12 * len(tags) + 4
    entries, tail = b"", b""
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        value = packed if len(packed) == 4 else struct.pack(f"{order}I", place + len(tail))
        tail += b"" if len(packed) == 4 else packed
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + value
    head = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return head + struct.pack(f"{order}I", starts[-1]) + b"".join(strips) + directory + tail


def deep_png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel: grey, grey and alpha, colour, or colour and alpha."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png((width, height), 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, rows)


def shown(data: bytes, **options) -> np.ndarray:
    return np.asarray(decoding.normalise(data, max_pixels=MANY, **options).image).astype(int)


def grey(data: bytes, **options) -> np.ndarray:
    pixels = shown(data, **options)
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 1] == pixels[..., 2]).all()
    return pixels[..., 0]


def near(one, other, within=1.0) -> bool:
    return bool(np.abs(one - other).max() <= within)


COLOURS = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=-1).astype(np.uint16)
OPAQUE = np.full((*RAMP.shape, 1), 4095, np.uint16)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("kind", ["png", "tiff", "tiff_big", "tiff_deflate"])
def test_deep_colours_are_shown_in_the_range_of_the_bits_that_they_use(kind, bits):
    values = COLOURS * 16 >> (16 - bits)
    whole = {
        "png": lambda: deep_png(values),
        "tiff": lambda: tiff(values, photometric=2),
        "tiff_big": lambda: tiff(values, photometric=2, order=">"),
        "tiff_deflate": lambda: tiff(values, photometric=2, compression=8),
    }[kind]()
    assert near(shown(whole), values * (255 / ((1 << bits) - 1)))


def test_transparency_of_deep_colours_has_a_range_of_its_own():
    assert near(shown(deep_png(np.concatenate([COLOURS, OPAQUE], axis=-1))), COLOURS * (255 / 4095))
    assert near(shown(deep_png(np.concatenate([COLOURS, OPAQUE * 16 + 15], axis=-1))), COLOURS * (255 / 4095))
    clear = np.concatenate([COLOURS, OPAQUE * 0 + 1], axis=-1)
    assert shown(deep_png(clear)).min() >= 253


@pytest.mark.parametrize("opaque", [4095, 65535])
def test_deep_grey_with_transparency_keeps_its_contrast(opaque):
    values = np.stack([RAMP, np.full_like(RAMP, opaque)], axis=-1)
    assert near(grey(deep_png(values)), RAMP * (255 / RAMP.max()), within=7)


def test_a_hot_pixel_blackens_no_deep_colours():
    values = COLOURS.copy()
    values[3, 4] = 65535
    pixels = shown(deep_png(values))
    pixels[3, 4] = values[3, 4] = 0
    assert near(pixels, values * (255 / 4095))


@pytest.mark.parametrize("values", [RAMP.astype(np.uint16), RAMP.astype(np.float32)], ids=["16_bits", "float"])
def test_white_is_zero_is_no_negative(values):
    black, white = (grey(tiff(values, photometric=number)) for number in (1, 0))
    assert near(black, RAMP * (255 / RAMP.max()), within=7)  # of 1,200 values the last one on each side does not count
    assert near(white, 255 - black)


def test_deep_colour_in_planes_or_multiplied_by_its_transparency_is_refused_by_name():
    for data in (
        tiff(COLOURS, photometric=2, planar=2),
        tiff(COLOURS, photometric=2, planar=2, compression=8),
        tiff(np.concatenate([COLOURS, OPAQUE], axis=-1), photometric=2, extra=1),
    ):
        with pytest.raises(UnreadableImageError, match="deep_colour_layout"):
            shown(data)
    flat = COLOURS.astype(np.uint8)
    assert near(shown(tiff(flat, photometric=2, planar=2)), flat)


@pytest.mark.parametrize("size", [(30, 40), (300, 400)])
@pytest.mark.parametrize(
    ("dtype", "outlier"),
    [(np.uint16, 65535), (np.int32, -(1 << 31)), (np.float32, -9999.0), (np.float32, 3.4e38)],
)
@pytest.mark.parametrize("share", [None, 0.01, 0.4])
def test_a_hot_pixel_or_a_value_for_no_data_leaves_all_else_as_it_is(size, dtype, outlier, share):
    rng = np.random.default_rng(0)
    values = rng.integers(1000, 3000, size).astype(dtype)
    alone = grey(tiff(values, photometric=1))
    is_outlier = np.zeros(size, bool)
    is_outlier.flat[rng.permutation(values.size)[: int(values.size * share) if share else 1]] = True
    values[is_outlier] = outlier
    spoiled = grey(tiff(values, photometric=1))
    assert near(spoiled[~is_outlier], alone[~is_outlier], within=3)
    assert set(spoiled[is_outlier]) == {255 if outlier > 0 else 0}


def test_some_hot_pixels_of_many_values_leave_all_else_as_it_is():
    rng = np.random.default_rng(0)
    values = rng.integers(1000, 3000, (300, 400)).astype(np.uint16)
    alone = grey(tiff(values, photometric=1))
    hot = rng.permutation(values.size)[:50]
    values.flat[hot] = rng.integers(3000, 65536, 50)
    spoiled = grey(tiff(values, photometric=1))
    assert np.abs(np.delete(spoiled.flat, hot) - np.delete(alone.flat, hot)).max() <= 3


def test_a_mask_of_a_few_labels_keeps_them_all():
    labels = np.array([[0, 1, 2, 60_000]], np.uint16).repeat(20, axis=0)
    assert list(grey(tiff(labels, photometric=1))[0]) == [0, 0, 0, 255]
    assert list(grey(tiff(np.array([[0, 65535]] * 9, np.uint16), photometric=1))[0]) == [0, 255]


@pytest.mark.parametrize("value", [1, 40_000])
@pytest.mark.parametrize("size", [(300, 400), (1200, 1600)])
def test_a_mask_of_something_small_is_not_black_all_over(size, value):
    mask = np.zeros(size, np.uint16)
    mask[100:104, 101:105] = value
    assert (grey(tiff(mask, photometric=1)) == np.where(mask, 255, 0)).all()


@settings(max_examples=50)
@given(st.integers(-(1 << 31), 0), st.integers(1, (1 << 31) - 1), st.integers(2, 40))
def test_deep_values_are_spread_evenly_from_black_to_white(low, high, steps):
    values = np.linspace(low, high, steps).astype(np.int32)[None]
    made = bit_depth.scaled(values)
    assert (made[0, 0], made[0, -1]) == (0, 255)
    wanted = (values - np.float64(low)) * 255 / (np.float64(high) - low)
    assert np.abs(made - wanted).max() <= 0.5


def test_numbers_that_are_none_are_black_and_spoil_no_others():
    values = np.array([[np.nan, -np.inf, 1.0, 3.0, np.inf]], np.float32)
    assert list(grey(tiff(values, photometric=1))[0]) == [0, 0, 0, 255, 0]
    assert list(grey(tiff(values, photometric=0))[0]) == [0, 0, 255, 0, 0]
    assert set(grey(tiff(np.full((4, 4), np.nan, np.float32), photometric=1)).flat) == {0}


def test_what_was_done_to_brightness_is_called_what_it_is():
    def changes(data, **options):
        return decoding.normalise(data, max_pixels=MANY, **options).changes

    deep = tiff(RAMP.astype(np.uint16), photometric=1)
    assert changes(deep) == ("brightness_scaled_0.1_to_99.9_percent",)
    assert changes(deep, stretch_tiff=True) == ("brightness_scaled_darkest_to_brightest",)
    assert changes(deep_png(COLOURS)) == ("colours_scaled_to_8_bits",)


def test_a_whole_range_is_from_darkest_to_brightest_however_few_pixels_these_are():
    values = np.full((60, 60), 2000, np.uint16)
    values[0, :2] = 0, 65535
    pixels = grey(tiff(values, photometric=1), stretch_tiff=True)
    assert (pixels[0, 0], pixels[0, 1]) == (0, 255)
    assert near(pixels[1:], np.full((59, 60), 2000 * 255 / 65535))


def test_a_deep_image_is_shown_upright():
    image = Image.fromarray(RAMP.astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "TIFF"):
        flat, turned = (grey(saved(image, kind, **options)) for options in ({}, {"exif": exif}))
        assert np.array_equal(turned, np.rot90(flat, -1))


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()
