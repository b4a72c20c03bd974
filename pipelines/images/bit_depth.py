"""Images of more than 8 bits a channel -> images of 8 bits, scaled so that what they show can be seen.

Pillow alone would clip 16-bit grey at 255, which turns a radiograph white, and would keep only the high byte of 16-bit
colour, which turns 12 bits in 16 black.
"""

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps

GREY_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
SHARES = (0.001, 0.999)  # quantiles of the values: those below the first become black, those above the second white
_SAMPLE = 1 << 18  # number of values that a range is computed from
_FEW_VALUES = 16  # an image with fewer distinct values holds labels, none of which is an outlier
_PHOTOMETRIC, _PLANAR, _BITS = 262, 284, 258  # TIFF's tags
_WHITE_IS_ZERO, _IN_PLANES = 0, 2
_GREY_AND_ALPHA = "LA;16B"
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # by the byte order in a raw mode

Values = npt.NDArray[Any]


def is_deep_colour(opened: Image.Image) -> bool:
    """Whether an image that is opened but not decoded has several channels of 16 bits."""
    return opened.mode not in GREY_MODES and ";16" in _raw_mode(opened)


def is_supported(opened: Image.Image) -> bool:
    """Whether deep colour is stored as this module reads it: channels interleaved and not premultiplied by alpha."""
    tags = getattr(opened, "tag_v2", {})
    in_planes = tags.get(_PLANAR) == _IN_PLANES and len(tags.get(_BITS, ())) > 1 and max(tags[_BITS]) > 8  # noqa: PLR2004
    return not in_planes and not _raw_mode(opened).startswith("RGBa;16")


def _raw_mode(opened: Image.Image) -> str:
    """Pillow's name for the layout of the pixels in the file."""
    tiles: list[Any] = getattr(opened, "tile", [])
    args = tiles[0].args if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args or "")


def colour_to_8_bits(high_bytes: Image.Image, undecoded: ImageFile.ImageFile) -> Image.Image:
    """An upright image of several 16-bit channels as 8 bits each.

    high_bytes: the image as Pillow decodes it, which drops the lower byte of each channel. undecoded: the same image,
    opened once more, from which the lower bytes are decoded.
    """
    raw = _raw_mode(undecoded)
    is_grey = raw == _GREY_AND_ALPHA
    # Pillow has no mode for 16-bit colour. Naming the other byte order makes it decode the lower bytes instead; grey
    # with alpha is decoded as four channels, the two bytes of each.
    other = "RGBA" if is_grey else raw[:-1] + _OTHER_BYTE[raw[-1]]
    undecoded.tile = [
        tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
        for tile in undecoded.tile
    ]
    ImageOps.exif_transpose(undecoded, in_place=True)
    return _grey_and_alpha(undecoded) if is_grey else _colour(high_bytes, undecoded)


def _colour(high: Image.Image, low: Image.Image) -> Image.Image:
    """8 bits a channel of an image's higher and lower bytes, in the range of the bits that its colours use: 12 bits in
    16 are scaled as 12. Alpha has a range of its own."""
    planes = [np.asarray(high), np.asarray(low)]
    num_colours = 3 if high.mode in {"RGB", "RGBA"} else len(high.getbands())
    step = max(1, high.width * high.height // _SAMPLE)
    sample = _joined(*(plane[::step] for plane in planes))
    tops = np.full(sample.shape[2], _top(np.quantile(sample[..., :num_colours], SHARES[1], method="higher")))
    if high.mode == "RGBA":
        tops[-1] = _top(sample[..., -1].max())
    shown = np.empty(planes[0].shape, np.uint8)
    for row, high_row, low_row in zip(shown, *planes, strict=True):
        row[...] = np.rint(np.minimum(_joined(high_row, low_row), tops) * (255 / tops))
    return Image.frombytes(high.mode, high.size, shown.tobytes())


def _joined(high: Values, low: Values) -> Values:
    return high.astype(np.uint16) << 8 | low


def _top(value: Any) -> int:
    """The largest number that has as many bits as a value, but at least 8."""
    return (1 << max(8, int(value).bit_length())) - 1


def _grey_and_alpha(both: Image.Image) -> Image.Image:
    """8-bit grey with alpha, of an image whose four channels are the two bytes of each."""
    planes = np.asarray(both)
    values, alpha = _joined(planes[..., 0], planes[..., 1]), _joined(planes[..., 2], planes[..., 3])
    shown = scaled(values, seen=alpha > 0), stretched(alpha, 0, _top(alpha.max()))
    return Image.merge("LA", [Image.fromarray(band) for band in shown])


def grey_to_8_bits(image: Image.Image, *, whole_range: bool = False) -> Image.Image:
    """Grey of more than 8 bits as 8 bits; see `scaled`. whole_range: scale from the darkest to the brightest value,
    also an image of 8 bits."""
    values = np.asarray(image)
    # Pillow has already inverted images of 8 bits and less whose lowest value is white.
    tags = getattr(image, "tag_v2", {})
    is_negative = image.mode in GREY_MODES and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    if not whole_range:
        return Image.fromarray(scaled(values, is_negative=is_negative))
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return Image.fromarray(stretched(values, low, high, is_negative=is_negative))


def scaled(values: Values, *, seen: Values | None = None, is_negative: bool = False) -> npt.NDArray[np.uint8]:
    """Values (height x width) as 8 bits, scaled from their 0.1st to their 99.9th percentile. NaN and infinity are
    black.

    Hot pixels do not change the range, and neither does a value that stands for "no data", however frequent: the lowest
    or highest value is left out where its distance to the next one exceeds the range of all others. Where these
    percentiles are the same value, as in a mask of something small, the range is from the lowest to the highest value.
    seen: mask of the values that determine the range.
    """
    step = max(1, values.size // _SAMPLE)
    sample = values.ravel()[::step]
    counted = np.isfinite(sample) if seen is None else np.isfinite(sample) & seen.ravel()[::step]
    low, high = _range(sample[counted])
    if low == high and (every := values[np.isfinite(values) if seen is None else np.isfinite(values) & seen]).size:
        low, high = float(every.min()), float(every.max())
    return stretched(values, low, high, is_negative=is_negative)


def stretched(values: Values, low: float, high: float, *, is_negative: bool = False) -> npt.NDArray[np.uint8]:
    """Values (height x width, with or without channels) as 8 bits, black at `low` and white at `high`, or inverted
    where the image is a negative; NaN and infinity are black."""
    scale = 255 / (high - low) if high > low else 0.0
    shown = np.empty(values.shape, np.uint8)
    for row, line in zip(shown, values, strict=True):  # a whole image in float64 would exceed a child's memory
        finite = np.isfinite(line)
        part = np.clip((np.where(finite, line, low).astype(np.float64) - low) * scale, 0, 255)
        row[...] = np.where(finite, np.rint(255 - part if is_negative else part), 0)
    return shown


def _range(values: Values) -> tuple[float, float]:
    if not values.size:
        return 0.0, 0.0
    low, high = _between(values)
    for outlier in (values.min(), values.max()):
        rest = values[values != outlier]
        if len(np.unique(rest)) < _FEW_VALUES:
            continue
        rest_low, rest_high = _between(rest)
        nearest = rest.min() if outlier < rest[0] else rest.max()
        if abs(float(outlier) - float(nearest)) > rest_high - rest_low:
            values, low, high = rest, rest_low, rest_high
    return low, high


def _between(values: Values) -> tuple[float, float]:
    lower, upper = SHARES
    return float(np.quantile(values, lower, method="lower")), float(np.quantile(values, upper, method="higher"))
