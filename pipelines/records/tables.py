"""Records in Parquet: how a stage reads and writes the table of an artifact."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.records.record import Record

R = TypeVar("R", bound=Record)
_ROWS_AT_ONCE = 2048


def write(folder: Path, kind: type[R], records: Sequence[R]) -> None:
    """Write the table of these records; an artifact holds one table for each kind of record."""
    pq.write_table(kind.table(records), folder / _name(kind))


@contextmanager
def writer(folder: Path, kind: type[R]) -> Iterator[Callable[[R], None]]:
    """A function that adds a record to the table, for more of them than fit into memory."""
    waiting: list[R] = []
    with pq.ParquetWriter(folder / _name(kind), kind.schema()) as stream:

        def add(record: R) -> None:
            waiting.append(record)
            if len(waiting) >= _ROWS_AT_ONCE:
                stream.write_table(kind.table(waiting))
                waiting.clear()

        yield add
        if waiting:
            stream.write_table(kind.table(waiting))


def read(folder: Path, kind: type[R], **equal: str) -> list[R]:
    """The records of an artifact's table, in order; only those whose fields are `equal` to these values."""
    where = [(name, "=", str(value)) for name, value in equal.items()] or None
    table = pq.read_table(folder / _name(kind), schema=kind.schema(), filters=where)
    return [kind.from_dict(row) for row in table.to_pylist()]


def stream(folder: Path, kind: type[R], **equal: str) -> Iterator[R]:
    """The same records as `read`, a few thousand at a time in memory."""
    for batch in pq.ParquetFile(folder / _name(kind)).iter_batches(batch_size=_ROWS_AT_ONCE):
        wanted = batch
        for name, value in equal.items():
            wanted = wanted.filter(pc.equal(wanted[name], str(value)))
        yield from map(kind.from_dict, wanted.to_pylist())


def columns(folder: Path, kind: type[Record], names: Sequence[str]) -> list[list[Any]]:
    """Some columns of an artifact's table, each as a list: nothing else of it is read."""
    table = pq.read_table(folder / _name(kind), columns=list(names))
    return [table[name].to_pylist() for name in names]


def count(folder: Path, kind: type[Record]) -> int:
    """How many records the table has; none of them is read."""
    return int(pq.read_metadata(folder / _name(kind)).num_rows)


def _name(kind: type[Record]) -> str:
    return f"{kind.stem}.parquet"
