"""Bytes of the world -> a safe RGB image, or a reason why not: the one door for images.

What comes from outside passes `normalise` once, in a process that can be ended (`door.py`); what is sealed is then
plain, and later stages `read` it by its path, in a folder or inside a zip.
"""

import dataclasses
import functools
import io
import re
import stat
import warnings
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageOps, ImageStat, UnidentifiedImageError

from pipelines.images import depth, members, stripping

MAX_BYTES = 64 << 20
MAX_PIXELS = 64_000_000
MAX_ASPECT = 200  # longer side over shorter one, as Qwen's image processor has it, of what it is shown
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")  # Pillow knows more, one of which runs a program
_KEPT_FORMATS = frozenset({"PNG", "JPEG"})  # every reader of images knows these
_BRAND = rb".{4}ftyp(?:.{4}){0,16}?"  # of a family of formats, whose brands follow one another
OTHER_FORMATS = {  # images that are not read, by how they begin; what they are called is the reason
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
_DECODER_GAP = 2  # a JPEG's decoder may make an image smaller to twice what it shall have on each side, and no further
_REDUCING_GAP = 3.0  # likewise a first, coarse step of making it smaller
_LARGE_PNG = 1 << 20  # bytes, above which an image is stored as JPEG whatever it came as
_FEW_PIXELS = 1 << 16  # up to which an image is stored as PNG whatever it came as
_JPEG_SIDE = 65_500
_OPEN_ZIPS = 16
_PNG_LEVEL = 3  # of 9: half the time of 6, zlib's own choice, for a few per cent more bytes

Image.MAX_IMAGE_PIXELS = None  # our own limit, which is lower and an error, stands in the place of Pillow's warning


class UnreadableImageError(Exception):
    """These bytes give no image; the message is the reason, a few words without the path."""


@dataclasses.dataclass(frozen=True)
class Normal:
    """A normalised image, the bytes that it is stored as with their file name's ending, and what was changed.

    pixels: as they were before they were encoded, grey where they have no colour, else RGB.
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

    box: left, top, right, bottom in pixels, clamped to the image. stretch_tiff: show a TIFF from its darkest to its
    brightest value, also one of 8 bits. Where nothing has to change, those of the source's bytes are kept that are its
    pixels; else it is stored as PNG, or as JPEG where its own format had lost something already, or a PNG would be
    large. Raises UnreadableImageError.
    """
    image, kind, is_lossy, changes = _decoded(data, stretch_tiff, None if box is not None else max_pixels)
    if box is not None:
        image = crop(image, box)
        _check_aspect(image)
        changes.append("cropped")
    image = _grey_if_colourless(image)
    fitting = within(image, max_pixels)
    _check_aspect(fitting)
    if fitting is not image:
        changes.append("resized")
    if not changes and kind in _KEPT_FORMATS and (bare := stripping.stripped(data)) is not None:
        return Normal(fitting, bare, f".{kind.lower()}", ())
    is_only_repacked = not changes and kind == "PNG"
    stored, stored_kind = (png(fitting), "png") if is_only_repacked else _encoded(fitting, is_lossy)
    return Normal(fitting, stored, f".{stored_kind}", tuple(changes) or (f"as_{stored_kind}",))


def decode(data: bytes) -> Image.Image:
    """The first frame as RGB, upright, on white where it is transparent, 8 bits a channel; what has more is scaled.

    Raises UnreadableImageError for anything that is too large, truncated or no image.
    """
    return _rgb(_decoded(data, stretch_tiff=False)[0])


_Decoded = tuple[Image.Image, str, bool, list[str]]


def _decoded(data: bytes, stretch_tiff: bool, max_pixels: int | None = None) -> _Decoded:
    """The image, grey where it is stored so and else RGB; its format; whether that loses something; and what had to be
    changed. max_pixels: of what will be made of it, so that its decoder may make it smaller, though not as small."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow remarks on damage that it can read past
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UnreadableImageError("too_many_pixels")
                _check_aspect(image)
                if not depth.is_readable(image):
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
    """What bytes are that no decoder takes, as far as their beginning tells."""
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
    is_deep_colour = depth.is_deep_colour(image)  # no longer to be told once it is decoded
    orientation = image.getexif().get(0x0112, 1)
    ImageOps.exif_transpose(image, in_place=True)
    if orientation in range(2, 9):
        changes.append("upright")
    if is_deep_colour:
        image = _shallow_colour(image, data)
        changes.append("colours_scaled_to_8_bits")
    elif stretch_tiff and kind == "TIFF" and image.mode in depth.GREY_MODES | {"L", "RGB"}:
        image = depth.grey(image, whole_range=True)
        changes.append("brightness_scaled_darkest_to_brightest")
    elif image.mode in depth.GREY_MODES:
        image = depth.grey(image)
        changes.append("brightness_scaled_0.1_to_99.9_percent")
    if image.has_transparency_data:
        whole = image.convert("RGBA")
        image = Image.new("RGB", whole.size, "white")
        image.paste(whole, mask=whole)
        changes.append("on_white")
    elif image.mode not in {"RGB", "L"}:
        image = image.convert("RGB")
        changes.append("as_rgb")
    image.info.clear()  # what it says of colours, which a PNG would take over, was said of other pixels
    return image, kind, is_lossy, changes


def _is_lossy(opened: Image.Image, data: bytes) -> bool:
    """Whether the format of an image is one that loses something."""
    if opened.format == "WEBP":
        return b"VP8L" not in data
    return opened.format in {"JPEG", "MPO"} or opened.info.get("compression") in {"jpeg", "tiff_jpeg", "webp"}


def _shallow_colour(decoded: Image.Image, data: bytes) -> Image.Image:
    """The upright image in these bytes with 8 bits a channel, of which Pillow has decoded the higher bytes."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        is_grey = depth.choose_low_bytes(image)
        ImageOps.exif_transpose(image, in_place=True)
        return depth.grey_and_alpha(image) if is_grey else depth.colour(decoded, image)


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_if_colourless(image: Image.Image) -> Image.Image:
    """The image as grey where no pixel has a colour: so are most radiographs and micrographs that are stored as RGB,
    and everything takes a third of the time then."""
    if image.mode == "L":
        return image
    for part in (image.resize((32, 32), Image.Resampling.NEAREST), image):  # colour is found by a few pixels
        red, green, blue = part.split()
        if any(ImageChops.difference(red, other).getbbox() for other in (green, blue)):
            return image
    return red


def _encoded(image: Image.Image, is_lossy: bool) -> tuple[bytes, str]:
    """The bytes that an image is stored as, and their format."""
    fits_jpeg = max(image.size) <= _JPEG_SIDE
    if not is_lossy or not fits_jpeg or image.width * image.height <= _FEW_PIXELS:
        data = png(image)
        if len(data) <= _LARGE_PNG or not fits_jpeg:
            return data, "png"
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=95, subsampling="4:4:4")
    return buffer.getvalue(), "jpeg"


def crop(image: Image.Image, box: Box) -> Image.Image:
    """The part inside left, top, right, bottom, clamped to the image and to whole pixels outwards."""
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
    """The image, made smaller until it has at most `max_pixels`, in its own proportions as far as whole pixels go."""
    width, height = image.size
    if width * height <= max_pixels:
        return image
    return image.resize(_fitting(image.size, max_pixels), Image.Resampling.BICUBIC, reducing_gap=_REDUCING_GAP)


def _fitting(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """The size of a larger image when it is made smaller."""
    width, height = size
    scale = (max_pixels / (width * height)) ** 0.5
    return max(1, int(width * scale)), max(1, int(height * scale))


def read(path: Path) -> Image.Image:
    """The image in a file, or in a zip's member, as RGB; raises UnreadableImageError."""
    return decode(read_bytes(path))


def size(path: Path) -> tuple[int, int]:
    """Width and height of a sealed image, without decoding it; raises UnreadableImageError."""
    try:
        with Image.open(io.BytesIO(read_bytes(path)), formats=FORMATS) as image:
            return image.size
    except OSError as error:
        raise UnreadableImageError("not_an_image") from error


def read_bytes(path: Path) -> bytes:
    """The bytes of an image's file, or of a member of a zip (`images.zip/1.png`).

    Raises UnreadableImageError when it is no plain file or too large.
    """
    try:
        if archive := next((parent for parent in path.parents if parent.suffix == ".zip" and parent.is_file()), None):
            status = archive.stat()
            return read_member(
                _zip(archive, (status.st_ino, status.st_size, status.st_mtime_ns)), str(path.relative_to(archive))
            )
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImageError("missing_image")
        if status.st_size > MAX_BYTES:
            raise UnreadableImageError("image_file_too_large")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UnreadableImageError("missing_image") from error


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member's bytes, never more than MAX_BYTES, whatever its entry says. Raises UnreadableImageError."""
    try:
        with archive.open(members.info(archive, name)) as member:
            data = member.read(MAX_BYTES + 1)
    except KeyError as error:
        raise UnreadableImageError("missing_image") from error
    except MemoryError:
        raise
    except Exception as error:  # damaged or encrypted: each way of packing has errors of its own
        raise UnreadableImageError("damaged_zip_member") from error
    if len(data) > MAX_BYTES:
        raise UnreadableImageError("image_file_too_large")
    return data


@functools.lru_cache(maxsize=_OPEN_ZIPS)
def _zip(path: Path, state: tuple[int, ...]) -> zipfile.ZipFile:
    """The opened zip; state: what tells this file from another one that took its place."""
    try:
        return zipfile.ZipFile(path)
    except OSError:
        raise
    except Exception as error:  # a damaged directory is not always found to be one
        raise UnreadableImageError("damaged_zip") from error


def blank(image: Image.Image) -> Image.Image:
    """An image of the same size that shows nothing: its mean grey everywhere."""
    grey = round(ImageStat.Stat(image.convert("L")).mean[0])
    return Image.new("RGB", image.size, (grey, grey, grey))


def png(image: Image.Image) -> bytes:
    """The image as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()
