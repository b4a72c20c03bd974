"""The name that a table gives an image -> the path or URI of its bytes, or the reason why there are none.

Only files below the images' folder, or inside their zip, are ever found. A name or a link that leads out of it, and an
internet address, are reasons; nothing is unpacked or fetched.
"""

import os
import posixpath
import re
import zipfile
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Protocol

from infra import storage
from infra.errors import InputError, first_line
from pipelines.images import zip_members
from pipelines.images.decoding import UnreadableImageError
from pipelines.questions.candidates import MAX_NAME
from pipelines.questions.sources.source import Source

SUBFOLDERS = ("", "images", "figures")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_ADDRESS = re.compile(
    r"[a-z][a-z0-9+.-]*:.*//|www\.[^/]+/|//[^/]+\.[^/]+/", re.IGNORECASE
)  # `//host.org/` has no scheme


class ImageLocation(Protocol):
    """A place that holds images by their names below it."""

    def has(self, name: str) -> bool:
        """Whether there is a file of exactly this name; raises UnreadableImageError where it lies elsewhere."""

    def names(self) -> Iterator[str]:
        """All names, to find images that a table names without their folders."""

    def place_of(self, name: str) -> str:
        """The path or URI of a file, as `image_bytes.read` takes it."""


class Folder:
    """A folder of this machine. only_images: whether it holds nothing but images, so that all folders below it are
    searched."""

    def __init__(self, path: str, *, only_images: bool) -> None:
        self._path = os.path.realpath(path)
        self._only_images = only_images

    def has(self, name: str) -> bool:
        path = os.path.join(self._path, name)
        if not os.path.isfile(path):
            return False
        if not os.path.realpath(path).startswith(self._path.rstrip("/") + "/"):
            raise UnreadableImageError("image_outside_folder")
        return True

    def names(self) -> Iterator[str]:
        for start in [""] if self._only_images else SUBFOLDERS[1:]:
            for entry in storage.listing(os.path.join(self._path, start)):
                yield posixpath.join(start, entry.name)

    def place_of(self, name: str) -> str:
        return os.path.join(self._path, name)


class Listed:
    """A zip, or a prefix of a store, whose names are known from one listing. names: below it; some may occur twice."""

    def __init__(self, uri: str, names: Iterable[str]) -> None:
        self._uri = uri
        self._names: dict[str, int] = {}
        for name in names:
            self._names[name] = self._names.get(name, 0) + 1

    def has(self, name: str) -> bool:
        if self._names.get(name, 0) > 1:
            raise UnreadableImageError("image_name_is_ambiguous")
        return name in self._names

    def names(self) -> Iterator[str]:
        yield from self._names

    def place_of(self, name: str) -> str:
        return f"{self._uri}/{name}"


def image_locations(source: Source) -> list[ImageLocation]:
    """Where a source's images may be, in the order of the search.

    What the recipe names; otherwise the table's folder with its `images` and `figures`, the zips of these names beside
    the table, and the zip that the table is in. Raises InputError for a zip that cannot be read.
    """
    if source.images is not None:
        return [_location(source.images, only_images=True)]
    beside = storage.parent(source.table)
    zips = [
        storage.join(beside, entry.name)
        for entry in sorted(_beside(beside), key=lambda entry: entry.name)
        if re.fullmatch(r"(images|figures)\w*\.zip", entry.name)
    ]
    if source.table.endswith(".zip"):
        zips.insert(0, source.table)
    return [_location(beside, only_images=False), *(_location(path, only_images=True) for path in zips)]


def _beside(folder: str) -> list[storage.Entry]:
    if storage.is_remote(folder):
        return [entry for entry in storage.listing(folder) if "/" not in entry.name]
    return [storage.Entry(entry.name, 0, 0) for entry in os.scandir(folder) if entry.is_file()]


def _location(uri: str, *, only_images: bool) -> ImageLocation:
    if uri.endswith(".zip") and storage.kind(uri) == "file":
        try:
            with storage.open_binary(uri) as stream, zipfile.ZipFile(stream) as archive:
                return Listed(uri, filter(None, map(zip_members.clean, archive.namelist())))
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise InputError(f"{uri} is no zip that can be read: {first_line(error)}") from error
    if storage.kind(uri) == "file":
        raise InputError(f"{uri} is neither a folder nor a .zip of images.")
    if storage.is_remote(uri):
        return Listed(uri, (entry.name for entry in storage.listing(uri)))
    return Folder(uri, only_images=only_images)


class ImageFinder:
    """Finds images by the names that a source's table gives them."""

    def __init__(self, source: Source) -> None:
        self._locations = image_locations(source)

    def find(self, name: str) -> str:
        """The path or URI of an image. Raises UnreadableImageError with the reason when there is not exactly one."""
        below = _checked(name)
        if place := self._find_direct(below):
            return place
        spellings = dict.fromkeys(zip_members.spellings(below))
        places = {place for spelled in spellings if (place := self._find_direct(spelled))}
        if len(places) > 1:
            raise UnreadableImageError("image_name_is_ambiguous")
        return places.pop() if places else self._find_nested([below, *spellings])

    def _find_direct(self, below: str) -> str | None:
        """The file of exactly this path, in the first location that has one."""
        first, _, rest = below.partition("/")
        inside = [rest] if first in SUBFOLDERS and rest else []  # where the location is itself such a subfolder
        for location in self._locations:
            for candidate in [*(posixpath.join(subfolder, below) for subfolder in SUBFOLDERS), *inside]:
                if location.has(candidate):
                    return location.place_of(candidate)
        return None

    def _find_nested(self, spellings: list[str]) -> str:
        """The only file whose path ends in this name with its folders: `1/a.png` is not found as `2/a.png`."""
        found = list(
            dict.fromkeys(
                (number, name)
                for below in spellings
                for number, name in self._by_base.get(posixpath.basename(below), ())
                if f"/{name}".endswith(f"/{below}")
            )
        )
        if not found:
            raise UnreadableImageError("missing_image")
        if len(found) > 1:
            raise UnreadableImageError("image_name_is_ambiguous")
        number, name = found[0]
        location = self._locations[number]
        if not location.has(name):
            raise UnreadableImageError("missing_image")
        return location.place_of(name)

    @cached_property
    def _by_base(self) -> dict[str, list[tuple[int, str]]]:
        """Base name -> the number of the location and the path of each such file. Some tables of PMC-VQA, for example,
        name figures without the folder that they have in the zip."""
        by_base: dict[str, list[tuple[int, str]]] = {}
        for number, location in enumerate(self._locations):
            for name in location.names():
                by_base.setdefault(posixpath.basename(name), []).append((number, name))
        return by_base


def _checked(name: str) -> str:
    """The name as a path below a location; raises UnreadableImageError where it is none, or leads elsewhere."""
    if len(name) > MAX_NAME or not name.isprintable():
        raise UnreadableImageError("image_name_unreadable")
    if _ADDRESS.match(name):
        raise UnreadableImageError("image_is_an_address")
    below = name.replace("\\", "/")
    if below.startswith("/") or _SCHEME.match(below) or ".." in below.split("/"):
        raise UnreadableImageError("image_outside_folder")
    return posixpath.normpath(below)
