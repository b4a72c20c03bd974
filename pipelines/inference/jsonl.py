"""Files of JSON lines: bounded reading, and an index of lines by the request that each is about."""

import dataclasses
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

LONGEST_LINE = 64 << 20  # bytes; an answer of 32,768 tokens with its 20 likeliest ones each takes a tenth
_KEY_DIGITS = 16


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Offset and content of each line, the last one perhaps without its end; of one that is too long, only the
    beginning. Raises OSError."""
    offset = 0
    with path.open("rb") as stream:
        while line := stream.readline(LONGEST_LINE):
            start, offset, more = offset, offset + len(line), line
            while len(more) == LONGEST_LINE and not more.endswith(b"\n"):
                more = stream.readline(LONGEST_LINE)
                offset += len(more)
            yield start, line


def line_at(path: Path, offset: int) -> bytes:
    """The line that begins at an offset."""
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.readline(LONGEST_LINE)


def key_of(request_id: str) -> int:
    """The first half of a request's digest, as the number under which it is indexed. Raises ValueError."""
    return int(request_id[:_KEY_DIGITS], 16)


@dataclasses.dataclass(slots=True)
class Places:
    """Where lines are, as they are found: of each the key, the file's number and the offset; 20 bytes a line."""

    keys: Any = dataclasses.field(default_factory=lambda: array("Q"))
    files: Any = dataclasses.field(default_factory=lambda: array("I"))
    offsets: Any = dataclasses.field(default_factory=lambda: array("Q"))

    def add(self, request_id: str, file: int, offset: int) -> None:
        """Note a line."""
        self.keys.append(key_of(request_id))
        self.files.append(file)
        self.offsets.append(offset)

    def arrays(self) -> tuple[Any, Any, Any]:
        """Keys, files and offsets as NumPy arrays, in the order in which they were found."""
        columns = (self.keys, self.files, self.offsets)
        keys, files, offsets = (np.frombuffer(column, column.typecode) for column in columns)
        return keys, files, offsets


def keys_of(request_ids: Sequence[str]) -> Any:
    """The keys of these requests, as a NumPy array."""
    return np.array([key_of(each) for each in request_ids], dtype=np.uint64)
