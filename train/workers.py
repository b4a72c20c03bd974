"""A fit job -> its outcome, from Ray Train's workers, each of which runs the training loop. [edge]"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import ray
from ray.train import LoggingConfig, Result, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from infra import cluster
from infra.errors import prerequisite
from infra.imports import pause_garbage_collection, skip_optional_imports
from train.job import FitJob, FitOutcome
from train.recipes import FitConfig
from train.rendezvous import LoopbackConfig

RAY_FOLDER = "ray"  # Ray Train's own folder below the job's folder, to be removed when the workers are done
_POLL_S = 0.5
_RAY_TRAIN = {
    # How soon Ray Train notices that the workers are done; its default is 2 seconds.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(_POLL_S),
    # A process that restarts the fit without a message when a node is about to be taken away.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ray notices up to 20 seconds late that a node is gone. Workers that wait for one to start give up after this time,
    # by default a minute, and Ray Train asks for fewer.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
}


def run_workers(job: FitJob, poll: Callable[[], None]) -> FitOutcome:
    """Run the workers until they are done, and call `poll` every half second meanwhile.

    Raises the worker's own error where it is one that the user must fix, and else WorkerGroupError.
    """
    done: Future[Result] = Future()
    # In a thread of its own: in the main thread Ray would handle Ctrl-C itself, and exit with success.
    threading.Thread(target=_settle, args=(done, make_trainer(job)), daemon=True).start()
    try:
        while not done.done():
            wait([done], timeout=_POLL_S)
            poll()
    except (KeyboardInterrupt, SystemExit):
        ray.shutdown()  # otherwise the process would end while the thread waits for Ray, and abort
        raise
    try:
        outcome: FitOutcome = done.result().return_value
    except WorkerGroupError as error:
        for failure in error.worker_failures.values():
            if cause := prerequisite(failure):
                raise cause from error
        raise
    return outcome


def _settle(future: Future[Result], trainer: TorchTrainer) -> None:
    try:
        future.set_result(trainer.fit())
    except BaseException as error:  # noqa: BLE001 - it is raised again in the main thread, whatever it is
        future.set_exception(error)


class TrainerWithoutCleaner(TorchTrainer):
    """Ray Train without two of its default callbacks.

    The cleaner of placement groups looks for our controller in whichever Ray it finds first on the machine. With a
    second Ray running it does not find it, takes our workers for orphans and kills them in the middle of a step. There
    is nothing for it to do: our placement groups end with the job. The callback for datasets starts a process, and a
    fit has no Ray datasets.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unwanted = (PlacementGroupCleanerCallback, DatasetsCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unwanted)]


def make_trainer(job: FitJob) -> TorchTrainer:
    """A Ray Train trainer with the workers that the config asks for; each of them runs the training loop."""
    config = job.config
    for name, value in _RAY_TRAIN.items():
        os.environ.setdefault(name, value)
    return TrainerWithoutCleaner(
        _run_loop,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=(config.min_workers, config.num_workers) if config.min_workers else config.num_workers,
            use_gpu=config.gpus_per_worker > 0,
            resources_per_worker={"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker},
        ),
        torch_config=LoopbackConfig() if cluster.is_on_loopback() else None,
        run_config=RunConfig(
            name=RAY_FOLDER,
            storage_path=str(job.folder),
            logging_config=LoggingConfig(log_level="CRITICAL"),
            worker_runtime_env={"env_vars": worker_environment(config)},
        ),
    )


def worker_environment(config: FitConfig) -> dict[str, str]:
    """Environment variables of a worker: its threads, and what makes its results repeatable and its memory dense."""
    threads = {"OMP_NUM_THREADS": str(config.cpus_per_worker)}
    if config.gpus_per_worker:
        # The workspace setting makes cuBLAS sum in the same order every time, which an exact resume needs. Expandable
        # segments avoid fragmentation by packs of different lengths, which had cost up to a third of the GPU's memory.
        return threads | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    # The training loop is not in the process's first thread, and OpenMP would let its threads sleep at each barrier.
    return threads | {"DS_ACCELERATOR": "cpu", "OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "100000"}


def _run_loop(loop_config: dict[str, Any]) -> FitOutcome:
    """What each worker runs. Imports the loop here, because the driver does not need the libraries below it."""
    with skip_optional_imports(), pause_garbage_collection():
        from train import loop

    return loop.fit(loop_config["job"])
