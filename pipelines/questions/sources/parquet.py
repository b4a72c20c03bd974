"""A Parquet table -> its rows, decoded in a child process with little memory.

A few kilobytes of Parquet can stand for any number of bytes: a dictionary repeats a giant cell, run lengths and
compression repeat everything else, and what the footer says of sizes is the file's own word. Where the child comes to
the end of its memory, another decodes that row group with texts left as numbers in their dictionary, a row at a time,
until it is known how large each would be. What is too large even so is left out, and the rest of its row group with it.
"""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator
from multiprocessing import connection
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra import storage
from infra.errors import InputError, first_line

MEMORY_BYTES = 768 << 20  # over what the child has when it starts; with a GiB, an allocator of Arrow's sets all aside
_ANSWERS_WITHIN_S = 120.0  # a batch of rows takes milliseconds; one that takes minutes takes for ever
_MOST_COLUMNS = 10_000
_ROWS = 64  # that are decoded at once
_SENT_BYTES = 16 << 20  # of rows that travel together
_VALUE_BYTES = 64  # that Python takes for a value beside its text
_ROWS_PER_BYTE = 16  # of the file; a table whose rows differ has less than one
_CHILDREN = 13  # for a table: two for each row group that takes too much memory
_TEXTS = frozenset({"STRING", "NONE", "JSON", "ENUM", "BSON"})  # logical types of bytes that a dictionary may hold
_UNREADABLE = (ValueError, OverflowError, pa.ArrowException)  # no UTF-8, a date out of all calendars
_OF_ANY_LENGTH = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
)
_AT_THE_END = -1

Row = dict[str, Any]
Sizes = npt.NDArray[np.int64]


@dataclasses.dataclass
class _Place:
    """Where in a table a child begins, and where it is since: its row group, how many rows that says it has, and how
    many of them are done. careful: that group is decoded row by row, with texts left in their dictionary, to find the
    row that takes too much memory. ended: the child has done what it was to do."""

    group: int = 0
    num_rows: int = 0
    done: int = 0
    careful: bool = False
    ended: bool = False


def read(uri: str, max_row_bytes: int) -> Iterator[Row | str]:
    """The rows of a table, each with its fields by name, or the reason why it cannot be read.

    A row that takes too much memory to decode leaves the rest of its row group unread, since it cannot be passed over.
    Raises InputError when the file is no Parquet table, is damaged, or has too many such groups.
    """
    most_rows, num_rows = _ROWS_PER_BYTE * storage.size(uri), 0
    place = _Place()
    for _ in range(_CHILDREN):
        for rows in _of_a_child(uri, place, max_row_bytes):
            num_rows += len(rows)
            if num_rows > most_rows:
                raise InputError(f"{uri} has more than {most_rows} rows, which are more than its size can tell apart.")
            yield from rows
        if place.group == _AT_THE_END:
            return
        if place.ended:
            place = _Place(group=place.group)
        elif not place.num_rows:
            break
        elif place.careful:
            left = max(1, min(place.num_rows - place.done, most_rows - num_rows))
            yield from ["row_too_long", *["row_group_too_large"] * (left - 1)]
            num_rows += left
            place = _Place(group=place.group + 1)
        else:
            place.careful = True
    raise InputError(
        f"{uri} takes more than {MEMORY_BYTES >> 20} MiB to decode, or breaks its decoder, after row {num_rows}."
    )


def _of_a_child(uri: str, place: _Place, max_row_bytes: int) -> Iterator[list[Row | str]]:
    """Rows as a child decodes them, until the end or until it has no memory left; `place` then says where."""
    from pipelines.images import sandbox

    context = sandbox.context()
    pipe, far = context.Pipe(duplex=False)
    arguments = (far, dict(os.environ), uri, place, max_row_bytes)
    child = context.Process(target=_serve, args=arguments, daemon=True)
    child.start()
    far.close()
    try:
        while (said := _heard(pipe)) is not None:
            if isinstance(said, Exception):
                raise said
            if isinstance(said, _Place):
                place.group, place.num_rows, place.done = said.group, said.num_rows, said.done
                place.ended = said.ended
            else:
                place.done += len(said)
                yield said
    finally:
        child.kill()
        child.join()
        pipe.close()


def _heard(pipe: connection.Connection) -> Any:
    """What the child says; None when it has come to the end of its memory, and in C++ died of it, or of its time."""
    try:
        return pipe.recv() if pipe.poll(_ANSWERS_WITHIN_S) else None
    except (EOFError, OSError):
        return None


def _serve(
    pipe: connection.Connection, environment: dict[str, str], uri: str, place: _Place, max_row_bytes: int
) -> None:
    """In the child: send all rows, some at a time, and where they stand; then that this was the end, or what is wrong,
    or nothing."""
    from pipelines.images import sandbox

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on
    pa.set_memory_pool(pa.system_memory_pool())  # which takes no more address space than is asked of it
    sandbox.confine(environment, MEMORY_BYTES)
    with contextlib.suppress(BrokenPipeError):  # nobody wants to know any more
        pipe.send(_tried(pipe, uri, place, max_row_bytes))
        pipe.send(None)


def _tried(pipe: connection.Connection, uri: str, place: _Place, max_row_bytes: int) -> Any:
    try:
        for said in _portions(uri, place, max_row_bytes):
            pipe.send(said)
    except (MemoryError, BrokenPipeError):
        return None
    except InputError as error:
        return error
    except (OSError, ValueError, pa.ArrowException) as error:
        return InputError(f"{uri} is damaged, or no Parquet table ({first_line(error)})")
    return None


def _portions(uri: str, place: _Place, max_row_bytes: int) -> Iterator[_Place | list[Row | str]]:
    with storage.open_binary(uri) as opened:
        stream = opened if storage.is_remote(uri) else pa.OSFile(f"/proc/self/fd/{opened.fileno()}")  # saves a copy
        metadata = pq.read_metadata(stream)
        columns = [metadata.schema.column(number) for number in range(metadata.num_columns)]
        texts = [c.path for c in columns if c.physical_type == "BYTE_ARRAY" and c.logical_type.type in _TEXTS]
        check_names(uri, metadata.schema.to_arrow_schema().names)
        file = pq.ParquetFile(stream, metadata=metadata, read_dictionary=texts if place.careful else None)
        end = min(metadata.num_row_groups, place.group + 1 if place.careful else metadata.num_row_groups)
        for number in range(place.group, end):
            group = metadata.row_group(number)
            to_skip = place.done if number == place.group else 0
            yield _Place(group=number, num_rows=group.num_rows, done=to_skip)
            batches = file.iter_batches(
                batch_size=1 if place.careful else _rows_at_once(group), row_groups=[number], use_threads=False
            )
            for batch in batches:
                yield from _rows_of(batch.slice(min(to_skip, batch.num_rows)), max_row_bytes)
                to_skip -= min(to_skip, batch.num_rows)
        yield _Place(group=end if end < metadata.num_row_groups else _AT_THE_END, ended=True)


def _rows_at_once(group: pq.RowGroupMetaData) -> int:
    """Few where the file says that rows are large."""
    return int(max(1, min(_ROWS, _SENT_BYTES * group.num_rows // max(1, group.total_byte_size))))


def check_names(uri: str, names: list[str]) -> list[str]:
    """The names without blanks around them; raises InputError where two columns have the same, or none has one. Columns
    without a name are nobody's, as spreadsheets write them at the end."""
    if len(names) > _MOST_COLUMNS:
        raise InputError(f"{uri} has {len(names)} columns; a table of questions has at most {_MOST_COLUMNS}.")
    names = [name.strip() for name in names]
    known = [name.casefold() for name in names if name]
    if len(set(known)) < len(known) or not known:
        raise InputError(f"{uri} does not name its columns, each once: {str(names)[:200]}")
    return names


def _rows_of(batch: pa.RecordBatch, max_row_bytes: int) -> Iterator[list[Row | str]]:
    """The rows, as many at a time as are not large together."""
    sizes = sum((_sizes(column) for column in batch.columns), start=np.zeros(batch.num_rows, np.int64))
    start, size = 0, 0
    for place in range(batch.num_rows):
        if sizes[place] > max_row_bytes or size + sizes[place] > _SENT_BYTES:
            yield _plain(batch.slice(start, place - start))
            start, size = place, 0
        if sizes[place] > max_row_bytes:
            yield ["row_too_long"]
            start = place + 1
        else:
            size += int(sizes[place])
    yield _plain(batch.slice(start))


def _sizes(array: pa.Array) -> Sizes:
    """How many bytes each value takes in Python, about; a dictionary's text counts wherever it is repeated."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind, sizes = array.type, np.full(len(array), _VALUE_BYTES, np.int64)
    if pa.types.is_dictionary(kind) and len(array.dictionary):
        sizes += _sizes(array.dictionary)[array.indices.fill_null(0).to_numpy(zero_copy_only=False)]
    elif pa.types.is_nested(kind):
        sizes += _sizes_within(array)
    elif pa.types.is_fixed_size_binary(kind):
        sizes += kind.byte_width
    elif any(is_kind(kind) for is_kind in _OF_ANY_LENGTH):
        sizes += pc.binary_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    return sizes


def _sizes_within(array: pa.Array) -> Sizes:
    """The same of all that each struct, list or map holds."""
    sizes = np.zeros(len(array), np.int64)
    if pa.types.is_struct(array.type):
        return sum(map(_sizes, array.flatten()), start=sizes)
    if pa.types.is_map(array.type):  # of which Arrow tells no parents
        entries = pa.StructArray.from_arrays([array.keys, array.items], ["key", "value"])
        array = pa.ListArray.from_arrays(array.offsets, entries)
    sizes += np.bincount(pc.list_parent_indices(array), _sizes(pc.list_flatten(array)), len(array)).astype(np.int64)
    return sizes


def _plain(batch: pa.RecordBatch) -> list[Row | str]:
    try:
        return list(batch.to_pylist())
    except _UNREADABLE:
        return [_plain_row(batch.slice(place, 1)) for place in range(batch.num_rows)]


def _plain_row(batch: pa.RecordBatch) -> Row | str:
    try:
        return dict(batch.to_pylist()[0])
    except _UNREADABLE:
        return "row_unreadable"
