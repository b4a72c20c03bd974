"""A Parquet table -> its rows, decoded in a child process with little memory.

A few kilobytes of Parquet can expand to any number of bytes: a dictionary repeats a giant cell, run lengths and
compression repeat everything else, and the sizes in the footer cannot be trusted. Where a child runs out of memory,
another one decodes that row group carefully: one row at a time, with texts as indices into their dictionary, so that
the size of each row is known before it is expanded. A row that is too large even so is left out, and with it the rest
of its row group, which cannot be reached without decoding the row.
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
from pipelines.images import confined_processes

MEMORY_BYTES = (
    768 << 20
)  # in addition to what the child has at its start; with 1 GiB, an allocator of Arrow reserves all of it
_TIMEOUT_S = 120.0  # for a batch of rows, which normally takes milliseconds
_MAX_COLUMNS = 10_000
_MAX_BATCH_ROWS = 64  # that are decoded at once
_MESSAGE_BYTES = 16 << 20  # of rows that a child sends at once
_VALUE_BYTES = 64  # of memory that Python takes for a value besides its text
_MAX_ROWS_PER_BYTE = 16  # of the file; a table whose rows differ has less than one
_MAX_CHILDREN = 13  # for a table: two for each row group that takes too much memory
_TEXT_TYPES = frozenset({"STRING", "NONE", "JSON", "ENUM", "BSON"})  # logical types of bytes that a dictionary may hold
_UNREADABLE = (ValueError, OverflowError, pa.ArrowException)  # for example no UTF-8, or a date that no calendar has
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
    """Where in a table a child begins, and later where it is.

    group: the row group. num_rows: of that group, as the file says; 0 until a child has begun. done: rows of the group
    that are read. careful: whether the group is decoded row by row, to find the row that takes too much memory. ended:
    whether the child has finished its work.
    """

    group: int = 0
    num_rows: int = 0
    done: int = 0
    careful: bool = False
    ended: bool = False


def read(uri: str, max_row_bytes: int) -> Iterator[Row | str]:
    """The rows of a table, each with its fields by name, or the reason why it cannot be read.

    max_row_bytes: of a row in memory. The rest of a row group behind a row that takes too much memory to decode is not
    read. Raises InputError when the file is no Parquet table, is damaged, or has too many such groups.
    """
    most_rows, num_rows = _MAX_ROWS_PER_BYTE * storage.size(uri), 0
    place = _Place()
    for _ in range(_MAX_CHILDREN):
        for rows in _rows_of_a_child(uri, place, max_row_bytes):
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


def _rows_of_a_child(uri: str, place: _Place, max_row_bytes: int) -> Iterator[list[Row | str]]:
    """Rows as a child decodes them, until the end or until it runs out of memory; `place` is updated to where it is."""
    context = confined_processes.context()
    pipe, far = context.Pipe(duplex=False)
    arguments = (far, dict(os.environ), uri, place, max_row_bytes)
    child = context.Process(target=_work, args=arguments, daemon=True)
    child.start()
    far.close()
    try:
        while (message := _received(pipe)) is not None:
            if isinstance(message, Exception):
                raise message
            if isinstance(message, _Place):
                place.group, place.num_rows, place.done = message.group, message.num_rows, message.done
                place.ended = message.ended
            else:
                place.done += len(message)
                yield message
    finally:
        child.kill()
        child.join()
        pipe.close()


def _received(pipe: connection.Connection) -> Any:
    """What the child sends; None when it is done, or when it died or took too long. Running out of memory in C++ ends
    it in that way."""
    try:
        return pipe.recv() if pipe.poll(_TIMEOUT_S) else None
    except (EOFError, OSError):
        return None


def _work(
    pipe: connection.Connection, environment: dict[str, str], uri: str, place: _Place, max_row_bytes: int
) -> None:
    """Runs in the child: send the rows, some at a time, and each _Place that is reached; then an error or None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on
    pa.set_memory_pool(pa.system_memory_pool())  # which reserves no address space in advance
    confined_processes.confine(environment, MEMORY_BYTES)
    with contextlib.suppress(BrokenPipeError):  # the parent has stopped reading
        pipe.send(_send_rows(pipe, uri, place, max_row_bytes))
        pipe.send(None)


def _send_rows(pipe: connection.Connection, uri: str, place: _Place, max_row_bytes: int) -> Any:
    try:
        for message in _messages(uri, place, max_row_bytes):
            pipe.send(message)
    except (MemoryError, BrokenPipeError):
        return None
    except InputError as error:
        return error
    except (OSError, ValueError, pa.ArrowException) as error:
        return InputError(f"{uri} is damaged, or no Parquet table ({first_line(error)})")
    return None


def _messages(uri: str, place: _Place, max_row_bytes: int) -> Iterator[_Place | list[Row | str]]:
    with storage.open_binary(uri) as opened:
        stream = opened if storage.is_remote(uri) else pa.OSFile(f"/proc/self/fd/{opened.fileno()}")  # avoids a copy
        metadata = pq.read_metadata(stream)
        columns = [metadata.schema.column(number) for number in range(metadata.num_columns)]
        texts = [c.path for c in columns if c.physical_type == "BYTE_ARRAY" and c.logical_type.type in _TEXT_TYPES]
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
    """The batch size for a group: smaller where the file says that rows are large."""
    return int(max(1, min(_MAX_BATCH_ROWS, _MESSAGE_BYTES * group.num_rows // max(1, group.total_byte_size))))


def check_names(uri: str, names: list[str]) -> list[str]:
    """The column names without blanks around them. Columns without a name are ignored; spreadsheets write such ones.

    Raises InputError where two columns have the same name, or no column has one.
    """
    if len(names) > _MAX_COLUMNS:
        raise InputError(f"{uri} has {len(names)} columns; a table of questions has at most {_MAX_COLUMNS}.")
    names = [name.strip() for name in names]
    known = [name.casefold() for name in names if name]
    if len(set(known)) < len(known) or not known:
        raise InputError(f"{uri} does not name its columns, each once: {str(names)[:200]}")
    return names


def _rows_of(batch: pa.RecordBatch, max_row_bytes: int) -> Iterator[list[Row | str]]:
    """The rows in lists of at most _MESSAGE_BYTES."""
    sizes = sum((_sizes(column) for column in batch.columns), start=np.zeros(batch.num_rows, np.int64))
    start, size = 0, 0
    for place in range(batch.num_rows):
        if sizes[place] > max_row_bytes or size + sizes[place] > _MESSAGE_BYTES:
            yield _python_rows(batch.slice(start, place - start))
            start, size = place, 0
        if sizes[place] > max_row_bytes:
            yield ["row_too_long"]
            start = place + 1
        else:
            size += int(sizes[place])
    yield _python_rows(batch.slice(start))


def _sizes(array: pa.Array) -> Sizes:
    """Approximate bytes that each value takes in Python; a text of a dictionary counts wherever it is repeated."""
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
    """The same for the contents of each struct, list or map."""
    sizes = np.zeros(len(array), np.int64)
    if pa.types.is_struct(array.type):
        return sum(map(_sizes, array.flatten()), start=sizes)
    if pa.types.is_map(array.type):  # for which Arrow has no list_parent_indices
        entries = pa.StructArray.from_arrays([array.keys, array.items], ["key", "value"])
        array = pa.ListArray.from_arrays(array.offsets, entries)
    sizes += np.bincount(pc.list_parent_indices(array), _sizes(pc.list_flatten(array)), len(array)).astype(np.int64)
    return sizes


def _python_rows(batch: pa.RecordBatch) -> list[Row | str]:
    try:
        return list(batch.to_pylist())
    except _UNREADABLE:
        return [_python_row(batch.slice(place, 1)) for place in range(batch.num_rows)]


def _python_row(batch: pa.RecordBatch) -> Row | str:
    try:
        return dict(batch.to_pylist()[0])
    except _UNREADABLE:
        return "row_unreadable"
