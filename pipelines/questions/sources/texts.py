"""A table's file -> its text: unpacked where it is packed, and decoded as its first bytes say.

Nothing is taken for text on a guess. UTF-8 is read, and what says in its first bytes that it is UTF-16 or UTF-32; bytes
that are neither stay recognisable, so that their row is refused by name. What unpacks to far more than it is ends the
reading.
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

UNREADABLE = "\udcff"  # stands for bytes that are no text: half a surrogate pair, which no text has
FORMS = (".jsonl", ".json", ".csv", ".tsv")
_HEAD_BYTES = 1 << 10
_MARKS = (  # of byte order; those of UTF-32 first, since UTF-16's is how one of them begins
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_FILES = (  # what begins so is no text, whatever it is called
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
_OF_MACOS = re.compile(r"(^|[/\\])(__MACOSX[/\\]|\._)")  # beside each file that a Mac packs
PACKED = (".gz", ".zip")
_MOST_TIMES = 200  # a packed table's size; real ones have up to 20
_DAMAGES = (zlib.error, lzma.LZMAError, zipfile.BadZipFile, struct.error, EOFError, OSError, ValueError, RuntimeError)
_ALWAYS_TAKEN = 64 << 20  # bytes of a packed table, however small it is


def _unreadable(error: UnicodeError) -> tuple[str, int]:
    return UNREADABLE, cast("UnicodeDecodeError", error).end


codecs.register_error("unreadable", _unreadable)


def form(uri: str) -> str:
    """The ending that tells a table's form, in lower case: `.csv` of `t.CSV.gz`, and of a zip that of the table in it.

    Raises InputError for a zip that holds no table, or several.
    """
    name = uri.lower()
    if name.endswith(".zip"):
        with _damage_said(uri), storage.open_binary(uri) as stream, zipfile.ZipFile(stream) as archive:
            name = _only_table(uri, archive).lower()
    return posixpath.splitext(name.removesuffix(".gz"))[1]


def is_packed(name: str) -> bool:
    """Whether a table's name says that it has to be unpacked."""
    return name.lower().endswith(PACKED)


@contextlib.contextmanager
def opened(uri: str, newline: str) -> Iterator[tuple[TextIO, list[str]]]:
    """A table's text, and in words what was done to get at it.

    newline: as of `open`; with `""` lines end as they like, else with it alone. Raises InputError when it cannot be
    unpacked, or is no text.
    """
    done: list[str] = []
    with contextlib.ExitStack() as stack:
        stream: Any = stack.enter_context(storage.open_binary(uri))
        with _damage_said(uri):
            if is_packed(uri):
                stream = io.BufferedReader(_Limited(uri, _unpacked(uri, stream, stack)))
                done.append(f"unpacked from {uri[uri.rfind('.') :].lower()}")
            encoding = _encoding(uri, stream.peek(_HEAD_BYTES)[:_HEAD_BYTES])
            if encoding not in ("utf-8", "utf-8-sig"):
                done.append(f"decoded from {encoding.upper()}")
            text = stack.enter_context(io.TextIOWrapper(stream, encoding, errors="unreadable", newline=newline))
            yield text, done


@contextlib.contextmanager
def _damage_said(uri: str) -> Iterator[None]:
    """Say of a packed table in one way what each way of packing says in its own."""
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
    """What is unpacked, as far as a table's size can be believed."""

    def __init__(self, uri: str, unpacked: Any) -> None:
        super().__init__()
        self._uri, self._unpacked = uri, unpacked
        self._left = max(_ALWAYS_TAKEN, _MOST_TIMES * storage.size(uri))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._unpacked.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise InputError(f"{self._uri} unpacks to more than {_MOST_TIMES} times its size. Unpack it, and look.")
        buffer[: len(data)] = data
        return len(data)


def _encoding(uri: str, head: bytes) -> str:
    """How the text is encoded: as its byte order mark says, or the zeros beside plain letters; else UTF-8."""
    for begins, what in _OTHER_FILES:
        if head.startswith(begins):
            raise InputError(f"{uri} is {what} by its first bytes, and no text, whatever it is called.")
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    even, odd = head[: len(head) // 2 * 2 : 2], head[1::2]
    if head and not any(odd) and odd and all(even):
        return "utf-16-le"
    if head and not any(even) and all(odd) and odd:
        return "utf-16-be"
    return "utf-8"
