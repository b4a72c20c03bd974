"""Images of more than 8 bits a channel -> images of 8 bits, so that what can be seen in them is seen.

Pillow cuts deep grey off at 255, which turns a 16-bit radiograph white, and keeps the high bytes of deep colour alone,
which turns 12 bits of colour in 16 black.
"""

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

GREY_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
SHARES = (0.001, 0.999)  # of the values: those below the first are black, those above the second white
_SAMPLE = 1 << 18  # values that a range is taken from
_FEW_VALUES = 16  # with fewer, a value far from the others is a label as they are, and no outlier
_PHOTOMETRIC, _PLANAR, _BITS = 262, 284, 258  # TIFF's tags
_WHITE_IS_ZERO, _IN_PLANES = 0, 2
_GREY_AND_ALPHA = "LA;16B"
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}

Values = npt.NDArray[Any]


def is_deep_colour(opened: Image.Image) -> bool:
    """Whether an image that is opened, and not decoded yet, has 16 bits in each of several channels."""
    return opened.mode not in GREY_MODES and ";16" in _raw_mode(opened)


def is_readable(opened: Image.Image) -> bool:
    """Whether deep colour lies as it is read here: channels side by side, and not multiplied by their transparency."""
    tags = getattr(opened, "tag_v2", {})
    in_planes = tags.get(_PLANAR) == _IN_PLANES and len(tags.get(_BITS, ())) > 1 and max(tags[_BITS]) > 8  # noqa: PLR2004
    return not in_planes and not _raw_mode(opened).startswith("RGBa;16")


def is_negative(image: Image.Image) -> bool:
    """Whether the lowest value of a deep grey image is white; of 8 bits and less, Pillow has turned such over."""
    return image.mode in GREY_MODES and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def choose_low_bytes(opened: ImageFile.ImageFile) -> bool:
    """Have an image that is opened decode the lower byte of each channel, where Pillow would take the higher one.

    Returns whether it is grey with transparency, which has four channels then: the two bytes of each.
    """
    raw = _raw_mode(opened)
    is_grey = raw == _GREY_AND_ALPHA
    other = "RGBA" if is_grey else raw[:-1] + _OTHER_BYTE[raw[-1]]
    opened.tile = [
        tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other) for tile in opened.tile
    ]
    return is_grey


def _raw_mode(opened: Image.Image) -> str:
    """How Pillow calls the layout of the pixels in the file."""
    tiles: list[Any] = getattr(opened, "tile", [])
    args = tiles[0].args if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args or "")


def colour(high: Image.Image, low: Image.Image) -> Image.Image:
    """8 bits a channel of an image's higher and lower bytes, in the range of as many bits as its colours use: 12 bits
    in 16 are shown as 12. Transparency has a range of its own."""
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
    """The largest number of as many bits as a value has; of 8 at least."""
    return (1 << max(8, int(value).bit_length())) - 1


def grey_and_alpha(both: Image.Image) -> Image.Image:
    """Grey with transparency, 8 bits each, of an image that `choose_low_bytes` has prepared."""
    planes = np.asarray(both)
    values, alpha = _joined(planes[..., 0], planes[..., 1]), _joined(planes[..., 2], planes[..., 3])
    shown = scaled(values, seen=alpha > 0), spread(alpha, 0, _top(alpha.max()))
    return Image.merge("LA", [Image.fromarray(band) for band in shown])


def grey(image: Image.Image, *, whole_range: bool = False) -> Image.Image:
    """Deep grey as 8 bits; see `scaled`. whole_range: an image of 8 bits or more, from its darkest to its brightest
    value."""
    values = np.asarray(image)
    if not whole_range:
        return Image.fromarray(scaled(values, is_negative=is_negative(image)))
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return Image.fromarray(spread(values, low, high, is_negative=is_negative(image)))


def scaled(values: Values, *, seen: Values | None = None, is_negative: bool = False) -> npt.NDArray[np.uint8]:
    """Values (height x width) as 8 bits, from the 0.1st to the 99.9th percentile of them; what is no number is black.

    A hot pixel leaves all else as it is, and so does a value that stands for no data, however often it is there: it is
    none where it lies further from the others than they lie apart. Where all but fewer than these shares is of one
    value, as in a mask of something small, the range is the whole one. seen: which values count.
    """
    step = max(1, values.size // _SAMPLE)
    sample = values.ravel()[::step]
    counted = np.isfinite(sample) if seen is None else np.isfinite(sample) & seen.ravel()[::step]
    low, high = _range(sample[counted])
    if low == high and (every := values[np.isfinite(values) if seen is None else np.isfinite(values) & seen]).size:
        low, high = float(every.min()), float(every.max())
    return spread(values, low, high, is_negative=is_negative)


def spread(values: Values, low: float, high: float, *, is_negative: bool = False) -> npt.NDArray[np.uint8]:
    """Values (height x width, or with channels) as 8 bits, black at `low` and white at `high`, or the other way round;
    what is no number is black."""
    scale = 255 / (high - low) if high > low else 0.0
    shown = np.empty(values.shape, np.uint8)
    for row, line in zip(shown, values, strict=True):  # a whole image in double precision would not fit a child
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
