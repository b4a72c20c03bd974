"""Plan -> accounts: Ray Data feeds the plan's batches to a pool of workers, each in an actor of its own. [edge]"""

import atexit
import logging
import math
import os
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray
import ray.data

from infra.errors import ArtifactError, ClusterError
from pipelines.inference.backends.backend import EngineDiedError
from pipelines.inference.request_set import Plan
from pipelines.inference.worker import Account, InferenceJob, StartBackend, Worker, batches_at_once, num_starts, start

_STDERR = 2
_DIED = 70  # exit code of an actor whose engine is gone; Ray starts it again
_MAX_STARTS = 20
_PAUSE_S = 5.0
_MAX_BLOCKS = 1000


class WorkerActor:
    """A worker in a Ray actor, which is given numbers of batches, and gives back what became of them."""

    def __init__(self, job: InferenceJob, start: StartBackend) -> None:
        # What engines are built on complains of itself when Python ends; nothing that matters is said by then.
        atexit.register(os.dup2, os.open(os.devnull, os.O_WRONLY), _STDERR)
        name = ray.get_runtime_context().get_actor_id()
        try:
            self._worker = Worker(job, name, start)
        except ClusterError:
            raise
        except Exception:
            # What the dead one's children hold, such as a GPU's memory, can take a while to be given back.
            if not 1 < num_starts(job, name) < _MAX_STARTS:
                raise
            time.sleep(_PAUSE_S)
            os._exit(_DIED)

    async def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Settle the batches of a plan; one JSON account for each."""
        try:
            return {"account": [(await self._worker.settle(int(number))).as_json() for number in batch["number"]]}
        except EngineDiedError:
            # An engine cannot be started twice in one process; Ray gives the next one the same batches.
            os._exit(_DIED)
        except ArtifactError as error:
            return {"account": [Account(stopped=str(error)).as_json()]}  # Ray Data would bury it in words of its own


def work_through(
    job: InferenceJob, plan: Plan, start: StartBackend = start, *, min_workers: int | None = None
) -> Iterator[Account]:
    """The account of each batch, in the order in which workers finish them.

    min_workers: with how many to begin, where their number may grow to engine.replicas with the cluster; None for all.
    Raises ArtifactError when the ledger takes no more.
    """
    engine = job.config.engine
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A full pool grows; Ray Data would wait until its engines had nearly twice the work that they are given.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    at_once = batches_at_once(job.config, plan)
    sizes = {"min_size": min_workers, "max_size": engine.replicas} if min_workers else {"size": engine.replicas}
    done = ray.data.from_blocks(_numbers(plan.num_batches)).map_batches(
        WorkerActor,
        fn_constructor_kwargs={"job": job, "start": start},
        batch_size=1,
        # Small batches, many at a time, and the next ones waiting beside the engine, so that it never runs empty.
        compute=ray.data.ActorPoolStrategy(
            **sizes, max_concurrent_calls_per_actor=at_once, max_tasks_in_flight_per_actor=at_once + 2
        ),
        num_cpus=engine.cpus,
        num_gpus=0 if job.config.endpoint else engine.gpus,
    )
    for row in done.iter_rows():
        account = Account.from_json(row["account"])
        if account.stopped:
            raise ArtifactError(account.stopped)
        yield account


def _numbers(num_batches: int) -> list[pa.Table]:
    """The numbers of all batches as blocks, one for each batch unless there are too many.

    Made here, since Ray Data would otherwise have a task read each of them, which costs as much as the batch. By
    `from_blocks`, since `from_arrow` would start two workers to look at the tables before it starts the engines'.
    """
    step = math.ceil(num_batches / _MAX_BLOCKS)
    return [pa.table({"number": range(start, min(start + step, num_batches))}) for start in range(0, num_batches, step)]
