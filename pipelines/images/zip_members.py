"""The name that a table gives a file <-> the names that it may have in a zip or on a disk.

Programs that make zips write folders with backslashes, begin names with `./` or `/`, compose accents or not, and leave
out the flag that says a name is UTF-8. A file is found under all of these spellings, where exactly one fits.
"""

import contextlib
import posixpath
import unicodedata
import weakref
import zipfile
from collections.abc import Iterator

_UNFLAGGED = "cp437"  # as which Python decodes a name that is not flagged as UTF-8, as the format defines it
_ENCODINGS = (  # in which such names are really written: UTF-8, or the code page of the machine that made the zip
    *("utf-8", "cp850", "cp852", "cp866", "cp1250", "cp1251", "cp1252"),
    *("gb18030", "big5", "cp932", "cp949"),
)
_infos: weakref.WeakKeyDictionary[zipfile.ZipFile, dict[str, zipfile.ZipInfo]] = weakref.WeakKeyDictionary()


def clean(name: str) -> str | None:
    """A member's name as a normalised path below the zip; None where it leads out of the zip or names no file."""
    below = composed(name.replace("\\", "/")).lstrip("/")
    if below.endswith("/") or ".." in below.split("/"):
        return None
    below = posixpath.normpath(below)
    return None if below == "." else below


def composed(name: str) -> str:
    """A name with each letter and its accent composed to one character (NFC)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def info(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """The member of a name as `clean` gives it; raises KeyError when there is none."""
    with contextlib.suppress(KeyError):
        return archive.getinfo(name)
    if archive not in _infos:
        _infos[archive] = {below: each for each in archive.infolist() if (below := clean(each.filename)) is not None}
    return _infos[archive][name]


def spellings(name: str) -> Iterator[str]:
    """Other spellings of a name: with accents composed (NFC) or apart (NFD), and as bytes of one encoding that were
    decoded as another."""
    if name.isascii():
        return
    for form in ("NFC", "NFD"):
        spelled = unicodedata.normalize(form, name)
        yield spelled
        for encoding in _ENCODINGS:
            try:
                mistaken = spelled.encode(encoding).decode(_UNFLAGGED)
            except UnicodeError:
                continue
            if (below := clean(mistaken)) is not None:
                yield below
