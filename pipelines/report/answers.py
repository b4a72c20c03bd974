"""Predictions -> the answers to a few questions, without reading the texts of all others into memory."""

from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.records import Prediction, Question

_ROWS_AT_ONCE = 4096


def to(folder: Path, question_ids: Collection[str]) -> Iterator[Prediction]:
    """The predictions about these questions, in their order."""
    wanted = pa.array(sorted(question_ids), pa.string())
    for batch in pq.ParquetFile(folder / f"{Prediction.stem}.parquet").iter_batches(batch_size=_ROWS_AT_ONCE):
        yield from map(Prediction.from_dict, batch.filter(pc.is_in(batch["question_id"], wanted)).to_pylist())


def questions(folder: Path, ids: Collection[str]) -> dict[str, Question]:
    """Id -> question, of these ids."""
    where = pc.field("id").isin(pa.array(sorted(ids), pa.string()))
    table = pq.read_table(folder / f"{Question.stem}.parquet", schema=Question.schema(), filters=where)
    return {row["id"]: Question.from_dict(row) for row in table.to_pylist()}
