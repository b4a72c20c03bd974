"""Records in Parquet: how a stage reads and writes the table of an artifact."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pyarrow.parquet as pq

from pipelines.records import Record

R = TypeVar("R", bound=Record)


def write(folder: Path, kind: type[R], records: Sequence[R]) -> None:
    """Write the table of these records; an artifact holds one table for each kind of record."""
    pq.write_table(kind.table(records), folder / _name(kind))


def read(folder: Path, kind: type[R]) -> list[R]:
    """The records of an artifact's table."""
    return [kind.from_dict(row) for row in pq.read_table(folder / _name(kind), schema=kind.schema()).to_pylist()]


def _name(kind: type[Record]) -> str:
    return f"{kind.stem}.parquet"
