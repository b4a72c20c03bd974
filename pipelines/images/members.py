"""The names that files have in a zip or on a disk <-> the name that a table gives one.

Programs that pack write folders with backslashes, `./` or `/` before them, compose accents or not, and leave out the
mark that says a name is UTF-8. A file is found under all of these, where exactly one fits.
"""

import contextlib
import posixpath
import unicodedata
import weakref
import zipfile
from collections.abc import Iterator

_UNMARKED = (
    "cp437"  # what a zip's name is in that is not marked as UTF-8, says the format; and what Python takes it for
)
_WRITTEN_AS = (  # what it is in truth: UTF-8, or what the packing machine's language had
    *("utf-8", "cp850", "cp852", "cp866", "cp1250", "cp1251", "cp1252"),
    *("gb18030", "big5", "cp932", "cp949"),
)
_infos: weakref.WeakKeyDictionary[zipfile.ZipFile, dict[str, zipfile.ZipInfo]] = weakref.WeakKeyDictionary()


def clean(name: str) -> str | None:
    """A member's name as one path below the zip; None where it leads out of it or names no file."""
    below = composed(name.replace("\\", "/")).lstrip("/")
    if below.endswith("/") or ".." in below.split("/"):
        return None
    below = posixpath.normpath(below)
    return None if below == "." else below


def composed(name: str) -> str:
    """A name with each accent in one character with its letter."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def info(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """The member of a name as `clean` gives it; raises KeyError when there is none."""
    with contextlib.suppress(KeyError):
        return archive.getinfo(name)
    if archive not in _infos:
        _infos[archive] = {below: each for each in archive.infolist() if (below := clean(each.filename)) is not None}
    return _infos[archive][name]


def spellings(name: str) -> Iterator[str]:
    """What else a name may have become: with accents composed or apart, and as bytes of one encoding that were taken
    for those of another."""
    if name.isascii():
        return
    for form in ("NFC", "NFD"):
        spelled = unicodedata.normalize(form, name)
        yield spelled
        for encoding in _WRITTEN_AS:
            try:
                mistaken = spelled.encode(encoding).decode(_UNMARKED)
            except UnicodeError:
                continue
            if (below := clean(mistaken)) is not None:
                yield below
