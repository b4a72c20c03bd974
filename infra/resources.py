"""The workers that a stage asks a cluster for, and whether they fit on a cluster of a given shape. Imports no Ray.

A dry run's words, sums and placement groups are all made from this data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt


@dataclass(frozen=True, kw_only=True)
class ClusterShape:
    """The cluster that a recipe is made for: nodes of one kind. cpus, gpus, and GiB of each GPU: of one node."""

    nodes: Annotated[int, Gt(0)] = 1
    cpus: Annotated[int, Gt(0)]
    gpus: Annotated[int, Ge(0)] = 0
    gpu_memory_gib: Annotated[float, Gt(0)] | None = None

    def __str__(self) -> str:
        nodes = "1 node" if self.nodes == 1 else f"{self.nodes} nodes"
        return f"{nodes} of {amount(self.cpus, self.gpus)}"


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Workers of one kind that a stage runs at the same time; each has all of its CPUs and GPUs on one node.

    what: the user's word for them. count: how many are wanted; None for as many as the cluster has CPUs for. least: how
    many the stage needs to start; None for all of them.
    """

    what: str
    count: int | None = 1
    cpus: int = 1
    gpus: int = 0
    least: int | None = None

    @property
    def fewest(self) -> int:
        """How many the stage needs at least."""
        return self.least or self.count or 1

    def bundles(self) -> list[dict[str, float]]:
        """The placement group of one worker: a bundle for each GPU, as vLLM wants them, the CPUs in the first one."""
        if not self.gpus:
            return [{"CPU": float(self.cpus)}]
        return [{"CPU": float(self.cpus), "GPU": 1.0}, *({"GPU": 1.0} for _ in range(self.gpus - 1))]

    def __str__(self) -> str:
        if self.count is None:
            return f"{self.what}: {amount(self.cpus, self.gpus)} each, as many as there is room for"
        fewest = f"{self.fewest} to " if self.fewest < self.count else ""
        each = " each" if self.count > 1 else ""
        return f"{fewest}{self.count} {self.what}: {amount(self.cpus, self.gpus)}{each}"


def total(asked: Sequence[Workers]) -> tuple[int, int]:
    """CPUs and GPUs that these workers need at least, all together."""
    return sum(each.fewest * each.cpus for each in asked), sum(each.fewest * each.gpus for each in asked)


def lacking(shape: ClusterShape, asked: Sequence[Workers]) -> str | None:
    """Why workers that run at the same time do not fit on a cluster of this shape, in words; None when they fit.

    Sums are not enough: three workers of 3 GPUs do not fit on two nodes of 5. The largest workers are placed first,
    each on the first node that has room for it.
    """
    cpus, gpus = total(asked)
    if cpus > shape.nodes * shape.cpus or gpus > shape.nodes * shape.gpus:
        return (
            f"{amount(cpus, gpus)} in all, and {shape} has {amount(shape.nodes * shape.cpus, shape.nodes * shape.gpus)}"
        )
    free = [[shape.cpus, shape.gpus] for _ in range(shape.nodes)]
    for each in sorted(asked, key=lambda workers: (workers.gpus, workers.cpus), reverse=True):
        for _ in range(each.fewest):
            node = next((node for node in free if node[0] >= each.cpus and node[1] >= each.gpus), None)
            if node is None:
                one = amount(each.cpus, each.gpus)
                return f"{each}, and no node of {shape} has room for another {one} beside the rest"
            node[0] -= each.cpus
            node[1] -= each.gpus
    return None


def amount(cpus: int, gpus: int) -> str:
    """CPUs and GPUs in words."""
    named = [f"{count} {name}{'s' * (count != 1)}" for count, name in ((cpus, "CPU"), (gpus, "GPU")) if count]
    return " and ".join(named) or "nothing"


def words(asked: Sequence[Workers]) -> str:
    """What a stage asks for, in one line."""
    return "; ".join(map(str, asked))
