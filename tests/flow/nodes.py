"""A Ray cluster of several nodes on this machine, for tests of what its loss of one does."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

from ray.cluster_utils import Cluster

from infra import cluster

_OBJECT_STORE_BYTES = 100 << 20
# A node that refuses to answer five times is gone: after 2.5 s, where Ray's own wait is 15 s.
_HEALTH_CHECKS = {"RAY_health_check_period_ms": "500"}


@contextmanager
def ray_nodes(cpus: Sequence[int], head_cpus: int) -> Iterator[Cluster]:
    """A head, and a node for each number of CPUs; on loopback alone, and with a token that this process's children
    find in their environment."""
    with (
        cluster.private() as folder,
        # Cluster would name itself, in a file that only a Ray with the default folder makes a folder for, the one that
        # `ray` commands of this machine find, and in the end remove that file, whosoever it is.
        patch("ray._private.utils.write_ray_address"),
        patch("ray._common.utils.reset_ray_address"),
        patch.dict(os.environ, _HEALTH_CHECKS),
    ):
        head = {"num_cpus": head_cpus, "object_store_memory": _OBJECT_STORE_BYTES, "temp_dir": str(folder / "r")}
        head |= {"include_dashboard": False}
        nodes = Cluster(initialize_head=True, head_node_args=head)
        try:
            for each in cpus:
                nodes.add_node(num_cpus=each, object_store_memory=_OBJECT_STORE_BYTES)
            yield nodes
        finally:
            nodes.shutdown()
