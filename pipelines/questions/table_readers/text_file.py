"""A table's file -> its text, unpacked where it is packed, and decoded.

Encodings are not guessed: a text is UTF-8, or UTF-16 or UTF-32 where its first bytes say so. Bytes that are not valid
in it stay recognisable, so that their row gets a reason. A file that unpacks to far more than its size is refused.
"""

import codecs
import contextlib
import gzip
import io
import lzma
import posixpath
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, TextIO, cast

from infra import storage
from infra.errors import InputError, first_line

UNREADABLE = "\udcff"  # stands for bytes that are no text; it is half a surrogate pair, which no text has
FORMS = (".jsonl", ".json", ".csv", ".tsv")
_HEAD_BYTES = 1 << 10
_BYTE_ORDER_MARKS = (  # UTF-32 first, since one of its marks begins with one of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_FILES = (  # files that begin with these bytes are no text, whatever their name
    (b"PK\x03\x04", "a zip or a spreadsheet"),
    (b"\xd0\xcf\x11\xe0", "an old spreadsheet"),
    (b"\x1f\x8b", "a gzip"),
    (b"PAR1", "a Parquet table"),
    (b"SQLite format", "a database"),
    (b"\x89HDF", "an HDF5 file"),
    (b"version https://git-lfs", "a pointer of Git LFS to another file"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
)
_OF_MACOS = re.compile(r"(^|[/\\])(__MACOSX[/\\]|\._)")  # extra files in zips that macOS makes
PACKED = (".gz", ".zip")
_MAX_RATIO = 200  # of a table's unpacked size to its packed one; real tables have up to 20
_DAMAGES = (zlib.error, lzma.LZMAError, zipfile.BadZipFile, struct.error, EOFError, OSError, ValueError, RuntimeError)
_ALWAYS_ALLOWED = 64 << 20  # unpacked bytes, however small the packed file is


def _unreadable(error: UnicodeError) -> tuple[str, int]:
    return UNREADABLE, cast("UnicodeDecodeError", error).end


codecs.register_error("unreadable", _unreadable)


def form(uri: str) -> str:
    """The suffix that tells a table's form, in lower case: `.csv` for `t.CSV.gz`; for a zip that of the table in it.

    Raises InputError for a zip that holds no table, or several.
    """
    name = uri.lower()
    if name.endswith(".zip"):
        with _one_error_for_damage(uri), storage.open_binary(uri) as stream, zipfile.ZipFile(stream) as archive:
            name = _only_table(uri, archive).lower()
    return posixpath.splitext(name.removesuffix(".gz"))[1]


def is_packed(name: str) -> bool:
    """Whether a table's name says that it has to be unpacked."""
    return name.lower().endswith(PACKED)


@contextlib.contextmanager
def opened(uri: str, newline: str) -> Iterator[tuple[TextIO, list[str]]]:
    """A table's text, and in words what was done to read it.

    newline: as of `open`; with `""` lines may end in any way, otherwise in this way alone. Raises InputError when the
    file cannot be unpacked, or is no text.
    """
    notes: list[str] = []
    with contextlib.ExitStack() as stack:
        stream: Any = stack.enter_context(storage.open_binary(uri))
        with _one_error_for_damage(uri):
            if is_packed(uri):
                stream = io.BufferedReader(_Limited(uri, _unpacked(uri, stream, stack)))
                notes.append(f"unpacked from {uri[uri.rfind('.') :].lower()}")
            encoding = _encoding(uri, stream.peek(_HEAD_BYTES)[:_HEAD_BYTES])
            if encoding not in ("utf-8", "utf-8-sig"):
                notes.append(f"decoded from {encoding.upper()}")
            text = stack.enter_context(io.TextIOWrapper(stream, encoding, errors="unreadable", newline=newline))
            yield text, notes


@contextlib.contextmanager
def _one_error_for_damage(uri: str) -> Iterator[None]:
    """Raise InputError for a packed table that is damaged, whatever its way of packing raises."""
    try:
        yield
    except _DAMAGES as error:
        if not is_packed(uri):
            raise
        raise InputError(f"{uri} cannot be unpacked: {first_line(error)}") from error


def _unpacked(uri: str, stream: IO[bytes], stack: contextlib.ExitStack) -> Any:
    if uri.lower().endswith(".gz"):
        return stack.enter_context(gzip.GzipFile(fileobj=stream))
    archive = stack.enter_context(zipfile.ZipFile(stream))
    return stack.enter_context(archive.open(_only_table(uri, archive)))


def _only_table(uri: str, archive: zipfile.ZipFile) -> str:
    names = [name for name in archive.namelist() if not _OF_MACOS.search(name)]
    tables = [name for name in names if name.lower().endswith(FORMS)]
    if len(tables) != 1:
        shown = ", ".join(ascii(name)[1:-1] for name in (tables or names)[:10]) or "nothing"
        raise InputError(
            f"{uri} has to hold one table ({', '.join(FORMS)}), and holds {len(tables)}: {shown}. Unpack the one that "
            "is meant."
        )
    return tables[0]


class _Limited(io.RawIOBase):
    """An unpacked stream, which ends with InputError where it is too large to be a table's."""

    def __init__(self, uri: str, unpacked: Any) -> None:
        super().__init__()
        self._uri, self._unpacked = uri, unpacked
        self._left = max(_ALWAYS_ALLOWED, _MAX_RATIO * storage.size(uri))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._unpacked.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise InputError(f"{self._uri} unpacks to more than {_MAX_RATIO} times its size. Unpack it, and look.")
        buffer[: len(data)] = data
        return len(data)


def _encoding(uri: str, head: bytes) -> str:
    """The text's encoding, by its byte order mark, or by the zeros beside plain letters in UTF-16; else UTF-8."""
    for begins, what in _OTHER_FILES:
        if head.startswith(begins):
            raise InputError(f"{uri} is {what} by its first bytes, and no text, whatever it is called.")
    for mark, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding
    even, odd = head[: len(head) // 2 * 2 : 2], head[1::2]
    if head and not any(odd) and odd and all(even):
        return "utf-16-le"
    if head and not any(even) and all(odd) and odd:
        return "utf-16-be"
    return "utf-8"
