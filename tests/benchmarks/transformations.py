"""What happens to a picture between two data sets, by name: each makes of an image the one that a copy of it may be."""

import io
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

Made = Callable[[Image.Image, list[Image.Image], random.Random], Image.Image]


def transformed(kind: str, image: Image.Image, others: list[Image.Image], seed: int) -> Image.Image:
    """An image after this change. others: the panels beside it. The same seed changes it in the same way."""
    return KINDS[kind](image.convert("RGB"), others, random.Random(f"{kind} {seed}"))


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def _blurred(image: Image.Image, radius: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


def _noisy(image: Image.Image, deviation: float, random_: random.Random) -> Image.Image:
    noise = np.random.default_rng(random_.getrandbits(32)).normal(0, deviation, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def _cropped(image: Image.Image, shares: list[float]) -> Image.Image:
    """shares: cut off at the left, top, right and bottom."""
    cut = [round(share * side) for share, side in zip(shares, image.size * 2, strict=True)]
    return image.crop((cut[0], cut[1], image.width - cut[2], image.height - cut[3]))


def _framed(image: Image.Image, share: float, colour: str) -> Image.Image:
    return ImageOps.expand(image, max(1, round(share * min(image.size))), colour)


def _labelled(image: Image.Image, random_: random.Random) -> Image.Image:
    """A panel's letter in a corner, and two arrows."""
    image = image.copy()
    drawing, (width, height) = ImageDraw.Draw(image), image.size
    size = max(10, min(image.size) // 12)
    drawing.rectangle((0, 0, 1.2 * size, 1.3 * size), fill="white")
    drawing.text((0.2 * size, 0), random_.choice("ABCDabcd"), fill="black", font=ImageFont.load_default(size))
    for _ in range(2):
        x, y = random_.uniform(0.25, 0.65) * width, random_.uniform(0.25, 0.65) * height
        drawing.line((x, y, x + 0.1 * width, y + 0.1 * height), fill="white", width=max(2, size // 8))
        drawing.polygon([(x, y), (x + 0.04 * width, y), (x, y + 0.04 * height)], fill="white")
    return image


def _compound(
    image: Image.Image, others: list[Image.Image], random_: random.Random, rows: int, across: int
) -> Image.Image:
    """A figure in which the image is a panel beside others, with white between them."""
    panels = [image, *random_.sample(others, rows * across - 1)]
    random_.shuffle(panels)
    gutter = max(2, round(0.03 * min(image.size)))
    width, height = image.width + gutter, image.height + gutter
    figure = Image.new("RGB", (across * width - gutter, rows * height - gutter), "white")
    for place, panel in enumerate(panels):
        figure.paste(panel.convert("RGB").resize(image.size), (place % across * width, place // across * height))
    figure.thumbnail((1100, 1100))
    return _jpeg(figure, 85)


def _turned(image: Image.Image, by: Image.Transpose) -> Image.Image:
    return image.transpose(by)


KINDS: dict[str, Made] = {
    "re-encoded, quality 50": lambda image, others, r: _jpeg(image, 50),
    "re-encoded, quality 20": lambda image, others, r: _jpeg(image, 20),
    "half as large": lambda image, others, r: image.resize((image.width // 2, image.height // 2)),
    "other proportions": lambda image, others, r: image.resize((256, 256)),
    "grey": lambda image, others, r: image.convert("L"),
    "blurred": lambda image, others, r: _blurred(image, 2),
    "noisy": lambda image, others, r: _noisy(image, 12, r),
    "brighter": lambda image, others, r: ImageEnhance.Brightness(image).enhance(1.3),
    "darker": lambda image, others, r: ImageEnhance.Brightness(image).enhance(0.7),
    "more contrast": lambda image, others, r: ImageEnhance.Contrast(image).enhance(1.4),
    "less contrast": lambda image, others, r: ImageEnhance.Contrast(image).enhance(0.6),
    "cropped 2 % a side": lambda image, others, r: _cropped(image, [0.02] * 4),
    "cropped 5 % a side": lambda image, others, r: _cropped(image, [0.05] * 4),
    "cropped unevenly": lambda image, others, r: _cropped(image, [r.uniform(0, 0.05) for _ in range(4)]),
    "white border": lambda image, others, r: _framed(image, 0.04, "white"),
    "black border": lambda image, others, r: _framed(image, 0.1, "black"),
    "letter and arrows": lambda image, others, r: _labelled(image, r),
    "turned by a degree": lambda image, others, r: image.rotate(1, Image.Resampling.BICUBIC),
    "mirrored": lambda image, others, r: ImageOps.mirror(image),
    "upside down": lambda image, others, r: _turned(image, Image.Transpose.ROTATE_180),
    "quarter turn": lambda image, others, r: _turned(image, Image.Transpose.ROTATE_90),
    "mirrored quarter turn": lambda image, others, r: _turned(image, Image.Transpose.TRANSPOSE),
    "panel of two": lambda image, others, r: _compound(image, others, r, 1, 2),
    "panel of four": lambda image, others, r: _compound(image, others, r, 2, 2),
}
