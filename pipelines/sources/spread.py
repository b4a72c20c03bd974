"""The work on a large source, spread over a cluster by Ray Data: rows streamed from its tables, images looked at by one
actor for each CPU. [edge]

Small sources are read in the process that asks, where a cluster's start would be most of the time.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from infra import cluster

_BLOCK_BYTES = 8 << 20  # small, so that rows arrive while others are still read

Blocks = Callable[[], Iterable[pa.Table]]


class Streams(Datasource):
    """Tables that are read as streams of blocks, one task each: a table with line breaks inside its cells can be cut
    nowhere but by reading it."""

    def __init__(self, streams: Sequence[Blocks]) -> None:
        self._streams = streams

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task for each table."""
        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None)
        return [ReadTask(stream, unknown) for stream in self._streams]

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown before it is read."""
        return None


def rows(streams: Sequence[Blocks]) -> Iterator[pa.Table]:
    """The blocks of all streams, in order."""
    _start()
    read = ray.data.read_datasource(Streams(streams), override_num_blocks=len(streams))
    yield from read.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)


def over_actors(work: pa.Table, actor: type, arguments: dict[str, Any]) -> Iterator[pa.Table]:
    """Each row of `work` through `actor(**arguments)(row as a table)`, in order; a row is one lump of work."""
    _start()
    size = min(work.num_rows, cluster.num_cpus())
    done = (
        ray.data.from_arrow(work)
        .repartition(work.num_rows)
        .map_batches(
            actor,
            fn_constructor_kwargs=arguments,
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=size),
            num_cpus=1,
        )
    )
    yield from done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)


def _start() -> None:
    cluster.connect()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.target_max_block_size = _BLOCK_BYTES
