"""The name that a table gives an image -> where its bytes are, or the reason why they are nowhere.

Only files below the images' folder, or inside their zip, are ever found: a name that leads out of it, a link that does,
or an address are reasons, and nothing is unpacked or fetched.
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
from pipelines.images import members
from pipelines.images.decoding import UnreadableImageError
from pipelines.questions.candidates import MAX_NAME
from pipelines.questions.sources.source import Source

SUBFOLDERS = ("", "images", "figures")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:.*//|www\.[^/]+/|//[^/]+\.[^/]+/", re.IGNORECASE)  # `//host.org/` has none


class Root(Protocol):
    """A place that holds images by their names below it."""

    def has(self, name: str) -> bool:
        """Whether there is a file of exactly this name; raises UnreadableImageError where it lies elsewhere."""

    def names(self) -> Iterator[str]:
        """All names, for those that a table gives without their folders."""

    def location(self, name: str) -> str:
        """The path or URI under which `images.read_bytes` or a store finds the file."""


class Folder:
    """A folder of this machine. whole: whether it holds nothing but images and may be searched to its depths."""

    def __init__(self, path: str, *, whole: bool) -> None:
        self._path = os.path.realpath(path)
        self._whole = whole

    def has(self, name: str) -> bool:
        path = os.path.join(self._path, name)
        if not os.path.isfile(path):
            return False
        if not os.path.realpath(path).startswith(self._path.rstrip("/") + "/"):
            raise UnreadableImageError("image_outside_folder")
        return True

    def names(self) -> Iterator[str]:
        for start in [""] if self._whole else SUBFOLDERS[1:]:
            for entry in storage.listing(os.path.join(self._path, start)):
                yield posixpath.join(start, entry.name)

    def location(self, name: str) -> str:
        return os.path.join(self._path, name)


class Listed:
    """A zip or a store's prefix: all names are known once it is listed. names: as below it; some may be there twice."""

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

    def location(self, name: str) -> str:
        return f"{self._uri}/{name}"


def roots(source: Source) -> list[Root]:
    """Where a source's images may be, in the order in which they are asked: as the recipe says; else beside the table,
    in its folder, its `images` and `figures`, and the zips that are called so, or the zip that it is in itself."""
    if source.images is not None:
        return [_root(source.images, whole=True)]
    beside = storage.parent(source.table)
    zips = [
        storage.join(beside, entry.name)
        for entry in sorted(_beside(beside), key=lambda entry: entry.name)
        if re.fullmatch(r"(images|figures)\w*\.zip", entry.name)
    ]
    if source.table.endswith(".zip"):
        zips.insert(0, source.table)
    return [_root(beside, whole=False), *(_root(path, whole=True) for path in zips)]


def _beside(folder: str) -> list[storage.Entry]:
    if storage.is_remote(folder):
        return [entry for entry in storage.listing(folder) if "/" not in entry.name]
    return [storage.Entry(entry.name, 0, 0) for entry in os.scandir(folder) if entry.is_file()]


def _root(uri: str, *, whole: bool) -> Root:
    if uri.endswith(".zip") and storage.kind(uri) == "file":
        try:
            with storage.open_binary(uri) as stream, zipfile.ZipFile(stream) as archive:
                return Listed(uri, filter(None, map(members.clean, archive.namelist())))
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise InputError(f"{uri} is no zip that can be read: {first_line(error)}") from error
    if storage.kind(uri) == "file":
        raise InputError(f"{uri} is neither a folder nor a .zip of images.")
    if storage.is_remote(uri):
        return Listed(uri, (entry.name for entry in storage.listing(uri)))
    return Folder(uri, whole=whole)


class Finder:
    """Finds images by the names that a source's table gives them."""

    def __init__(self, source: Source) -> None:
        self._roots = roots(source)

    def find(self, name: str) -> str:
        """The location of an image. Raises UnreadableImageError with the reason."""
        below = _checked(name)
        if place := self._find_direct(below):
            return place
        spellings = dict.fromkeys(members.spellings(below))
        places = {place for spelled in spellings if (place := self._find_direct(spelled))}
        if len(places) > 1:
            raise UnreadableImageError("image_name_is_ambiguous")
        return places.pop() if places else self._find_nested([below, *spellings])

    def _find_direct(self, below: str) -> str | None:
        """Where a file of just this path lies, in the first place that has one."""
        first, _, rest = below.partition("/")
        inside = [rest] if first in SUBFOLDERS and rest else []  # of a folder that is itself one of these
        for root in self._roots:
            for candidate in [*(posixpath.join(subfolder, below) for subfolder in SUBFOLDERS), *inside]:
                if root.has(candidate):
                    return root.location(candidate)
        return None

    def _find_nested(self, spellings: list[str]) -> str:
        """The one file whose path ends in this name, its folders included: `1/a.png` is not what `2/a.png` shows."""
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
        root = self._roots[number]
        if not root.has(name):
            raise UnreadableImageError("missing_image")
        return root.location(name)

    @cached_property
    def _by_base(self) -> dict[str, list[tuple[int, str]]]:
        """Base name -> where files of that name lie: of version 2's zip, say, some tables name the figures alone."""
        by_base: dict[str, list[tuple[int, str]]] = {}
        for number, root in enumerate(self._roots):
            for name in root.names():
                by_base.setdefault(posixpath.basename(name), []).append((number, name))
        return by_base


def _checked(name: str) -> str:
    """The name as a path below a root; raises UnreadableImageError where it is none, or leads elsewhere."""
    if len(name) > MAX_NAME or not name.isprintable():
        raise UnreadableImageError("image_name_unreadable")
    if _ADDRESS.match(name):
        raise UnreadableImageError("image_is_an_address")
    below = name.replace("\\", "/")
    if below.startswith("/") or _SCHEME.match(below) or ".." in below.split("/"):
        raise UnreadableImageError("image_outside_folder")
    return posixpath.normpath(below)
