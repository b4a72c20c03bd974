"""An image file's bytes -> a safe image of 8 bits a channel, or the reason why not.

Images from outside pass `normalise` once, in a child process that can be ended (`sandbox.py`). What is sealed
afterwards is harmless, and later stages `decode` it.
"""

import dataclasses
import io
import re
import warnings

import numpy as np
from PIL import Image, ImageChops, ImageOps, ImageStat, UnidentifiedImageError

from pipelines.images import bit_depth, metadata_removal

MAX_PIXELS = 64_000_000
MAX_ASPECT = 200  # longer side / shorter side; Qwen's image processor refuses more
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")  # Pillow knows more, one of which runs a program
_KEPT_FORMATS = frozenset({"PNG", "JPEG"})  # every reader of images knows these
_BRAND = rb".{4}ftyp(?:.{4}){0,16}?"  # how HEIC and AVIF begin, up to the brand that tells which of them it is
OTHER_FORMATS = {  # reason -> the first bytes of a format that is not read
    "dicom_image": re.compile(rb".{128}DICM", re.DOTALL),
    "avif_image": re.compile(_BRAND + rb"avi[fs]", re.DOTALL),
    "heic_image": re.compile(_BRAND + rb"(?:he[iv][a-z]|mif1|msf1)", re.DOTALL),
    "jpeg_2000_image": re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    "jpeg_xl_image": re.compile(rb"\0\0\0\x0cJXL |\xff\x0a"),
    "pdf_document": re.compile(rb"%PDF-"),
    "svg_drawing": re.compile(
        rb"\s*(?:<\?xml[^>]{,200}>\s*)?(?:<!--.{,500}?-->\s*)?(?:<!DOCTYPE svg|<svg\b)", re.DOTALL
    ),
    "git_lfs_pointer": re.compile(rb"version https://git-lfs"),
}
_DECODER_GAP = 2  # a JPEG's decoder may shrink an image to no less than this many times its final width and height
_REDUCING_GAP = 3.0  # the same for the first, coarse step of resizing
_MAX_PNG_BYTES = 1 << 20  # an image whose PNG would be larger is stored as JPEG
_SMALL_PIXELS = 1 << 16  # an image of at most this many pixels is stored as PNG, also if it came as JPEG
_MAX_JPEG_SIDE = 65_500
_PNG_LEVEL = 3  # of 9: half the time of zlib's default 6, for a few per cent more bytes

Image.MAX_IMAGE_PIXELS = None  # Pillow only warns about many pixels; MAX_PIXELS is lower, and an error


class UnreadableImageError(Exception):
    """These bytes give no image; the message is the reason, a few words without the path."""


@dataclasses.dataclass(frozen=True)
class Normal:
    """A normalised image.

    pixels: before they were encoded, mode L where they have no colour, else RGB. data: the bytes that are stored.
    suffix: `.png` or `.jpeg`, of the stored file's name. changes: names of what was changed, in order; empty where
    the source's own coded bytes are stored.
    """

    pixels: Image.Image
    data: bytes
    suffix: str
    changes: tuple[str, ...]

    @property
    def image(self) -> Image.Image:
        """The pixels as RGB."""
        return _rgb(self.pixels)


Box = tuple[float, float, float, float]


def normalise(data: bytes, *, max_pixels: int, box: Box | None = None, stretch_tiff: bool = False) -> Normal:
    """The image that a model may be shown: first frame, upright, 8 bits, cropped to `box`, at most `max_pixels`.

    box: left, top, right, bottom in pixels, clamped to the image. stretch_tiff: scale a TIFF from its darkest to its
    brightest value, even if it has 8 bits. Where nothing has to change, the source's coded pixels are kept without its
    metadata. Otherwise it is stored as PNG, or as JPEG where its own format is lossy or a PNG would be large.
    Raises UnreadableImageError.
    """
    image, kind, is_lossy, changes = _decoded(data, stretch_tiff, max_pixels if box is None else None)
    if box is not None:
        image = crop(image, box)
        _check_aspect(image)
        changes.append("cropped")
    image = _grey_if_colourless(image)
    fitting = within(image, max_pixels)
    _check_aspect(fitting)
    if fitting is not image:
        changes.append("resized")
    if not changes and kind in _KEPT_FORMATS and (bare := metadata_removal.without_metadata(data)) is not None:
        return Normal(fitting, bare, f".{kind.lower()}", ())
    must_stay_png = not changes and kind == "PNG"  # only its metadata could not be removed
    stored, stored_kind = (png(fitting), "png") if must_stay_png else _encoded(fitting, is_lossy)
    return Normal(fitting, stored, f".{stored_kind}", tuple(changes) or (f"as_{stored_kind}",))


def decode(data: bytes) -> Image.Image:
    """The first frame as RGB, upright, on white where it is transparent, scaled to 8 bits a channel.

    Raises UnreadableImageError for anything that is too large, truncated or no image.
    """
    return _rgb(_decoded(data, stretch_tiff=False)[0])


def decode_small(data: bytes, side: int) -> Image.Image:
    """An image that `normalise` stored, in grey or RGB; a large one may come smaller, but with `side` pixels at its
    longer side. Raises UnreadableImageError."""
    try:
        with Image.open(io.BytesIO(data), formats=tuple(_KEPT_FORMATS)) as image:
            longer = max(image.size)
            image.draft(None, (side * image.width // longer, side * image.height // longer))
            return image.convert("L" if image.mode == "L" else "RGB")
    except Exception as error:  # decoders meet damaged bytes with whatever their code happens to raise
        raise UnreadableImageError("damaged_image") from error


_Decoded = tuple[Image.Image, str, bool, list[str]]  # mode L or RGB, format, whether that is lossy, changes


def _decoded(data: bytes, stretch_tiff: bool, max_pixels: int | None = None) -> _Decoded:
    """max_pixels: of the final image, so that a JPEG's decoder may shrink it while decoding; None for no limit."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damage that it can read past
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UnreadableImageError("too_many_pixels")
                _check_aspect(image)
                if not bit_depth.is_supported(image):
                    raise UnreadableImageError("deep_colour_layout")
                return _flattened(image, data, stretch_tiff, max_pixels)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(_why_no_image(data)) from error
    except MemoryError as error:
        raise UnreadableImageError("needs_too_much_memory") from error
    except Exception as error:  # decoders meet hostile bytes with whatever their code happens to raise
        raise UnreadableImageError("damaged_image") from error


def _why_no_image(data: bytes) -> str:
    """The reason for bytes that Pillow does not open, by how they begin."""
    if any(accepts and accepts(data[:16]) for _, accepts in (Image.OPEN[kind] for kind in FORMATS)):
        return "damaged_image"
    return next((reason for reason, beginning in OTHER_FORMATS.items() if beginning.match(data)), "not_an_image")


def _check_aspect(image: Image.Image) -> None:
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise UnreadableImageError("too_elongated")


def _flattened(image: Image.Image, data: bytes, stretch_tiff: bool, max_pixels: int | None) -> _Decoded:
    changes = []
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    is_lossy = _is_lossy(image, data)
    if getattr(image, "is_animated", False) or image.format == "MPO":
        changes.append("first_frame")
    if kind == "JPEG" and max_pixels and image.width * image.height > max_pixels:
        width, height = _fitting(image.size, max_pixels)
        image.draft(image.mode, (_DECODER_GAP * width, _DECODER_GAP * height))
    is_deep_colour = bit_depth.is_deep_colour(image)  # asked now, since decoding discards the answer
    orientation = image.getexif().get(0x0112, 1)
    ImageOps.exif_transpose(image, in_place=True)
    if orientation in range(2, 9):
        changes.append("upright")
    if is_deep_colour:
        with Image.open(io.BytesIO(data), formats=FORMATS) as undecoded:
            image = bit_depth.colour_to_8_bits(image, undecoded)
        changes.append("colours_scaled_to_8_bits")
    elif stretch_tiff and kind == "TIFF" and image.mode in bit_depth.GREY_MODES | {"L", "RGB"}:
        image = bit_depth.grey_to_8_bits(image, whole_range=True)
        changes.append("brightness_scaled_darkest_to_brightest")
    elif image.mode in bit_depth.GREY_MODES:
        image = bit_depth.grey_to_8_bits(image)
        changes.append("brightness_scaled_0.1_to_99.9_percent")
    if image.has_transparency_data:
        whole = image.convert("RGBA")
        image = Image.new("RGB", whole.size, "white")
        image.paste(whole, mask=whole)
        changes.append("on_white")
    elif image.mode not in {"RGB", "L"}:
        image = image.convert("RGB")
        changes.append("as_rgb")
    image.info.clear()  # a PNG would take over its colour profile, which describes the pixels before these changes
    return image, kind, is_lossy, changes


def _is_lossy(opened: Image.Image, data: bytes) -> bool:
    """Whether an image is stored with lossy compression."""
    if opened.format == "WEBP":
        return b"VP8L" not in data
    return opened.format in {"JPEG", "MPO"} or opened.info.get("compression") in {"jpeg", "tiff_jpeg", "webp"}


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_if_colourless(image: Image.Image) -> Image.Image:
    """The image as grey where no pixel has a colour. Most radiographs and micrographs that are stored as RGB are grey,
    and everything takes a third of the time then."""
    if image.mode == "L":
        return image
    for part in (image.resize((32, 32), Image.Resampling.NEAREST), image):  # a few pixels show most colours
        red, green, blue = part.split()
        if any(ImageChops.difference(red, other).getbbox() for other in (green, blue)):
            return image
    return red


def _encoded(image: Image.Image, is_lossy: bool) -> tuple[bytes, str]:
    """The bytes that an image is stored as, and their format, `png` or `jpeg`."""
    fits_jpeg = max(image.size) <= _MAX_JPEG_SIDE
    if not is_lossy or not fits_jpeg or image.width * image.height <= _SMALL_PIXELS:
        data = png(image)
        if len(data) <= _MAX_PNG_BYTES or not fits_jpeg:
            return data, "png"
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=95, subsampling="4:4:4")
    return buffer.getvalue(), "jpeg"


def crop(image: Image.Image, box: Box) -> Image.Image:
    """The part inside left, top, right, bottom (pixels), widened to whole pixels and clamped to the image.

    Raises UnreadableImageError when nothing of the box lies inside the image.
    """
    left, top, right, bottom = box
    edges = (
        max(0, int(np.floor(left))),
        max(0, int(np.floor(top))),
        min(image.width, int(np.ceil(right))),
        min(image.height, int(np.ceil(bottom))),
    )
    if edges[0] >= edges[2] or edges[1] >= edges[3]:
        raise UnreadableImageError("crop_outside_image")
    return image.crop(edges)


def within(image: Image.Image, max_pixels: int) -> Image.Image:
    """The image, resized to at most `max_pixels` where it has more, in its own proportions to whole pixels."""
    width, height = image.size
    if width * height <= max_pixels:
        return image
    return image.resize(_fitting(image.size, max_pixels), Image.Resampling.BICUBIC, reducing_gap=_REDUCING_GAP)


def _fitting(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """Width and height to which a larger image is resized."""
    width, height = size
    scale = (max_pixels / (width * height)) ** 0.5
    return max(1, int(width * scale)), max(1, int(height * scale))


def blank(image: Image.Image) -> Image.Image:
    """An image of the same size that shows nothing: its mean grey everywhere."""
    grey = round(ImageStat.Stat(image.convert("L")).mean[0])
    return Image.new("RGB", image.size, (grey, grey, grey))


def png(image: Image.Image) -> bytes:
    """The image as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()
