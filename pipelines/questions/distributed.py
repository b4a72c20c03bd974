"""Large sources -> blocks of rows, distributed over a cluster by Ray Data: a task of one CPU for each table or shard.
[edge]

Tasks hold nothing between each other. A pool of actors on every CPU would wait forever for a task that needs one of
those CPUs, and would not grow with the cluster. Small sources are read in the calling process, since the start of a
cluster would take longer than the work.
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
    """Streams of blocks, one task each. A table is one stream, because its cells may hold line breaks, so that only
    reading it tells where a row ends."""

    def __init__(self, streams: Sequence[Blocks]) -> None:
        self._streams = streams

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task for each stream."""
        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None)
        return [ReadTask(stream, unknown) for stream in self._streams]

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown before it is read."""
        return None


def blocks(streams: Sequence[Blocks]) -> Iterator[pa.Table]:
    """The blocks of all streams, in order; as many streams run at a time as the cluster has free CPUs."""
    cluster.connect()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.target_max_block_size = _BLOCK_BYTES
    read = ray.data.read_datasource(Streams(streams), override_num_blocks=len(streams))
    yield from read.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)
