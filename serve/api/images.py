"""An image's URL in a request -> the URL that an engine gets, or a refusal.

Only an image's header is decoded, so that its size is known before memory is taken for it.
"""

import binascii
import re
from http import HTTPStatus
from urllib.parse import urlsplit

from pipelines.images import parts
from pipelines.images.decoding import MAX_ASPECT
from serve.api.errors import Refused

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_DATA_URL = re.compile(r"data:image/[\w.+-]{1,40};base64", re.ASCII | re.IGNORECASE)
# Parsers disagree on backslashes, blanks and what stands before an @: the engine's could see another host than ours.
_PLAIN_ADDRESS = re.compile(r"https?://[^@/?#]*([/?#].*)?", re.IGNORECASE)
_PLAIN_CHARACTERS = re.compile(r"[!-\[\]-~]+")
_MAX_QUOTED = 80


def checked_url(url: str, max_pixels: int, domains: tuple[str, ...]) -> str:
    """The URL as an engine gets it: a data URL with a checked image, or an address on one of the listed hosts.

    Raises Refused.
    """
    if url[:5].lower() == "data:":
        return _checked_data_url(url, max_pixels)
    _check_address(url, domains)
    return url


def _checked_data_url(url: str, max_pixels: int) -> str:
    kind, comma, payload = url.partition(",")
    if not comma or not _DATA_URL.fullmatch(kind):
        raise _refused("An image's data URL reads data:image/png;base64,... (or jpeg, webp, gif).")
    try:
        data = binascii.a2b_base64(payload, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise _refused("An image's data URL holds no valid base64.") from error
    return f"data:image/{_check_image(data, max_pixels).lower()};base64,{payload}"


def _check_image(data: bytes, max_pixels: int) -> str:
    """The format of an image that may be decoded; raises Refused for anything else."""
    try:
        kind, width, height = parts.header(data, FORMATS)
    except parts.TooManyPartsError as error:
        raise _refused(str(error)) from error
    except Exception as error:
        raise _refused(f"An image cannot be read; {', '.join(FORMATS)} are taken.") from error
    if width * height > max_pixels:
        raise _refused(
            f"An image has {width} x {height} pixels; at most {max_pixels} are taken. Send it smaller: "
            "models get fewer pixels anyway."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise _refused(f"An image has {width} x {height} pixels: one side is over {MAX_ASPECT} times the other.")
    return kind


def _check_address(url: str, domains: tuple[str, ...]) -> None:
    try:
        address = urlsplit(url)
        host = address.hostname or ""
    except ValueError as error:
        raise _refused("An image's URL cannot be read.") from error
    is_plain = _PLAIN_CHARACTERS.fullmatch(url) and _PLAIN_ADDRESS.fullmatch(url)
    if not is_plain or host not in domains:
        allowed = f" or from {', '.join(domains)}" if domains else ""
        raise _refused(
            f"Images come as data: URLs{allowed}; nothing is fetched from {host[:_MAX_QUOTED] or 'elsewhere'!r}. "
            "The endpoint's owner lists further hosts with --set 'deploy.image_domains=[\"HOST\"]'"
        )


def _refused(message: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, message)
